"""A series with a model fitted to its first part and the forecast of the rest."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from ..problem.errors import OptionError
from ..problem.validation import shown_value
from .axes import COLOURS, INK, find_axes, find_panels
from .band import Band, check_band, draw_band
from .checks import check_array, check_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[ArrayLike, ArrayLike]
DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (3, 1)))


def forecast(
    ts: ArrayLike,
    truth: ArrayLike,
    prediction: Curve | None = None,
    split: float | None = None,
    baselines: Mapping[str, Curve] | None = None,
    ax: "Axes | Sequence[Axes] | np.ndarray | None" = None,
    *,
    label: str = "model",
    band: Band | None = None,
    quantiles: tuple[float, float] = (0.05, 0.95),
) -> Any:
    """Draw a series and the curve of a model that was fitted up to `split`, a forecast after it.

    Points up to and at `split` are filled, those after it hollow; the span of the forecast is
    shaded, and the model's curve there is heavier than in the fitted span. What is not given, or
    has no points, is neither drawn nor in the legend.

    **Arguments:**

    - `ts`: the times of the series, shape `(n,)`. `truth`: its values, shape `(n,)`, or of several
      channels `(n, channels)`, which are drawn one above the other.
    - `prediction`: the model's `(times, values)`, shapes `(m,)` and `(m,)` or `(m, channels)`,
      increasing in time; None for the series alone.
    - `split`: the last time that was fitted; None if all was, so that nothing is a forecast.
    - `baselines`: other forecasts by name, each `(times, values)`.
    - `ax`: where to draw, of several channels one for each; a new figure if None. `label`: the
      model's name.
    - `band`: how far the model may be off, at the times of `prediction`: a pair `(lower, upper)`,
      each of the shape of its values; or samples of forecasts, an array of shape `(samples, m)` or
      `(samples, m, channels)`, three or more, of which the `quantiles` are drawn.

    **Returns:** the Axes, of several channels an array of them, shape `(channels,)`.

    **Raises:** `DataError` for shapes that do not match; `OptionError` for a `split` outside
    `ts`, for a band without a prediction, for another number of Axes than of channels, or if
    matplotlib is missing.
    """
    ts = check_array("ts", ts, (None,))
    shape = (len(ts), None) if np.ndim(truth) == 2 else (len(ts),)
    truth = check_array("truth", truth, shape)
    channels = truth.shape[1:]
    curve = None if prediction is None else _check_curve("prediction", prediction, channels)
    if baselines is not None and not isinstance(baselines, Mapping):
        raise OptionError(f"baselines must be a dict by name, got {type(baselines).__name__}")
    if not isinstance(label, str):
        raise OptionError(f"label must be a string, got {shown_value(label)}")
    others = {name: _check_curve(name, o, channels) for name, o in (baselines or {}).items()}
    end = _check_split(split, ts)
    edges, text = check_band(band, quantiles, None if curve is None else curve[1])
    panels = find_panels(ax, channels[0]) if channels else [find_axes(ax)]
    for i, panel in enumerate(panels):
        own = (..., i) if channels else ...
        rows = {name: (times, values[own]) for name, (times, values) in others.items()}
        model = None if curve is None else (curve[0], curve[1][own])
        _draw_panel(panel, (ts, truth[own]), model, end, rows, label)
        if curve is not None and edges is not None:
            draw_band(panel, curve[0], edges[0][own], edges[1][own], f"{label}, {text}")
        panel.set(xlabel="$t$", ylabel=f"$y_{{{i + 1}}}$" if channels else "$y$")
        if channels and i + 1 < len(panels):
            panel.set(xlabel="")
    panels[0].legend(loc="best", framealpha=0.9)
    return np.array(panels, object) if channels else panels[0]


def _draw_panel(
    ax: "Axes",
    series: tuple[np.ndarray, np.ndarray],
    model: tuple[np.ndarray, np.ndarray] | None,
    split: float,
    baselines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    label: str,
) -> None:
    """Draw one channel: the shaded span, the baselines, the model's curve and the points."""
    last = max(times.max() for times, _ in (series, model or series))
    if last > split:
        ax.axvspan(split, float(last), color=INK, alpha=0.07, linewidth=0)
    for (name, other), style in zip(
        baselines.items(), _baseline_styles(len(baselines)), strict=True
    ):
        ax.plot(*other, color=style[0], linestyle=style[1], linewidth=1.4, label=name)
    if model is not None:
        _draw_model(ax, *model, split, label)
    _draw_truth(ax, *series, split)


def _check_curve(
    name: str, curve: Curve, channels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(curve, tuple | list) or len(curve) != 2:
        raise OptionError(f"{name} must be a pair (times, values), got {type(curve).__name__}")
    times = check_array(f"the times of {name}", curve[0], (None,))
    return times, check_array(f"the values of {name}", curve[1], (*times.shape, *channels))


def _check_split(split: float | None, ts: np.ndarray) -> float:
    """The last fitted time, infinite if there is no forecast. **Raises:** `OptionError`."""
    if split is None:
        return float("inf")
    split = check_number("split", split)
    if not ts.min() <= split < ts.max():
        raise OptionError(f"split must lie in ts, from {ts.min():g} to {ts.max():g}, got {split:g}")
    return split


def _baseline_styles(count: int) -> list[tuple[str, tuple]]:
    """The colours and dashes of the baselines; the first colour is the model's."""
    others = COLOURS[1:]
    return [(others[i % len(others)], DASHES[i % len(DASHES)]) for i in range(count)]


def _draw_model(ax: "Axes", ts: np.ndarray, ys: np.ndarray, split: float, label: str) -> None:
    """Draw the parts of the model's curve that have two points or more, which a line needs."""
    if ts[0] < split < ts[-1] and split not in ts:  # both parts go up to the split
        place = int(np.searchsorted(ts, split))
        ys = np.insert(ys, place, np.interp(split, ts, ys))
        ts = np.insert(ts, place, split)
    for part, width, name in ((ts <= split, 1.4, "fitted"), (ts >= split, 2.8, "forecast")):
        if part.sum() > 1:
            name = label if split == float("inf") else f"{label}, {name}"
            ax.plot(ts[part], ys[part], color=COLOURS[0], linewidth=width, label=name)


def _draw_truth(ax: "Axes", ts: np.ndarray, truth: np.ndarray, split: float) -> None:
    for part, colour, name in ((ts <= split, INK, "fitted"), (ts > split, "white", "held out")):
        if part.any():
            name = "data" if split == float("inf") else f"data, {name}"
            ax.scatter(
                ts[part], truth[part], s=26, facecolors=colour, edgecolors=INK, zorder=4, label=name
            )
