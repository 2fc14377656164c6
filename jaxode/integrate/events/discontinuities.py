"""Times at which the field is discontinuous: steps end on them, and see one side of them alone."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import map_parts
from ...solvers.linear import WithJacobian
from ..save import with_derivative_of


def next_discontinuity(jumps: Array, t: Array, t1: Array, direction: Array) -> Array:
    """The first of `jumps` behind `t` on the way to `t1`, else `t1`."""
    ahead = jnp.where(direction * (jumps - t) > 0, direction * jumps, jnp.inf)
    return direction * jnp.minimum(jnp.min(ahead, initial=jnp.inf), direction * t1)


def ends_on(t: Array, h: Array, stop: Array) -> Array:
    """Whether a step from `t` over `h` was drawn out to `stop`: others stay farther away."""
    eps = jnp.finfo(t.dtype).eps
    return jnp.abs(t + h - stop) <= 4 * eps * (jnp.abs(t) + jnp.abs(h))


def one_sided_field(field: Callable, start: Array, stop: Array) -> Callable:
    """The field for steps from `start` up to `stop`: what lies at the two is not seen."""
    start, stop = lax.stop_gradient((start, stop))
    low, high = jnp.minimum(start, stop), jnp.maximum(start, stop)
    first, last = jnp.nextafter(low, high), jnp.nextafter(high, low)

    def inner(t: Array) -> Array:
        return with_derivative_of(jnp.clip(t, first, last), t)

    def bounded(part: Callable) -> Callable:
        def at(t: Array, y: Array, *half: int) -> Array:
            return part(inner(t), y, *half)

        if not isinstance(part, WithJacobian):
            return at
        return WithJacobian(at, lambda t, y: part.jacobian(inner(t), y))

    return map_parts(bounded, field)
