"""The gradient rule of a batch in a kernel, by replay."""

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
from ...problem.status import Status
from ..ad_direction import forwards_after
from .backward_kernel import KernelDiscreteBackward
from .rule_batch import logged, pulled_back

# Bytes that the log of all steps may take. Where it would take more, the backward pass makes the
# log of some trajectories after the other, and undoes their steps.
LOG_BYTES = 2**32


@eqx.filter_custom_vjp
def solve_kernel_discrete(ensemble: Ensemble, tile: LaneTile, engine: KernelPolicy) -> Result:
    """Run all of `ensemble` in one kernel; its gradient replays the steps in another.

    `tile`: for the loop over tiles, which has the gradients that no kernel has.

    **Raises:** `NoKernelError` where there is none.
    """
    return KernelRun(ensemble, engine.lanes).run()[0]


@solve_kernel_discrete.def_fwd
@forwards_after
def _forward(
    perturbed: PyTree, ensemble: Ensemble, tile: LaneTile, engine: KernelPolicy
) -> tuple[Result, Any]:
    try:
        _check_options(perturbed)
        result, log = _logged(ensemble, engine)
        residuals = log, result.status, result.stats.num_accepted
        _check_kernel(perturbed, ensemble, engine, result, residuals)
        return result, (residuals, perturbed, True)
    except NoKernelError as reason:
        if engine.kernel is True:
            raise kernel_refusal(reason) from None
        result, residuals = logged(ensemble, tile, True)
        return result, (residuals, perturbed, False)


@solve_kernel_discrete.def_bwd
@forwards_after
def _backward(
    residuals: Any,
    cotangents: Result,
    _: PyTree,
    ensemble: Ensemble,
    tile: LaneTile,
    engine: KernelPolicy,
) -> PyTree:
    known, perturbed, in_kernel = residuals
    if not in_kernel:
        return pulled_back(perturbed, known, cotangents, ensemble, tile)
    try:
        return _pulled(perturbed, ensemble, engine, cotangents, known)
    except NoKernelError as reason:
        raise kernel_refusal(reason) from None


def _logged(ensemble: Ensemble, engine: KernelPolicy) -> tuple[Result, KernelTrace | None]:
    """The forward run, with its log if that fits."""
    if _at_once(ensemble, engine) < ensemble.count:
        return KernelRun(ensemble, engine.lanes).run()[0], None
    return KernelRun(ensemble, engine.lanes, ensemble.config.method.max_steps).run()


def _at_once(ensemble: Ensemble, engine: KernelPolicy) -> int:
    """Of how many trajectories the log fits."""
    start, t = ensemble.per_trajectory[0].y0[0], ensemble.all_times.dtype
    row = start.size * start.dtype.itemsize + 2 * t.itemsize
    blocks = LOG_BYTES // (row * ensemble.config.method.max_steps * engine.lanes)
    return max(blocks, 1) * engine.lanes


def _check_options(perturbed: PyTree) -> None:
    """**Raises:** `NoKernelError` for gradients that no kernel has."""
    if perturbed.per_trajectory[0].ts or perturbed.shared[0].ts:
        raise NoKernelError("gradients by ts are not taken there")
    if platform.backend() == "tpu":
        raise NoKernelError("a TPU writes at no index per lane, as a log of steps needs")


def _check_kernel(
    perturbed: PyTree, ensemble: Ensemble, engine: KernelPolicy, result: Result, residuals: Any
) -> None:
    """**Raises:** `NoKernelError` if there is a kernel for the run but none for its gradient."""
    if engine.kernel == "auto":
        like = eqx.filter(result, eqx.is_inexact_array)
        like = Result(None, like.ys, like.y1, None, None, None)  # pyright: ignore[reportArgumentType]
        eqx.filter_eval_shape(_pulled, perturbed, ensemble, engine, like, residuals)


def _pulled(
    perturbed: PyTree, ensemble: Ensemble, engine: KernelPolicy, cotangents: Result, residuals: Any
) -> PyTree:
    """The cotangent of the ensemble."""
    log, status, num_accepted = residuals
    if log is not None:
        replay = KernelDiscreteBackward.of(perturbed, ensemble, cotangents, engine.lanes)
        return replay.run(log, status == Status.SUCCESS, num_accepted, perturbed)
    return _in_parts(perturbed, ensemble, engine, cotangents)


def _in_parts(
    perturbed: PyTree, ensemble: Ensemble, engine: KernelPolicy, cotangents: Result
) -> PyTree:
    """The same, of as many trajectories at once as their log fits."""
    count, size = ensemble.count, _at_once(ensemble, engine)
    parts = -(-count // size)
    values = cotangents.ys, cotangents.y1

    def split(x: Array) -> Array:
        filled = jnp.pad(x, [(0, parts * size - count)] + [(0, 0)] * (x.ndim - 1), mode="edge")
        return filled.reshape(parts, size, *x.shape[1:])

    def whole(x: Array) -> Array:
        return x.reshape(parts * size, *x.shape[2:])[:count]

    arrays, rest = eqx.partition((ensemble.per_trajectory, values), eqx.is_array)

    def one(shared: Any, part: tuple[Any, Array]) -> tuple[Any, Any]:
        own, (ys, y1) = eqx.combine(part[0], rest)
        # What fills up the last part has no cotangents.
        real = part[1] * size + jnp.arange(size) < count
        ys, y1 = jax.tree.map(
            lambda ct: jnp.where(real.reshape((-1,) + (1,) * (ct.ndim - 1)), ct, 0), (ys, y1)
        )
        here = Ensemble(own, ensemble.shared)
        result, log = KernelRun(here, engine.lanes, here.config.method.max_steps).run()
        known = log, result.status, result.stats.num_accepted
        ct = Result(None, ys, y1, None, None, None)  # pyright: ignore[reportArgumentType]
        found = _pulled(perturbed, here, engine, ct, known)
        return jax.tree.map(jnp.add, shared, found.shared), found.per_trajectory

    start = jax.tree.map(jnp.zeros_like, eqx.filter(ensemble.shared, perturbed.shared))
    given = jax.tree.map(split, arrays), jnp.arange(parts, dtype=jnp.int32)
    shared, own = lax.scan(one, start, given)
    return Ensemble(jax.tree.map(whole, own), shared)
