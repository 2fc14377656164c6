"""The derivative rule of a batch in one kernel, by adjoint equations in another."""

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
from ..reached import SolveOutcome
from ..vjp_rule import with_vjp
from .backward import AdjointSolve
from .backward_solver import BackwardConfig
from .rule_batch import continuous_cotangent, save_outside

# The most saved times: a kernel keeps them, and the states at them, in registers.
MAX_SAVE_TIMES = 16


def run_adjoints_in_kernel(adjoints: AdjointSolve, lanes: int) -> tuple[Any, PyTree]:
    """Return the results of `adjoints.run()`, each trajectory in one lane of a kernel."""
    count = adjoints.ensemble.count
    own = (
        adjoints.ensemble.per_trajectory, adjoints.ys, adjoints.jumps, adjoints.num_accepted,
        adjoints.last,
    )  # fmt: skip
    shared = adjoints.ensemble.shared, adjoints.shared, adjoints.backward

    def solve_adjoint(own: Any, shared: Any) -> Any:
        rows, ys, jumps, num_accepted, last = jax.tree.map(lambda x: x[None], own)
        shared_problem, diff, backward = shared
        ensemble = Ensemble(rows, shared_problem)
        perturbed = adjoints.perturbed
        results, total = AdjointSolve(
            ensemble, None, backward, perturbed, diff, ys, jumps, None, num_accepted, last, None
        ).run()
        a, g, returned, counts = jax.tree.map(lambda x: x[0], results)
        return (
            a,
            g,
            returned.astype(jnp.int32),
            counts,
        ), total  # not every backend stores booleans

    def body(block: Block, own: Any, shared: Any, _: Any) -> tuple[Any, Any]:
        return lower_to_lanes(solve_adjoint, lanes)(own, shared)

    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), own)
    ends, total = eqx.filter_eval_shape(solve_adjoint, row, shared)
    return blocks.call_reducing_kernel(
        body, KernelInputs(own, shared, ()), ends, total, count, lanes
    )


def _forward(
    perturbed: PyTree,
    ensemble: Ensemble,
    tile: LaneTile,
    backward: BackwardConfig,
    policy: KernelPolicy,
) -> tuple[Result, Any]:
    result = KernelRun(ensemble, policy.lanes).run()[0]
    return result, (result.ys, None, SolveOutcome.of(result))


def _backward(
    perturbed: PyTree,
    residuals: Any,
    cotangents: Result,
    ensemble: Ensemble,
    tile: LaneTile,
    backward: BackwardConfig,
    policy: KernelPolicy,
) -> PyTree:
    def cotangent(run_adjoints: Any) -> PyTree:
        return continuous_cotangent(
            ensemble, tile, backward, perturbed, residuals, cotangents, run_adjoints
        )

    try:
        return cotangent(lambda adjoints: run_adjoints_in_kernel(adjoints, policy.lanes))
    except NoKernelError as reason:
        if policy.kernel is True:
            raise kernel_refusal(reason) from None
        return cotangent(AdjointSolve.run)


@with_vjp(_forward, _backward)
def _solve_states(
    ensemble: Ensemble, tile: LaneTile, backward: BackwardConfig, policy: KernelPolicy
) -> Result:
    return KernelRun(ensemble, policy.lanes).run()[0]


def solve_kernel_continuous(
    ensemble: Ensemble, tile: LaneTile, backward: BackwardConfig, policy: KernelPolicy
) -> Result:
    """Solve all problems of an ensemble in a kernel, differentiable by their adjoint equations.

    `tile`: for the loop over tiles, which runs the backward solve where no kernel can.

    **Raises:** `NoKernelError` where there is no kernel.
    """
    size = ensemble.per_trajectory[0].y0[0].size
    number = ensemble.all_times.shape[-1]
    if not backward.with_y:
        raise NoKernelError('jo.Continuous("interpolate") makes the steps of the solve again')
    if backward.restarts is not None:
        raise NoKernelError("jo.Continuous() keeps states, jo.Continuous(restarts=0) does not")
    if number > MAX_SAVE_TIMES:
        raise NoKernelError(f"the adjoint jumps at {number} times (at most {MAX_SAVE_TIMES})")
    if any(
        stored_as_blocks([x.shape for x in jax.tree.leaves(ensemble.shared) if eqx.is_array(x)])
    ):
        raise NoKernelError("jo.Continuous() has none of networks, jo.Discrete() has")
    check_solver(backward.solver, 2 * size)
    return save_outside(ensemble, lambda states: _solve_states(states, tile, backward, policy))
