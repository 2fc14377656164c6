"""Controlled differential equations: the field along a path, its kinks, and `cdeint`."""

from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import ArrayLike, Float, PyTree

from ..integrate.solution import Solution
from ..problem.errors import DataError, FieldError, OptionError
from ..problem.field import call_field
from ..problem.validation import real_array, shown_value
from ..solvers.prescribed_steps import Grid
from .batch_axes import merge, num_axes, part
from .batched_solve import solve_samples
from .controls import Control, RectilinearInterpolation
from .solve_options import Settings, SolveOptions


def cdeint(
    control: Any,
    field: Callable[..., Array],
    z0: Float[ArrayLike, "*batch hidden"],
    ts: Float[ArrayLike, " times"] | tuple[ArrayLike, ...] | list[ArrayLike],
    args: PyTree = None,
    *,
    key: Array | None = None,
    **options: Unpack[SolveOptions],
) -> Float[Array, "*batch times hidden"]:
    """The states at `ts` of the controlled equation `dz = field(t, z) dX` with `z(ts[0]) = z0`.

    **Arguments:**

    - `control`: the path X, such as `HermiteInterpolation(ts, xs)`, or an object with a method
      `derivative(t)`, shape `(channels,)`. For a batch its arrays have the axes of the batch first,
      as `jax.vmap` and `NeuralCDE.path` make them; a path of one sample is shared.
    - `field`: a network or function of `(z)`, `(t, z)` or `(t, z, args)` for one sample; its output
      is the matrix `(hidden, channels)`, or as many numbers in a row.
    - `z0`: the initial state, of one sample or with one batch axis or several.
    - `ts`: times, those of all samples, monotone. Of "rectilinear" paths they are those of the
      observations, not of the path's parameter.
    - `args`: passed to `field`. `key`: for what the field draws once per solve, such as dropout.
    - `solver`, `rtol`, `atol`, `dt`, `controller`, `sensitivity`, `max_steps`, `throw`,
      `progress`: as in `solve`, but `rtol` is 1e-3 by default.

    **Raises:** `OptionError`, `FieldError` and `DataError` for a path, field and state that are
    none, and what `solve` raises.

    Source: Kidger et al. (2020), arXiv 2005.08926; the arguments are those of torchcde's `cdeint`.
    """
    settings, state = Settings(options), _check_inputs(control, field, z0)
    batch, own_path = state.shape[:-1], not isinstance(control, Control) or control.knots.ndim > 1
    if len(batch) > 1:
        state = merge(state, len(batch))
        control = jax.tree.map(lambda x: merge(x, len(batch)), control) if own_path else control
    times: Any = ts
    if isinstance(control, RectilinearInterpolation):
        times = _path_times(control, jnp.asarray(ts))
    axes = (0, 0 if num_axes(times) > 1 else None, (0 if own_path else None, None))
    in_axes = axes if batch else None
    driving = control, args
    ys = solve_cde(field, state, times, driving, settings, in_axes=in_axes, key=key).ys
    return part(ys, batch) if len(batch) > 1 else ys


def solve_cde(
    field: Callable[..., Array],
    z0: Array,
    ts: Any,
    driving: tuple[Any, PyTree],
    settings: Settings,
    *,
    in_axes: Any = None,
    key: Array | None = None,
) -> Solution:
    """Solve `dz = field(t, z, args) dX` for one sample or a batch; `driving`: `(control, args)`."""
    jumps = _jump_options(driving[0], settings)
    driven = _DrivenField(field)
    return solve_samples(driven, z0, ts, driving, settings, in_axes=in_axes, key=key, **jumps)


class _DrivenField(eqx.Module):
    """The field of the hidden state, `field(t, z, args)` times the derivative of the path."""

    field: Callable[..., Array]

    def __call__(self, t: Array, z: Array, driving: tuple[Any, PyTree]) -> Array:
        control, args = driving
        velocity = control.derivative(t)
        matrix = call_field(self.field, t, z, args)
        shape = z.shape[0], velocity.shape[0]
        if jnp.size(matrix) != shape[0] * shape[1]:
            raise FieldError(
                f"the field of a CDE must return a matrix of shape {shape}, hidden by channels "
                f"that drive it, or as many numbers in a row; got shape {jnp.shape(matrix)}"
            )
        return matrix.reshape(shape) @ velocity


def _jump_options(control: Any, settings: Settings) -> dict[str, Array]:
    """The option `jumps` of `solve` for a path with kinks, so that a step ends on each of them.

    Steps over kinks would be rejected; the price is that the events' part is compiled too.
    """
    kinks = isinstance(control, Control) and not control.smooth
    if not kinks or isinstance(settings.controller, Grid) or not settings.sensitivity.one_pass:
        return {}
    jump_options = {"jumps": control.knots[..., 1:-1]}
    adaptive = settings.solver.error_exponent is not None and settings.controller is None
    if adaptive and settings.dt is None:  # first try the whole piece after a kink
        longest_piece = lax.stop_gradient(jnp.max(jnp.diff(control.knots, axis=-1)))
        jump_options["dt"] = jnp.where(longest_piece > 0, longest_piece, 1)
    return jump_options


def _path_times(control: Control, ts: Array) -> Array:
    """The path's parameter at times of all samples; of a batch one row for each sample."""
    if control.knots.ndim == 1:
        return jax.vmap(control.path_time)(ts)
    return jax.vmap(lambda path: jax.vmap(path.path_time)(ts))(control)


def _check_inputs(control: Any, field: Any, z0: Any) -> Array:
    """Check path, field and state, and return the state as an array.

    **Raises:** `OptionError`, `FieldError` and `DataError`.
    """
    if not callable(getattr(control, "derivative", None)) or isinstance(control, type):
        raise OptionError(
            "control must be a path such as HermiteInterpolation(ts, xs), with a method "
            f"derivative(t), got {shown_value(control)}"
        )
    if not callable(field) or isinstance(field, type):
        raise FieldError(f"the field must be a callable such as a network, got {field!r}")
    state = jnp.asarray(real_array("z0", z0, DataError))
    if state.ndim == 0 or state.size == 0:
        raise DataError(f"z0 must be a state (hidden,) or a batch of them, got {state.shape}")
    return state
