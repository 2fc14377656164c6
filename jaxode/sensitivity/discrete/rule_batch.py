"""The derivative rule of a batch by the discrete adjoint."""

from typing import Any

from jaxtyping import PyTree

from ...batch.checkpoints import BatchCheckpointer
from ...batch.queue import LaneTile
from ...batch.run import run_in_lanes
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ..reached import SolveOutcome
from ..vjp_rule import with_vjp
from .backward_lanes import BatchDiscreteBackward


def run_with_trace(
    ensemble: Ensemble, tile: LaneTile, stores_states: bool, memory: int | str | None
) -> tuple[Result, Any]:
    """Run the forward solve in lanes, and return its result and the residuals."""
    result, trace = BatchCheckpointer.create(ensemble, tile, stores_states, memory).run()
    return result, (trace, SolveOutcome.of(result))


def discrete_cotangent(
    perturbed: PyTree, residuals: Any, cotangents: Result, ensemble: Ensemble, tile: LaneTile
) -> PyTree:
    """Return the cotangent of an ensemble from those of its result, by recomputing its steps."""
    trace, outcome = residuals
    backward = BatchDiscreteBackward.of(perturbed, ensemble, tile, cotangents, trace, outcome)
    return backward.run(trace, perturbed)


def _forward(perturbed: PyTree, ensemble: Ensemble, *args: Any) -> tuple[Result, Any]:
    return run_with_trace(ensemble.for_derivatives(perturbed), *args)


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
    ensemble: Ensemble, tile: LaneTile, stores_states: bool, memory: int | str | None
) -> Result:
    """Solve all problems of an ensemble in lanes; the backward pass recomputes their steps.

    `stores_states`: it finds states in memory, else by steps back. `memory`: that of `Discrete`.
    """
    return run_in_lanes(ensemble, tile)[0]
