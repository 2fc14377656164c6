"""The forward solve of a batch in lanes, as one function."""

from typing import Any

from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from . import queue
from .forward import BatchRun, IterationTracer
from .queue import LaneTile


def run_in_lanes(
    ensemble: Ensemble, tile: LaneTile, trace: IterationTracer | None = None, record: Any = None
) -> tuple[Result, Any]:
    """Solve all problems of an ensemble in the lanes of `tile`.

    Returns the result and the final record, which `trace` updates in each iteration from `record`.
    """
    batch = BatchRun(ensemble, tile)
    ended = queue.run(batch.lane_program(trace), tile, (batch.initial_record(), record))
    return batch.gather_results(ended), ended.record[1]
