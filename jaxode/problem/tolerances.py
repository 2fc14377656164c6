"""Validation of relative and absolute tolerances."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from .errors import CALL_ERRORS, ToleranceError, ToleranceWarning, warn_user
from .staging import as_array
from .state import Packing, is_complex, is_traced
from .validation import is_real, shown_value


def check_tolerance(name: str, value: Any, packing: Packing, y0: PyTree) -> Array:
    """Validate a tolerance and make it a scalar, or an array with the packed state's shape.

    `value` is a number, or a pytree whose leaves broadcast against those of `y0`.

    **Raises:** `ToleranceError`. **Warns:** `ToleranceWarning` if it is a relative tolerance that
    is finer than the state's precision resolves.
    """
    leaves = _tolerance_leaves(name, value)
    try:
        if type(value) is float or (jax.tree_util.all_leaves([value]) and jnp.ndim(value) == 0):
            tolerance = as_array(leaves[0], packing.real_dtype)
        else:
            spread = jax.tree.map(lambda v, y: _spread(v, jnp.shape(y)), value, y0)
            real = jax.tree.map(lambda v: jnp.asarray(v, packing.real_dtype), spread)
            tolerance = _packed(real, packing, y0)
    except CALL_ERRORS as error:
        shapes = jax.tree.map(jnp.shape, y0)
        raise ToleranceError(
            f"{name} must be a number or broadcast against y0 of shapes {shapes}: {error}"
        ) from error
    if not is_traced(value):
        _check_tolerance_values(name, leaves, packing)
    return tolerance


def _packed(tolerance: PyTree, packing: Packing, y0: PyTree) -> Array:
    """A tolerance like `y0`, packed; where states are packed in parts, it is that of both parts."""
    if not packing.in_parts:
        return Packing.of(tolerance).pack(tolerance)
    both = lambda v, y: jax.lax.complex(v, v) if is_complex(y.dtype) else v  # noqa: E731
    return packing.pack(jax.tree.map(both, tolerance, y0))


def _spread(value: Any, shape: tuple[int, ...]) -> Array:
    """A tolerance of the shape of a part of the state. **Raises:** `ValueError`."""
    # JAX would compile a program before it raises.
    if np.broadcast_shapes(np.shape(value), shape) != shape:
        raise ValueError(f"shape {np.shape(value)} does not broadcast to {shape}")
    return jnp.broadcast_to(value, shape)


def _tolerance_leaves(name: str, value: PyTree) -> list[Any]:
    """The numbers and arrays in a tolerance. **Raises:** `ToleranceError` for anything else."""
    if type(value) is float:
        return [value]
    leaves = jax.tree.leaves(value)
    for leaf in leaves:
        number = isinstance(leaf, int | float) and not isinstance(leaf, bool)
        array = isinstance(leaf, jax.Array | np.ndarray | np.generic) and is_real(leaf.dtype)
        if not (number or array):
            shown = f"{shown_value(leaf)}, a {type(leaf).__name__}"
            raise ToleranceError(f"{name} must be a number or an array of numbers, got {shown}")
    if not leaves:
        raise ToleranceError(f"{name} must be a number or an array of numbers, got {value!r}")
    return leaves


def _check_tolerance_values(name: str, leaves: list[Any], packing: Packing) -> None:
    values = [np.asarray(leaf, np.float64) for leaf in leaves]
    least = min([float(x.min(initial=np.inf)) for x in values])
    most = max([float(x.max(initial=0.0)) for x in values])
    # Some components may have an infinite absolute tolerance: they do not control the steps.
    if not (least >= 0 and (least if name == "atol" else most) < np.inf):
        numbers = [number for x in values for number in x.reshape(-1).tolist()]
        kind = "finite" if least >= 0 else "non-negative"
        raise ToleranceError(f"{name} must be a {kind} number, got {shown_value(numbers)}")
    finest = packing.finest_tolerance
    if name == "rtol" and 0 < least < finest:
        warn_user(
            f"rtol={least:.3g} is finer than {packing.real_dtype} resolves, about "
            f"{finest:.1g}: expect many steps and no gain; use float64 or loosen rtol",
            ToleranceWarning,
        )


def check_tolerance_of_batch(
    name: str, value: PyTree, mapped: PyTree, packing: Packing, y0: PyTree
) -> Array:
    """Validate a tolerance of a batch, whose `mapped` leaves have a first axis of trajectories.

    `y0` is the state of one trajectory. The result has the axis of trajectories if any leaf does.

    **Raises** and **warns** as `check_tolerance`.
    """
    leaves, flags = _tolerance_leaves(name, value), jax.tree.leaves(mapped)
    if not any(flags):
        return check_tolerance(name, value, packing, y0)
    if not is_traced(value):
        _check_tolerance_values(name, leaves, packing)
    axes = jax.tree.map(lambda flag: 0 if flag else None, mapped)
    pack = jax.vmap(lambda v: check_tolerance(name, v, packing, y0), in_axes=(axes,))
    return pack(jax.tree.map(jnp.asarray, value))


def check_not_both_zero(rtol: PyTree, atol: PyTree) -> None:
    """Check that not both tolerances are zero everywhere. **Raises:** `ToleranceError`."""
    leaves = [*_tolerance_leaves("rtol", rtol), *_tolerance_leaves("atol", atol)]
    if not is_traced(leaves) and not any(np.any(np.asarray(leaf)) for leaf in leaves):
        raise ToleranceError("rtol and atol are both zero: no step is that good; set one of them")
