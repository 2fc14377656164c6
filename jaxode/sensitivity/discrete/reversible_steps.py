"""Steps found again backwards: when each began, whether they led home, what moves their times."""

import jax.numpy as jnp
from jax import Array

from ...integrate.ivp import SolveConfig, direction_of
from ...solvers.step_size import Prescribed
from .checkpoints import CheckpointTrace


def when(
    trace: CheckpointTrace, config: SolveConfig, ts: Array, n: Array, total: Array
) -> tuple[Array, Array]:
    """When step `n` of `total` began, and its signed size, as recorded or as was prescribed."""
    if isinstance(trace.t, Array):
        return trace.t[n], trace.h[n]
    controller = config.method.controller
    assert isinstance(controller, Prescribed)
    t, h = controller.step(n, ts[0], direction_of(ts))
    return t, jnp.where(n == total - 1, ts[-1] - t, h)


def roundtrip_ok(y: Array, y0: Array, y1: Array) -> Array:
    """Whether steps back from `y1` came to `y` near the start `y0`: to a quarter of the digits.

    Where rounding has grown to more, the gradient is made of wrong states.
    """
    gap, size = jnp.abs(y - y0), jnp.maximum(jnp.abs(y0), jnp.abs(y1))
    return jnp.max(gap) <= jnp.finfo(gap.dtype).eps ** 0.25 * jnp.max(size)
