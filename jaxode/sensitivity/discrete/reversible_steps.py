"""Steps whose states are found by the solver's step back: their times, and whether it succeeded."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ...integrate.ivp import SolveConfig, direction_of
from ...integrate.step import Method
from ...solvers.prescribed_steps import Fixed, Grid
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


def roundtrip_ok(method: Method, recovered: PyTree, start: PyTree, end: PyTree) -> Array:
    """True if steps back from the `end` of a solve led to its `start`: states and solver states.

    That is to 30 tolerances, but to no more than half of the digits and to no less than a quarter;
    with steps of a given size to a third. Else the gradient is made of wrong states, also where
    the state alone has come back: two coupled ones drift apart.
    """
    agree = [
        _agree(method, *leaves)
        for leaves in zip(*map(jax.tree.leaves, (recovered, start, end)), strict=True)
    ]
    return jnp.all(jnp.stack(agree))


def _agree(method: Method, recovered: Array, start: Array, end: Array) -> Array:
    gap = jnp.max(jnp.abs(recovered - start))
    size = jnp.max(jnp.maximum(jnp.abs(start), jnp.abs(end)))
    eps = jnp.finfo(gap.dtype).eps
    if not method.controller.adaptive:
        return gap <= eps ** (1 / 3) * size
    rtol, atol = jnp.max(method.tolerance.rtol), jnp.max(method.tolerance.atol)
    return gap <= jnp.clip(30 * (rtol * size + atol), eps**0.5 * size, eps**0.25 * size)
