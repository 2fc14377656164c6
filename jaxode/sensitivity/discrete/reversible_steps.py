"""Steps whose states are found by the solver's step back: their times, and whether it succeeded."""

import jax.numpy as jnp
from jax import Array

from ...integrate.ivp import SolveConfig, direction_of
from ...solvers.step_size import Fixed, Grid
from .checkpoints import CheckpointTrace


def step_clock(
    trace: CheckpointTrace, config: SolveConfig, ts: Array, n: Array, num_accepted: Array
) -> tuple[Array, Array]:
    """Start time and signed size of step `n`, as recorded or as `Fixed` or `Grid` prescribes.

    `num_accepted`: of a solve that came to its last time; else a negative number.
    """
    if isinstance(trace.t, Array):
        return trace.t[n], trace.h[n]
    controller = config.method.controller
    assert isinstance(controller, Fixed | Grid)
    t, h = controller.step(n, ts[0], direction_of(ts))
    return t, jnp.where(n == num_accepted - 1, ts[-1] - t, h)


def roundtrip_ok(y: Array, y0: Array, y1: Array) -> Array:
    """True if steps back from `y1` led to a `y` that agrees with the start `y0`.

    That is to a quarter of the digits: with more rounding the gradient is made of wrong states.
    """
    gap, size = jnp.abs(y - y0), jnp.maximum(jnp.abs(y0), jnp.abs(y1))
    return jnp.max(gap) <= jnp.finfo(gap.dtype).eps ** 0.25 * jnp.max(size)
