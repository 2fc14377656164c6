"""The gradient rule of a batch by replay."""

from typing import Any

from jaxtyping import PyTree

from ...batch import queue as tiles
from ...batch.checkpoints import BatchCheckpointer
from ...batch.forward import BatchRun
from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...problem.status import Status
from ..vjp_rule import with_vjp
from .backward_batch import BatchDiscreteBackward


def run_with_trace(
    ensemble: Ensemble, tile: LaneTile, states: bool, memory: int | str | None
) -> tuple[Result, Any]:
    """The forward run, and what is kept of it."""
    result, log = BatchCheckpointer.of(ensemble, tile, states, memory).run()
    return result, (log, result.status, result.stats.num_accepted, result.log)


def discrete_cotangent(
    perturbed: PyTree, kept: Any, cotangents: Result, ensemble: Ensemble, tile: LaneTile
) -> PyTree:
    """The cotangent of the ensemble, from those of its result and what was kept of the run."""
    log, status, num_accepted, events = kept
    residuals = log, status == Status.SUCCESS, events
    replay = BatchDiscreteBackward.of(perturbed, ensemble, tile, cotangents, residuals)
    return replay.finish(replay.log(log), num_accepted, perturbed)


def _forward(perturbed: PyTree, *args: Any) -> tuple[Result, Any]:
    return run_with_trace(*args)


def _backward(
    perturbed: PyTree,
    residuals: Any,
    cotangents: Result,
    ensemble: Ensemble,
    tile: LaneTile,
    *_: Any,
) -> PyTree:
    return discrete_cotangent(perturbed, residuals, cotangents, ensemble, tile)


@with_vjp(_forward, _backward)
def solve_batch_discrete(
    ensemble: Ensemble, tile: LaneTile, states: bool, memory: int | str | None
) -> Result:
    """Run all of `ensemble`; its gradient replays the steps.

    `states`: whether it finds their states stored, or by steps back; `memory`: how many, as
    `Discrete` has it.
    """
    run = BatchRun(ensemble, tile)
    return run.close(tiles.run(run.work(), tile, (run.open(), None)))
