"""The phase portrait of a field in the plane."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from ..problem.errors import DataError, FieldError
from ..problem.field import call_field
from ..problem.validation import check_positive
from .axes import COLOURS, FAINT, check_axes, find_axes
from .checks import check_array, check_at_points, check_limits, check_resolution

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def phase_portrait(
    field: Callable[..., Array],
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    trajectories: Mapping[str, ArrayLike] | Sequence[ArrayLike] = (),
    ax: "Axes | None" = None,
    *,
    resolution: int = 30,
    density: float = 1.0,
) -> "Axes":
    """Draw the streamlines of a field of two variables, and trajectories over them.

    **Arguments:**

    - `field`: a function of `(y)`, `(t, y)` or `(t, y, args)` for one state of shape `(2,)`, which
      returns its rate of change; taken at `t = 0` with `args = None`.
    - `xlim`, `ylim`: the limits of the axes, pairs `(low, high)`.
    - `trajectories`: arrays of shape `(times, 2)`, by name for entries in the legend. A dot marks
      each one's start.
    - `ax`: where to draw; a new figure if None.
    - `resolution`: points along each axis at which the field is evaluated. `density`: that of the
      streamlines, as in matplotlib's `streamplot`.

    **Returns:** the Axes.

    **Raises:** `FieldError` for a field that cannot be called or returns another shape; `DataError`
    for trajectories of other shapes; `OptionError` for other options, or if matplotlib is missing.
    """
    xlim, ylim = check_limits("xlim", xlim), check_limits("ylim", ylim)
    resolution = check_resolution(resolution)
    check_axes(ax)
    check_positive("density", density, none=False)
    curves = _named_curves(trajectories)
    xs, ys = np.linspace(*xlim, resolution), np.linspace(*ylim, resolution)
    rates = _grid_rates(field, np.stack(np.meshgrid(xs, ys), axis=-1))
    ax = find_axes(ax)
    ax.streamplot(
        xs, ys, rates[..., 0], rates[..., 1], color=FAINT, density=density, linewidth=0.6,
        arrowsize=0.8,
    )  # fmt: skip
    for number, (name, curve) in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(*curve.T, color=colour, linewidth=1.8, label=name)
        ax.plot(*curve[0], color=colour, marker="o", markersize=6)
    ax.set(xlabel="$y_1$", ylabel="$y_2$", xlim=xlim, ylim=ylim)
    if any(name is not None for name, _ in curves):
        ax.legend(loc="best", framealpha=0.9)
    return ax


def _named_curves(trajectories: Any) -> list[tuple[str | None, np.ndarray]]:
    if isinstance(trajectories, Mapping):
        pairs = [(str(name), curve) for name, curve in trajectories.items()]
    elif isinstance(trajectories, Sequence) or (
        isinstance(trajectories, np.ndarray | Array) and np.ndim(trajectories)
    ):
        pairs = [(None, curve) for curve in trajectories]
    else:
        kind = type(trajectories).__name__
        raise DataError(f"trajectories must be a sequence of arrays or a dict of them, got {kind}")
    return [
        (name, check_array("a trajectory (in a list or dict)", curve, (None, 2)))
        for name, curve in pairs
    ]


def _grid_rates(field: Callable[..., Array], states: np.ndarray) -> np.ndarray:
    points = jnp.asarray(states.reshape(-1, 2), jnp.result_type(float))
    shape = check_at_points("field", field, points.shape, lambda x: _rates(field, x))
    if shape != points.shape:
        raise FieldError(f"field must return shape (2,) for a state of shape (2,), got {shape[1:]}")
    return np.asarray(_compiled_rates(field, points)).reshape(states.shape)


@eqx.filter_jit
def _compiled_rates(field: Callable[..., Array], points: Array) -> Array:
    return _rates(field, points)


def _rates(field: Callable[..., Array], points: Array) -> Array:
    t = jnp.zeros((), points.dtype)
    return jax.vmap(lambda y: call_field(field, t, y, None))(points)
