"""Events and jumps of trajectories in lanes: each lane locates and logs its own."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jaxtyping import PyTree

from ..integrate.ensemble import Ensemble
from ..integrate.events.detection import EventOccurrence
from ..integrate.events.handling import EventBatching, EventLog, log_row
from ..integrate.ivp import event_handler_of
from ..integrate.save import StepRecord
from .queue import LaneTile


def events_in_lanes(
    ensemble: Ensemble, tile: LaneTile, rows: PyTree, numbers: Array, saving: bool
) -> EventBatching:
    """Return the event handling of the trajectories `numbers`, whose problem data are `rows`.

    Without `saving` no event is logged.
    """

    def map_lanes(function: Callable, *args: Any) -> Any:
        def call_with_handler(rows: PyTree, *args: Any) -> Any:
            return function(event_handler_of(*ensemble.problem_of(rows)), *args)

        return jax.vmap(call_with_handler, in_axes=-1, out_axes=-1)(rows, *args)

    def write_log(
        log: Any, happened: Array, count: Array, event: EventOccurrence, step: StepRecord
    ) -> Any:
        if not saving:
            return log
        fits = happened & (count < ensemble.config.max_events)
        return EventLog(*tile.put(log[:-1], fits, (numbers, count), log_row(event, step)))

    config = ensemble.config
    return EventBatching(
        map_lanes,
        write_log,
        config.max_events,
        has_events=bool(ensemble.shared[0].events),
        has_jumps=ensemble.has_jumps,
        saves_after=config.saves_after_jumps,
        stops_looking=config.stops_looking,
    )
