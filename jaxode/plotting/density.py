"""The density of a model in the plane."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from ..problem.errors import CALL_ERRORS, DataError, FieldError, OptionError, own_error
from ..problem.validation import check_level, shown_value
from .axes import COLOURS, check_axes, find_axes
from .boundary import limits_of
from .checks import check_array, check_limits, check_resolution

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def density(
    model: Any,
    X: ArrayLike | None = None,
    ax: "Axes | None" = None,
    *,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    resolution: int = 100,
    margin: float = 0.08,
) -> "Axes":
    """Draw the density of a model of two features, the darker the denser, with samples over it.

    **Arguments:**

    - `model`: a `CNF`, or anything with `log_prob(points)`; or a function of points, shape
      `(n, 2)`, that returns their log densities, shape `(n,)`, such as `score_samples` of a mixture
      of scikit-learn, or `lambda x: flow.log_prob(x, args)` of a conditional flow.
    - `X`: samples to draw as dots, shape `(n, 2)`, or None.
    - `ax`: where to draw; a new figure if None.
    - `xlim`, `ylim`: pairs `(low, high)`; by default they hold the samples and a `margin` around
      them, as a fraction of their extent.
    - `resolution`: points of the grid along each axis.

    **Returns:** the Axes; the density is its first image, in inverse units of the plane's area.

    **Raises:** `DataError` for samples or log densities of other shapes, or NaN among them;
    `FieldError` for a model that cannot be called; `OptionError` for other options, without both
    samples and limits, or if matplotlib is missing.
    """
    log_density = _log_density_of(model)
    points = None if X is None else check_array("X", X, (None, 2))
    check_level("margin", margin)
    xlim, ylim = _limits(points, xlim, ylim, margin)
    resolution = check_resolution(resolution)
    check_axes(ax)
    xs, ys = np.linspace(*xlim, resolution), np.linspace(*ylim, resolution)
    grid = np.stack([a.ravel() for a in np.meshgrid(xs, ys)], axis=-1)
    values = _on_grid(log_density, grid).reshape(resolution, resolution)
    ax = find_axes(ax)
    extent = (*xlim, *ylim)
    ax.imshow(np.exp(values), extent=extent, origin="lower", cmap="Blues", vmin=0.0, zorder=0)
    if points is not None:
        ax.scatter(*points.T, s=2, color=COLOURS[1], linewidths=0, alpha=0.6)
    ax.set(xlabel="$x_1$", ylabel="$x_2$", xlim=xlim, ylim=ylim, aspect="equal")
    return ax


def _log_density_of(model: Any) -> Callable[[np.ndarray], Any]:
    function = getattr(model, "log_prob", model)
    if not callable(function) or isinstance(model, type):
        raise FieldError(
            "model must have log_prob(points), or be a function of points, got "
            f"{shown_value(model)}"
        )
    return function


def _limits(
    points: np.ndarray | None, xlim: Any, ylim: Any, margin: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The limits of both axes: the user's, or else those of the samples."""
    found = []
    for i, (name, limits) in enumerate((("xlim", xlim), ("ylim", ylim))):
        if limits is not None:
            found.append(check_limits(name, limits))
        elif points is not None:
            found.append(limits_of(points[:, i], margin))
        else:
            raise OptionError(f"density needs {name}=(low, high) where there are no samples X")
    return found[0], found[1]


def _on_grid(log_density: Callable[[np.ndarray], Any], grid: np.ndarray) -> np.ndarray:
    try:
        values = np.asarray(log_density(grid), float)
    except CALL_ERRORS as error:
        raise own_error(error) or FieldError(
            f"calling the model's log density on points failed: {error}"
        ) from error
    if values.shape != (len(grid),):
        raise DataError(
            f"the model must return log densities of shape ({len(grid)},) on {len(grid)} points, "
            f"got {values.shape}"
        )
    bad = np.argwhere(np.isnan(values))
    if bad.size:
        raise DataError(f"the model's log density is NaN at the point {grid[bad[0][0]]}")
    return values
