"""The trajectories of points under a neural ODE or a normalizing flow."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from .axes import INK, check_axes, class_colour, find_axes
from .checks import check_labels, check_points
from .paths import check_flow, paths_of, times_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def flow(
    model: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    times: ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the trajectories of points from the input of a `NeuralODE` to its output.

    Of a `CNF` they go from the base to the data.

    The first two coordinates are drawn; an augmented model has others, so its trajectories may
    cross in the figure.

    **Arguments:**

    - `model`: a `NeuralODE`, a `CNF`, or a module with `flow_map = True`, the times `t0` and `t1`,
      and `solve(x, times)`, whose `Solution` has `ys` of shape `(n, m, features)`.
    - `X`: points, shape `(n, features)`. `y`: their classes, integers of shape `(n,)`, or None.
    - `times`: the times of each trajectory, increasing, shape `(m,)`; 40 from `model.t0` to
      `model.t1` if None.
    - `ax`: where to draw; a new figure if None.

    **Returns:** the Axes.

    **Raises:** `DataError` for points or labels of other shapes; `OptionError` for another model,
    or if matplotlib is missing; `TimesError` for bad times.
    """
    check_flow(model)
    X = check_points(X)
    labels = None if y is None else check_labels(y, len(X))
    check_axes(ax)
    paths = paths_of(model, X, times_of(model, times, 40))
    ax = find_axes(ax)
    _draw_paths(ax, paths, labels)
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    ax.autoscale_view()
    ax.legend(loc="best", framealpha=0.9)
    return ax


def _draw_paths(ax: "Axes", paths: np.ndarray, labels: np.ndarray | None) -> None:
    from matplotlib.collections import LineCollection

    if labels is None:
        colours = [class_colour(0)] * len(paths)
    else:
        colours = [class_colour(label) for label in labels]
    # Many paths overlap, so each is drawn fainter.
    alpha = float(np.clip(60 / len(paths), 0.12, 0.6))
    ax.add_collection(LineCollection(list(paths), colors=colours, linewidths=0.7, alpha=alpha))
    start, end = paths[:, 0], paths[:, -1]
    ax.scatter(*start.T, s=14, facecolors="white", edgecolors=colours, linewidths=0.9, zorder=2)
    ax.scatter(*end.T, s=16, c=colours, edgecolors="white", linewidths=0.3, zorder=3)
    _add_legend_entries(ax, labels)


def _add_legend_entries(ax: "Axes", labels: np.ndarray | None) -> None:
    """Add legend entries by empty artists, for the drawn ones have the colours of all classes."""
    style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5}
    ax.plot([], [], markerfacecolor="white", markeredgecolor=INK, label="input", **style)
    ax.plot([], [], color=INK, label="output", **style)
    for label in [] if labels is None else np.unique(labels):
        ax.plot([], [], color=class_colour(label), linewidth=2, label=f"class {label}")
