"""A test of the user's Jacobian against a difference of the field, to notice grossly wrong ones."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.field import Field, WithJacobian
from ...problem.status import Status

# A Jacobian this many times too large makes increments so small that they pass for converged.
_LARGEST_RATIO = 10.0


def check_jacobian(
    status: Array, field: Field, t: Array, y: Array, h: Array, slope: Array
) -> Array:
    """The status of a step, or `NOT_CONVERGED` where the user's Jacobian is far too large.

    `y` and `slope`, the field there, are vectors `(n,)` or `(n, lanes)`. Entries that are too small
    need no test: with them an iteration diverges, or the error estimate is large. It costs one
    evaluation of the field, and none where the Jacobian is not the user's.
    """
    if not isinstance(field, WithJacobian):
        return status
    y, slope = lax.stop_gradient((y, slope))
    matrix, real = lax.stop_gradient(field.jacobian(t, y)), jnp.finfo(y.dtype)
    numbers = np.arange(1.0, y.shape[0] + 1).reshape(-1, *(1,) * t.ndim)
    signs = jnp.asarray(np.sign(np.sin(numbers**2)) * (1 + 0.5 * np.cos(numbers)), y.dtype)
    direction = signs * jnp.maximum(jnp.abs(y), jnp.abs(h.astype(y.dtype) * slope))
    product = jnp.sum(matrix * direction[None], axis=1)
    size = jnp.sum(jnp.abs(matrix * direction[None]), axis=1)

    def wrong(step: float) -> Array:
        change = (lax.stop_gradient(field(t, y + step * direction)) - slope) / step
        error, rounding = jnp.abs(product - change), 100 * real.eps**0.5 * jnp.abs(slope)
        rows = (error > 0.5 * size + rounding) & (error > _LARGEST_RATIO * jnp.abs(change))
        return jnp.any(rows, axis=0)

    step, none = float(real.eps) ** 0.5, jnp.zeros(t.shape, bool)
    forwards = wrong(step)
    # In both directions, as the field may have a kink at `y`.
    backwards = lax.cond(jnp.any(forwards), lambda: wrong(-step), lambda: none)
    failed = forwards & backwards & (status == Status.SUCCESS)
    return jnp.where(failed, jnp.int32(Status.NOT_CONVERGED), status)
