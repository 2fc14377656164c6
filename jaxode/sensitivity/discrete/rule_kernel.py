"""The derivative rule of a batch in one kernel, by the discrete adjoint in another."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...kernels.dispatch import KernelPolicy, kernel_refusal
from ...kernels.forward import KernelRun
from ...kernels.inputs import KernelTrace
from ...kernels.lowering import platform
from ...kernels.lowering.unsupported import NoKernelError
from ..batch_cotangents import per_row
from ..reached import SolveOutcome
from ..vjp_rule import with_vjp
from .backward_kernel import KernelDiscreteBackward
from .rule_batch import discrete_cotangent, run_with_trace

# The most bytes of the trace of all steps. Where it would take more, the backward pass solves one
# part of the trajectories after the other again, each with the trace of its steps.
TRACE_BYTES = 2**32


def _forward(
    perturbed: PyTree, ensemble: Ensemble, tile: LaneTile, policy: KernelPolicy
) -> tuple[Result, Any]:
    try:
        _check_perturbed(perturbed)
        result, trace = _run_kernel(ensemble, policy)
        residuals = trace, SolveOutcome.of(result)
        _check_backward_kernel(perturbed, ensemble, policy, result, residuals)
        return result, (residuals, True)
    except NoKernelError as reason:
        if policy.kernel is True:
            raise kernel_refusal(reason) from None
        result, residuals = run_with_trace(ensemble, tile, True, None)
        return result, (residuals, False)


def _backward(
    perturbed: PyTree,
    residuals: Any,
    cotangents: Result,
    ensemble: Ensemble,
    tile: LaneTile,
    policy: KernelPolicy,
) -> PyTree:
    residuals, in_kernel = residuals
    if not in_kernel:
        return discrete_cotangent(perturbed, residuals, cotangents, ensemble, tile)
    try:
        return _kernel_cotangent(perturbed, ensemble, policy, cotangents, residuals)
    except NoKernelError as reason:
        raise kernel_refusal(reason) from None


@with_vjp(_forward, _backward)
def solve_kernel_discrete(ensemble: Ensemble, tile: LaneTile, policy: KernelPolicy) -> Result:
    """Solve all problems of an ensemble in one kernel; the backward pass recomputes their steps.

    `tile`: for the loop over tiles, which has the derivatives that no kernel has.

    **Raises:** `NoKernelError` where there is no kernel.
    """
    return KernelRun(ensemble, policy.lanes).run()[0]


def _run_kernel(ensemble: Ensemble, policy: KernelPolicy) -> tuple[Result, KernelTrace | None]:
    """Run the forward solve, with the trace of its steps if that fits in memory."""
    if _trajectories_that_fit(ensemble, policy) < ensemble.count:
        return KernelRun(ensemble, policy.lanes).run()[0], None
    return KernelRun(ensemble, policy.lanes, ensemble.config.method.max_steps).run()


def _trajectories_that_fit(ensemble: Ensemble, policy: KernelPolicy) -> int:
    """Return how many trajectories' traces fit in memory, a multiple of the lanes of a block."""
    start, t = ensemble.per_trajectory[0].y0[0], ensemble.all_times.dtype
    row = start.size * start.dtype.itemsize + 2 * t.itemsize
    blocks = TRACE_BYTES // (row * ensemble.config.method.max_steps * policy.lanes)
    return max(blocks, 1) * policy.lanes


def _check_perturbed(perturbed: PyTree) -> None:
    """**Raises:** `NoKernelError` for derivatives that no kernel has."""
    if perturbed.per_trajectory[0].ts or perturbed.shared[0].ts:
        raise NoKernelError("gradients by ts are not taken there")
    if platform.backend() == "tpu":
        raise NoKernelError("a TPU writes at no index per lane, as a log of steps needs")


def _check_backward_kernel(
    perturbed: PyTree, ensemble: Ensemble, policy: KernelPolicy, result: Result, residuals: Any
) -> None:
    """**Raises:** `NoKernelError` if the forward solve has a kernel but its derivative has none."""
    if policy.kernel == "auto":
        like = eqx.filter(result, eqx.is_inexact_array)
        cotangents = _cotangents_of_values(like.ys, like.y1)
        eqx.filter_eval_shape(_kernel_cotangent, perturbed, ensemble, policy, cotangents, residuals)


def _kernel_cotangent(
    perturbed: PyTree, ensemble: Ensemble, policy: KernelPolicy, cotangents: Result, residuals: Any
) -> PyTree:
    """Return the cotangent of an ensemble from those of its result, computed in a kernel."""
    trace, outcome = residuals
    if trace is not None:
        lanes = policy.lanes
        replay = KernelDiscreteBackward.of(perturbed, ensemble, cotangents, outcome, lanes)
        return replay.run(trace, perturbed)
    return _cotangent_in_parts(perturbed, ensemble, policy, cotangents)


def _cotangent_in_parts(
    perturbed: PyTree, ensemble: Ensemble, policy: KernelPolicy, cotangents: Result
) -> PyTree:
    """Return the cotangent of an ensemble whose trace does not fit in memory.

    It is divided into parts of as many trajectories as fit, each of which is solved again.
    """
    count, size = ensemble.count, _trajectories_that_fit(ensemble, policy)
    num_parts = -(-count // size)
    values = cotangents.ys, cotangents.y1

    def split(x: Array) -> Array:
        padding = [(0, num_parts * size - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding, mode="edge").reshape(num_parts, size, *x.shape[1:])

    def join(x: Array) -> Array:
        return x.reshape(num_parts * size, *x.shape[2:])[:count]

    arrays, rest = eqx.partition((ensemble.per_trajectory, values), eqx.is_array)

    def add_part(total: Any, part: tuple[Any, Array]) -> tuple[Any, Any]:
        own, values = eqx.combine(part[0], rest)
        # The copies that pad the last part have no cotangents.
        present = part[1] * size + jnp.arange(size, dtype=jnp.int32) < count
        ys, y1 = jax.tree.map(lambda ct: jnp.where(per_row(present, ct), ct, 0), values)
        part_ensemble = Ensemble(own, ensemble.shared)
        max_steps = part_ensemble.config.method.max_steps
        result, trace = KernelRun(part_ensemble, policy.lanes, max_steps).run()
        residuals = trace, SolveOutcome.of(result)
        ct_result = _cotangents_of_values(ys, y1)
        ct = _kernel_cotangent(perturbed, part_ensemble, policy, ct_result, residuals)
        return jax.tree.map(jnp.add, total, ct.shared), ct.per_trajectory

    zeros = jax.tree.map(jnp.zeros_like, eqx.filter(ensemble.shared, perturbed.shared))
    parts = jax.tree.map(split, arrays), jnp.arange(num_parts, dtype=jnp.int32)
    shared, own = lax.scan(add_part, zeros, parts)
    return Ensemble(jax.tree.map(join, own), shared)


def _cotangents_of_values(ys: PyTree, y1: Array) -> Result:
    """Return cotangents of a result that has them of its saved values and final states alone."""
    return Result(None, ys, y1, None, None, None)  # pyright: ignore[reportArgumentType]
