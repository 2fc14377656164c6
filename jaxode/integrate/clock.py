"""The clock of a solve: where the next step ends, in time that is summed with compensation."""

import jax.numpy as jnp
from jax import Array


def choose_size(
    t: Array, t_low: Array, h: Array, direction: Array, t1: Array
) -> tuple[Array, Array, Array, Array]:
    """The next step's size, the size from which it is stretched to `t1`, and its end `t, t_low`.

    `h`: the proposed size. The true time is `t + t_low`.
    """
    remaining = direction * ((t1 - t) - t_low)
    eps = jnp.finfo(t.dtype).eps
    # Of a span without end it is infinite: no difference of infinities.
    stretch_limit = (1 - 8 * eps) * remaining - 8 * eps * jnp.abs(t)
    last = h >= stretch_limit
    size = jnp.where(last, remaining, h)
    t_new, low_new = _add(t, t_low, direction * size)
    return size, stretch_limit, jnp.where(last, t1, t_new), jnp.where(last, 0, low_new)


def _add(t: Array, low: Array, h: Array) -> tuple[Array, Array]:
    """Kahan's compensated sum: `t + h` and its rounding error, so that long solves do not drift."""
    step = h + low
    total = t + step
    return total, step - (total - t)
