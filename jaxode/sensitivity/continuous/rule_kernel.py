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
from ...kernels.blocks import Block, KernelInputs
from ...kernels.dispatch import KernelPolicy, check_solver, kernel_refusal
from ...kernels.forward import KernelRun
from ...kernels.lowering.block_arrays import stored_as_blocks
from ...kernels.lowering.interpreter import lower_to_lanes
from ...kernels.lowering.unsupported import NoKernelError
from ..ad_direction import forwards_after
from .backward import AdjointSolve
from .backward_solver import Backwards
from .rule_batch import pull_back, reading_after

# Saved times that the way back in a kernel keeps in registers, with the states at them.
MOST_TIMES = 16


def solve_in_kernel(
    ensemble: Ensemble, tile: LaneTile, backwards: Backwards, engine: KernelPolicy
) -> Result:
    """Run all of `ensemble` in one kernel; its gradient is the adjoint equations', in another.

    **Raises:** `NoKernelError` where there is none.
    """
    size = ensemble.per_trajectory[0].y0[0].size
    number = ensemble.all_times.shape[-1]
    if not backwards.with_y:
        raise NoKernelError('jo.Continuous("interpolate") makes the steps of the solve again')
    if number > MOST_TIMES:
        raise NoKernelError(f"the adjoint jumps at {number} times (at most {MOST_TIMES})")
    if any(
        stored_as_blocks([x.shape for x in jax.tree.leaves(ensemble.shared) if eqx.is_array(x)])
    ):
        raise NoKernelError("jo.Continuous() has none of networks, jo.Discrete() has")
    check_solver(backwards.solver, 2 * size)
    return reading_after(ensemble, lambda states: _continuous(states, tile, backwards, engine))


@eqx.filter_custom_vjp
def _continuous(
    ensemble: Ensemble, tile: LaneTile, backwards: Backwards, engine: KernelPolicy
) -> Result:
    return KernelRun(ensemble, engine.lanes).run()[0]


@_continuous.def_fwd
@forwards_after
def _forward(
    perturbed: PyTree,
    ensemble: Ensemble,
    tile: LaneTile,
    backwards: Backwards,
    engine: KernelPolicy,
) -> tuple[Result, Any]:
    result = KernelRun(ensemble, engine.lanes).run()[0]
    return result, (result.ys, result.status, result.stats.num_accepted, perturbed)


@_continuous.def_bwd
@forwards_after
def _backward(
    residuals: Any,
    cotangents: Result,
    _: PyTree,
    ensemble: Ensemble,
    tile: LaneTile,
    backwards: Backwards,
    engine: KernelPolicy,
) -> PyTree:
    ys, status, counts, perturbed = residuals
    known = ys, status, None, counts

    def pulled(walked: Any) -> PyTree:
        return pull_back(ensemble, tile, backwards, perturbed, known, cotangents, walked)

    try:
        return pulled(lambda walk: walked_in_kernel(walk, engine.lanes))
    except NoKernelError as reason:
        if engine.kernel is True:
            raise kernel_refusal(reason) from None
        return pulled(AdjointSolve.run)


def walked_in_kernel(walk: AdjointSolve, lanes: int) -> tuple[Any, PyTree]:
    """What `walk.run` returns, each trajectory's way back in one lane of a kernel."""
    count = walk.ensemble.count
    own = walk.ensemble.per_trajectory, walk.ys, walk.jumps, walk.counts
    shared = walk.ensemble.shared, walk.shared, walk.backwards

    def one(own: Any, shared: Any) -> Any:
        rows, ys, jumps, counts = jax.tree.map(lambda x: x[None], own)
        rest, moving, backwards = shared
        parts = None, backwards, walk.flags, moving, ys, jumps, None, counts
        results, total = AdjointSolve(Ensemble(rows, rest), *parts).run()
        a, g, ended = jax.tree.map(lambda x: x[0], results)
        return (a, g, ended.astype(jnp.int32)), total  # no kernel writes booleans everywhere

    def body(block: Block, own: Any, shared: Any, _: Any) -> tuple[Any, Any]:
        return lower_to_lanes(one, lanes)(own, shared)

    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), own)
    ends, total = eqx.filter_eval_shape(one, first, shared)
    return blocks.call_reducing_kernel(
        body, KernelInputs(own, shared, ()), ends, total, count, lanes
    )
