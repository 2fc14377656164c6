"""The gradient rule of a batch in a kernel, by adjoint equations in another."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...kernels import blocks
from ...kernels.blocks import Block, Given
from ...kernels.dispatch import KernelPolicy, check_solver, kernel_refusal
from ...kernels.forward import KernelRun
from ...kernels.lowering.block_arrays import kept_whole
from ...kernels.lowering.interpreter import in_lanes
from ...kernels.lowering.unsupported import NoKernelError
from ..vjp_rule import with_vjp
from .backward import AdjointSolve
from .backward_solver import BackwardConfig
from .rule_batch import continuous_cotangent, read_outside

# Saved times that the way back in a kernel keeps in registers, with the states at them.
MOST_TIMES = 16


def adjoints_in_kernel(walk: AdjointSolve, lanes: int) -> tuple[Any, PyTree]:
    """What `walk.run` returns, each trajectory's way back in one lane of a kernel."""
    count = walk.ensemble.count
    own = walk.ensemble.per_trajectory, walk.ys, walk.jumps, walk.counts
    shared = walk.ensemble.shared, walk.shared, walk.backward

    def one(own: Any, shared: Any) -> Any:
        rows, ys, jumps, counts = jax.tree.map(lambda x: x[None], own)
        rest, moving, backwards = shared
        parts = None, backwards, walk.flags, moving, ys, jumps, None, counts
        results, total = AdjointSolve(Ensemble(rows, rest), *parts).run()
        a, g, ended = jax.tree.map(lambda x: x[0], results)
        return (a, g, ended.astype(jnp.int32)), total  # no kernel writes booleans everywhere

    def body(block: Block, own: Any, shared: Any, _: Any) -> tuple[Any, Any]:
        return in_lanes(one, lanes)(own, shared)

    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), own)
    ends, total = eqx.filter_eval_shape(one, first, shared)
    return blocks.reduced(body, Given(own, shared, ()), ends, total, count, lanes)


def _forward(
    perturbed: PyTree,
    ensemble: Ensemble,
    tile: LaneTile,
    backward: BackwardConfig,
    policy: KernelPolicy,
) -> tuple[Result, Any]:
    result = KernelRun(ensemble, policy.lanes).run()[0]
    return result, (result.ys, result.status, result.stats.num_accepted)


def _backward(
    perturbed: PyTree,
    residuals: Any,
    cotangents: Result,
    ensemble: Ensemble,
    tile: LaneTile,
    backward: BackwardConfig,
    policy: KernelPolicy,
) -> PyTree:
    ys, status, counts = residuals
    known = ys, status, None, counts

    def pulled(walked: Any) -> PyTree:
        return continuous_cotangent(ensemble, tile, backward, perturbed, known, cotangents, walked)

    try:
        return pulled(lambda walk: adjoints_in_kernel(walk, policy.lanes))
    except NoKernelError as reason:
        if policy.kernel is True:
            raise kernel_refusal(reason) from None
        return pulled(AdjointSolve.run)


@with_vjp(_forward, _backward)
def _solve_states(
    ensemble: Ensemble, tile: LaneTile, backward: BackwardConfig, policy: KernelPolicy
) -> Result:
    return KernelRun(ensemble, policy.lanes).run()[0]


def solve_kernel_continuous(
    ensemble: Ensemble, tile: LaneTile, backward: BackwardConfig, policy: KernelPolicy
) -> Result:
    """Run all of `ensemble` in one kernel; its gradient is the adjoint equations', in another.

    **Raises:** `NoKernelError` where there is none.
    """
    size = ensemble.per_trajectory[0].y0[0].size
    number = ensemble.all_times.shape[-1]
    if not backward.with_y:
        raise NoKernelError('jo.Continuous("interpolate") makes the steps of the solve again')
    if number > MOST_TIMES:
        raise NoKernelError(f"the adjoint jumps at {number} times (at most {MOST_TIMES})")
    if any(kept_whole([x.shape for x in jax.tree.leaves(ensemble.shared) if eqx.is_array(x)])):
        raise NoKernelError("jo.Continuous() has none of networks, jo.Discrete() has")
    check_solver(backward.solver, 2 * size)
    return read_outside(ensemble, lambda states: _solve_states(states, tile, backward, policy))
