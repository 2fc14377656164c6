"""The choice of engine for a batch: one Pallas kernel, or a loop over lanes in XLA."""

import dataclasses
from typing import Any

from ..batch.queue import LaneTile
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from ..kernels.dispatch import KernelPolicy, check_kernel, kernel_refusal
from ..kernels.lowering.unsupported import NoKernelError


def run_batch(sensitivity: Any, ensemble: Ensemble, tile: LaneTile, policy: KernelPolicy) -> Result:
    """Solve all of `ensemble` in a kernel or in lanes, according to `policy`.

    **Raises:** `OptionError`, with the reason, if a kernel is required and impossible.
    """
    if not policy.use_kernel:
        return sensitivity.solve_batch(ensemble, tile)
    try:
        check_kernel(ensemble, policy.kernel is True)
        return with_engine(sensitivity.solve_kernel(ensemble, tile, policy), "kernel")
    except NoKernelError as reason:
        if policy.kernel is True:
            raise kernel_refusal(reason) from None
        return with_engine(sensitivity.solve_batch(ensemble, tile), f"xla: {reason}")


def with_engine(result: Result, engine: str) -> Result:
    """Set `stats.engine` of a result."""
    return result._replace(stats=dataclasses.replace(result.stats, engine=engine))
