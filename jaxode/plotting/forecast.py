"""A series with a model fitted to its first part and the forecast of the rest."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import ArrayLike

from ..problem.errors import OptionError
from .axes import COLOURS, INK, find_axes
from .checks import check_array, check_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[ArrayLike, ArrayLike]
DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (3, 1)))


def forecast(
    ts: ArrayLike,
    truth: ArrayLike,
    prediction: Curve,
    split: float,
    baselines: Mapping[str, Curve] | None = None,
    ax: "Axes | None" = None,
    *,
    label: str = "model",
) -> "Axes":
    """Draw a series and the curve of a model that was fitted up to `split`, a forecast after it.

    Points up to and at `split` are filled, those after it hollow; the span of the forecast is
    shaded, and the model's curve there is heavier than in the fitted span.

    **Arguments:**

    - `ts`, `truth`: the times and the values of the series, shapes `(n,)`.
    - `prediction`: the model's `(times, values)`, shapes `(m,)`, increasing in time.
    - `split`: the last time that was fitted.
    - `baselines`: other forecasts by name, each `(times, values)`.
    - `ax`: where to draw; a new figure if None. `label`: the model's name.

    **Returns:** the Axes.

    **Raises:** `DataError` for shapes that do not match; `OptionError` for a `split` outside
    `ts`, or if matplotlib is missing.
    """
    ts = check_array("ts", ts, (None,))
    truth = check_array("truth", truth, ts.shape)
    curve = _check_curve("prediction", prediction)
    baseline_curves = {name: _check_curve(name, other) for name, other in (baselines or {}).items()}
    split = check_number("split", split)
    if not ts.min() <= split < ts.max():
        raise OptionError(f"split must lie in ts, from {ts.min():g} to {ts.max():g}, got {split:g}")
    ax = find_axes(ax)
    ax.axvspan(split, float(max(ts.max(), curve[0].max())), color=INK, alpha=0.07, linewidth=0)
    for (name, other), style in zip(
        baseline_curves.items(), _baseline_styles(len(baseline_curves)), strict=True
    ):
        ax.plot(*other, color=style[0], linestyle=style[1], linewidth=1.4, label=name)
    _draw_model(ax, *curve, split, label)
    _draw_truth(ax, ts, truth, split)
    ax.set(xlabel="$t$", ylabel="$y$")
    ax.legend(loc="best", framealpha=0.9)
    return ax


def _check_curve(name: str, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(curve, tuple | list) or len(curve) != 2:
        raise OptionError(f"{name} must be a pair (times, values), got {type(curve).__name__}")
    times = check_array(f"the times of {name}", curve[0], (None,))
    return times, check_array(f"the values of {name}", curve[1], times.shape)


def _baseline_styles(count: int) -> list[tuple[str, tuple]]:
    """The colours and dashes of the baselines; the first colour is the model's."""
    others = COLOURS[1:]
    return [(others[i % len(others)], DASHES[i % len(DASHES)]) for i in range(count)]


def _draw_model(ax: "Axes", ts: np.ndarray, ys: np.ndarray, split: float, label: str) -> None:
    fitted, forecast = ts <= split, ts >= split
    ax.plot(ts[fitted], ys[fitted], color=COLOURS[0], linewidth=1.4, label=f"{label}, fitted")
    ax.plot(ts[forecast], ys[forecast], color=COLOURS[0], linewidth=2.8, label=f"{label}, forecast")


def _draw_truth(ax: "Axes", ts: np.ndarray, truth: np.ndarray, split: float) -> None:
    fitted = ts <= split
    ax.scatter(ts[fitted], truth[fitted], s=26, color=INK, zorder=4, label="data, fitted")
    ax.scatter(
        ts[~fitted], truth[~fitted], s=26, facecolors="white", edgecolors=INK, zorder=4,
        label="data, held out",
    )  # fmt: skip
