"""Events and jumps of trajectories in lanes: each finds its own, and the log has its rows."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jaxtyping import PyTree

from ..integrate.ensemble import Ensemble
from ..integrate.events.detection import EventOccurrence
from ..integrate.events.handling import EventBatching, EventLog
from ..integrate.ivp import event_handler_of
from ..integrate.save import StepRecord
from .queue import LaneTile


def events_in_lanes(
    ensemble: Ensemble, tile: LaneTile, rows: PyTree, numbers: Array, saving: bool
) -> EventBatching:
    """Of the trajectories `numbers`, whose own parts of the problem are `rows`.

    Without `saving` nothing is written to the log.
    """

    def each(function: Callable, *args: Any) -> Any:
        def one(rows: PyTree, *args: Any) -> Any:
            return function(event_handler_of(*ensemble.problem_of(rows)), *args)

        return jax.vmap(one, in_axes=-1, out_axes=-1)(rows, *args)

    def write(log: Any, met: Array, count: Array, found: EventOccurrence, step: StepRecord) -> Any:
        if not saving:
            return log
        values = found.t, found.y, found.index, step.index
        fits = met & (count < ensemble.config.max_events)
        return EventLog(*tile.put(log[:-1], fits, (numbers, count), values))

    return EventBatching(each, write, bool(ensemble.shared[0].events), ensemble.has_jumps)
