"""The size of the first step, chosen from the field at the start."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from .step_size import Tolerance, max_norm

# What the first step may err, in tolerances, by a Taylor series in the solution's own unit of time.
# With Hairer's 0.01 in that unit, estimates of errors would often be rounding alone.
_SHARE = 0.25


def first_step(
    field: Callable[[Array, Array], Array],
    t: Array,
    y: Array,
    slope: Array,
    span: Array,
    order: int,
    tolerance: Tolerance,
) -> Array:
    """The initial step size `h > 0`, at most `|span|`; it costs one field evaluation.

    `slope` is the field at `(t, y)`, `span` the signed length of the solve, `order` that of the
    error estimate. Times are measured in units of that in which `y` would change by its own size:
    so the choice is the same whatever the units of time and state are.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.4.
    """
    real = jnp.finfo(y.dtype)
    # Half precision has no room for such numbers.
    wide = jnp.promote_types(real.dtype, jnp.float32)
    length, direction = jnp.abs(span).astype(wide), jnp.sign(span)
    size, (speed, unit) = tolerance.scaled_norm(y, y), _norm_and_unit(slope, y, tolerance)
    size, speed, unit = (x.astype(wide) for x in (size, speed, unit))
    small, moves = size <= 1e-5, speed * (unit * length) > 1e-5
    # The time in which `y` moves by a hundredth of itself or, from zero, by the tolerance.
    relative = jnp.where(small, 1.0, 0.01 * size) / jnp.where(moves, speed, 1.0)
    short = lax.optimization_barrier(relative) / unit
    # A span without end has no unit of time: one stands for it.
    finite = jnp.where(jnp.isfinite(length), length, 1.0)
    cautious = 1e-6 * finite
    h0 = jnp.where(moves, jnp.where(small, jnp.minimum(short, cautious), short), cautious)
    h0 = jnp.clip(h0, jnp.maximum(float(real.eps) ** 2 * finite, float(real.tiny)), length)
    step = direction.astype(real.dtype) * h0.astype(real.dtype)
    ahead = field(t + step.astype(t.dtype), y + step * slope)
    changes = _norm_and_unit(ahead - slope, y, tolerance)
    change, change_unit = (x.astype(wide) for x in changes)
    travel, bend = 100 * speed * (unit * h0), 1e4 * change * (change_unit * h0)
    steepest = jnp.maximum(travel, bend)
    flat = steepest <= 1e-15
    longest = (_SHARE / jnp.where(flat, 1.0, steepest)) ** (1.0 / order)
    h = h0 * jnp.where(flat, 1.0, 100 * jnp.minimum(1.0, longest))
    h = _few_digits(h)
    # The first step reports a slope that is not finite.
    return jnp.minimum(jnp.where(jnp.isfinite(h), h, h0), length).astype(t.dtype)


def _few_digits(x: Array) -> Array:
    """`x` cut off to four digits: so it does not depend on rounding, which differs in lanes."""
    real = jnp.finfo(x.dtype)
    bits = lax.bitcast_convert_type(x, jnp.dtype(f"int{real.bits}"))
    return lax.bitcast_convert_type(bits & (-1 << max(real.nmant - 14, 0)), x.dtype)


def _norm_and_unit(x: Array, y: Array, tolerance: Tolerance) -> tuple[Array, Array]:
    """The scaled norm of `x / unit`, and that unit, so that no product of theirs overflows."""
    largest = max_norm(x)
    unit = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
    # A barrier, or XLA would divide by the product of two divisors, which may vanish.
    return tolerance.scaled_norm(lax.optimization_barrier(x / unit), y), unit
