"""The gradient rule of a batch by replay."""

from typing import Any

import equinox as eqx
from jaxtyping import PyTree

from ...batch import queue as tiles
from ...batch.checkpoints import BatchCheckpointer
from ...batch.forward import BatchRun
from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...problem.status import Status
from ..ad_direction import forwards_after
from .backward_lanes import BatchDiscreteBackward


@eqx.filter_custom_vjp
def solve_batch_discrete(
    ensemble: Ensemble, tile: LaneTile, states: bool, memory: int | str | None = None
) -> Result:
    """Run all of `ensemble`; its gradient replays the steps.

    `states`: whether it finds their states stored, or by steps back; `memory`: how many, as
    `Discrete` has it.
    """
    run = BatchRun(ensemble, tile)
    return run.close(tiles.run(run.work(), tile, (run.open(), None)))


@solve_batch_discrete.def_fwd
@forwards_after
def _forward(
    perturbed: PyTree,
    ensemble: Ensemble,
    tile: LaneTile,
    states: bool,
    memory: int | str | None = None,
) -> tuple[Result, Any]:
    result, residuals = logged(ensemble, tile, states, memory)
    # `perturbed` rides along as Python booleans, which stay static through a jitted gradient.
    return result, (residuals, perturbed)


@solve_batch_discrete.def_bwd
@forwards_after
def _backward(
    residuals: Any,
    cotangents: Result,
    _: PyTree,
    ensemble: Ensemble,
    tile: LaneTile,
    states: bool,
    memory: int | str | None = None,
) -> PyTree:
    known, perturbed = residuals
    return pulled_back(perturbed, known, cotangents, ensemble, tile)


def logged(
    ensemble: Ensemble, tile: LaneTile, states: bool, memory: int | str | None = None
) -> tuple[Result, Any]:
    """The forward run, and what is kept of it."""
    result, log = BatchCheckpointer.of(ensemble, tile, states, memory).run()
    return result, (log, result.status, result.stats.num_accepted, result.log)


def pulled_back(
    perturbed: PyTree, kept: Any, cotangents: Result, ensemble: Ensemble, tile: LaneTile
) -> PyTree:
    """The cotangent of the ensemble, from those of its result and what was kept of the run."""
    log, status, num_accepted, events = kept
    residuals = log, status == Status.SUCCESS, events
    backward = BatchDiscreteBackward.of(perturbed, ensemble, tile, cotangents, residuals)
    return backward.run(log, num_accepted, perturbed)
