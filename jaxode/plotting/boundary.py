"""The decision boundary of a classifier in the plane."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from ..problem.errors import DataError
from ..problem.validation import check_level
from .axes import INK, check_axes, class_colour, find_axes
from .checks import check_array, check_at_points, check_labels, check_points, check_resolution

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def decision_boundary(
    model: Callable[[Array], Array],
    X: ArrayLike,
    y: ArrayLike,
    ax: "Axes | None" = None,
    *,
    resolution: int = 200,
    margin: float = 0.08,
) -> "Axes":
    """Draw the points `X` over the regions where each class has the largest logit.

    **Arguments:**

    - `model`: maps a point of two features to logits, shape `(classes,)`. With an attribute
      `batched = True`, as the models of `jo.nn` have, it is called on all points at once, else
      mapped over them by `vmap`.
    - `X`: points, shape `(n, 2)`. `y`: their classes, integers of shape `(n,)`, counted from 0.
    - `ax`: where to draw; a new figure if None.
    - `resolution`: points of the grid along each axis. `margin`: the space around the points, as
      a fraction of their extent.

    **Returns:** the Axes.

    **Raises:** `DataError` for points, labels or logits of other shapes; `OptionError` for other
    options, or if matplotlib is missing.
    """
    X = check_array("X", check_points(X), (None, 2))
    labels = check_labels(y, len(X))
    resolution = check_resolution(resolution)
    check_level("margin", margin)
    check_axes(ax)
    xs, ys = (np.linspace(*limits_of(column, margin), resolution) for column in X.T)
    grid = np.stack([a.ravel() for a in np.meshgrid(xs, ys)], axis=-1)
    logits = _grid_logits(model, grid)
    ax = find_axes(ax)
    _draw_regions(ax, xs, ys, logits.reshape(resolution, resolution, -1))
    for label in np.unique(labels):
        points = X[labels == label]
        colour, name = class_colour(label), f"class {label}"
        ax.scatter(*points.T, s=14, color=colour, edgecolors="white", linewidths=0.4, label=name)
    ax.set(xlabel="$x_1$", ylabel="$x_2$", xlim=xs[[0, -1]], ylim=ys[[0, -1]], aspect="equal")
    ax.legend(loc="upper right", framealpha=0.9)
    return ax


def limits_of(column: np.ndarray, margin: float) -> tuple[float, float]:
    """The limits of an axis that hold a column of points, and a margin around them."""
    low, high = float(column.min()), float(column.max())
    # Points on a line parallel to an axis still need a region of positive area.
    padding = margin * (high - low) if high > low else 0.5
    return low - padding, high + padding


def _grid_logits(model: Callable[[Array], Array], points: np.ndarray) -> np.ndarray:
    batched = getattr(model, "batched", False)
    call = model if batched else lambda x: jax.vmap(model)(x)
    shape = check_at_points("the model", model, points.shape, call)
    if len(shape) != 2 or shape[0] != len(points) or shape[1] < 2:
        raise DataError(
            f"the model must return the logits of two classes or more, shape ({len(points)}, "
            f"classes) on {len(points)} points, got {shape}"
        )
    x = jnp.asarray(points, jnp.result_type(float))
    logits = np.asarray(model(x) if batched else _batched_logits(model, x))
    bad = np.argwhere(~np.isfinite(logits))
    if bad.size:
        raise DataError(f"the model's logits are not finite at the point {points[bad[0][0]]}")
    return logits


@eqx.filter_jit
def _batched_logits(model: Callable[[Array], Array], x: Array) -> Array:
    return jax.vmap(model)(x)


def _draw_regions(ax: "Axes", xs: np.ndarray, ys: np.ndarray, logits: np.ndarray) -> None:
    from matplotlib.colors import to_rgb

    regions = np.argmax(logits, axis=-1)
    colours = np.array([to_rgb(class_colour(k)) for k in range(logits.shape[-1])])
    tints = 1 - 0.28 * (1 - colours)
    extent = (xs[0], xs[-1], ys[0], ys[-1])
    ax.imshow(tints[regions], extent=extent, origin="lower", aspect="auto", zorder=0)
    for label in np.unique(regions)[1:]:
        # The margin of a class is continuous across its boundary, so its contour has no steps.
        class_margin = logits[..., label] - np.delete(logits, label, axis=-1).max(-1)
        ax.contour(xs, ys, class_margin, levels=[0.0], colors=INK, linewidths=0.8, zorder=1)
