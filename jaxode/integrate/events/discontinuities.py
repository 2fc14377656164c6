"""Discontinuities in time: steps end on them, and evaluate the field on one side only."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import map_parts
from ...solvers.base import Solver
from ...solvers.linear import WithJacobian
from ..save import with_derivative_of


def next_discontinuity(jumps: Array, t: Array, t1: Array, direction: Array) -> Array:
    """The first of `jumps` between `t` and `t1` in the direction of integration, else `t1`."""
    inside = (direction * (jumps - t) > 0) & (direction * (t1 - jumps) > 0)
    ahead = jnp.where(inside, direction * lax.stop_gradient(jumps), jnp.inf)
    first = direction * jnp.min(ahead, initial=jnp.inf)
    stop = jnp.where(jnp.any(inside), first, t1)
    # Of jumps at one time it is the first one's: the minimum's derivative is shared among them.
    return with_derivative_of(stop, jnp.where(jnp.any(inside), jumps[jnp.argmin(ahead)], t1))


def ends_on(t: Array, h: Array, stop: Array) -> Array:
    """True if a step from `t` over `h` was stretched to end on `stop`; other steps stay farther."""
    eps = jnp.finfo(t.dtype).eps
    return jnp.abs(t + h - stop) <= 4 * eps * (jnp.abs(t) + jnp.abs(h))


def field_for_looking_ahead(field: Callable, solver: Solver, start: Array, stop: Array) -> Callable:
    """Return the field for a solver that may look ahead, past the end `stop` of the solve.

    Where it is not finite there, it has the value at `stop`.
    """
    if not solver.looks_ahead:
        return field
    start, stop = lax.stop_gradient((start, stop))
    low, high = jnp.minimum(start, stop), jnp.maximum(start, stop)

    def known_time(part: Callable, t: Array, y: Array) -> Array:
        outside = (t < low) | (t > high)

        def unknown() -> Array:
            value = lax.stop_gradient(part(t, y))
            axes = tuple(range(value.ndim - t.ndim))
            return outside & ~jnp.all(jnp.isfinite(value), axes)

        clip = lax.cond(jnp.any(outside), unknown, lambda: jnp.zeros(t.shape, bool))
        return jnp.where(clip, with_derivative_of(jnp.clip(t, low, high), t), t)

    return _with_time(field, known_time)


def one_sided_field(field: Callable, start: Array, stop: Array) -> Callable:
    """Restrict the field to times strictly between `start` and `stop`, for steps between them."""
    start, stop = lax.stop_gradient((start, stop))
    low, high = jnp.minimum(start, stop), jnp.maximum(start, stop)
    first, last = jnp.nextafter(low, high), jnp.nextafter(high, low)

    def clipped(part: Callable, t: Array, y: Array) -> Array:
        return with_derivative_of(jnp.clip(t, first, last), t)

    return _with_time(field, clipped)


def _with_time(field: Callable, time: Callable[[Callable, Array, Array], Array]) -> Callable:
    """Return the field, evaluated at `time(part, t, y)` instead of `t`."""

    def restrict(part: Callable) -> Callable:
        def field_inside(t: Array, y: Array, *half: int) -> Array:
            return part(time(part, t, y), y, *half)

        if not isinstance(part, WithJacobian):
            return field_inside
        return WithJacobian(field_inside, lambda t, y: part.jacobian(time(part, t, y), y))

    return map_parts(restrict, field)
