"""A batch on the engine that it is for."""

import dataclasses
from typing import Any

from ..batch.queue import LaneTile
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from ..kernels.dispatch import KernelPolicy, check_kernel, kernel_refusal
from ..kernels.lowering.unsupported import NoKernelError


def run_batch(sensitivity: Any, ensemble: Ensemble, tile: LaneTile, engine: KernelPolicy) -> Result:
    """Run all of `ensemble`; its statistics say on which engine.

    **Raises:** `OptionError` where a kernel was asked for and there is none, with the reason.
    """
    if not engine.use_kernel:
        return sensitivity.solve_batch(ensemble, tile)
    try:
        check_kernel(ensemble, engine.kernel is True)
        return with_engine(sensitivity.solve_kernel(ensemble, tile, engine), "kernel")
    except NoKernelError as reason:
        if engine.kernel is True:
            raise kernel_refusal(reason) from None
        return with_engine(sensitivity.solve_batch(ensemble, tile), f"xla: {reason}")


def with_engine(result: Result, engine: str) -> Result:
    """The result, and what ran it."""
    return result._replace(stats=dataclasses.replace(result.stats, engine=engine))
