"""A batch on the engine that it is for."""

import dataclasses
from typing import Any

from ..batch.queue import Tile
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from ..kernels.dispatch import Engine, check_kernel, refused
from ..kernels.lowering.unsupported import NoKernelError


def solved(sensitivity: Any, ensemble: Ensemble, tile: Tile, engine: Engine) -> Result:
    """Run all of `ensemble`; its statistics say on which engine.

    **Raises:** `OptionError` where a kernel was asked for and there is none, with the reason.
    """
    if not engine.tried:
        return sensitivity.solve_batch(ensemble, tile)
    try:
        check_kernel(ensemble, engine.kernel is True)
        return ran(sensitivity.in_kernel(ensemble, tile, engine), "kernel")
    except NoKernelError as reason:
        if engine.kernel is True:
            raise refused(reason) from None
        return ran(sensitivity.solve_batch(ensemble, tile), f"xla: {reason}")


def ran(result: Result, engine: str) -> Result:
    """The result, and what ran it."""
    return result._replace(stats=dataclasses.replace(result.stats, engine=engine))
