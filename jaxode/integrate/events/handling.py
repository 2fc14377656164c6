"""After each step: its events found in order and written down, and what they ended begun anew.

Written for one trajectory or for lanes of many, whose axis comes last: `EventBatching` says which.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ..save import StepRecord, missing_value, put_row
from ..step import IntegratorState, select
from ..xla_loops import cond_as_loop
from .detection import EventHandler, EventOccurrence, EventState


class EventLog(NamedTuple):
    """What was met, in order: times, states before the jump, events, accepted steps before it.

    `count` may pass the number of rows: what finds no row is not written.
    """

    ts: Array
    ys: Any
    index: Array
    steps: Array
    count: Any = ()


def empty_log(count: tuple[int, ...], rows: int, y: Array, dtype: Any) -> EventLog:
    """A log without entries, of `count` trajectories with states like `y`."""
    shape = (*count, rows)
    none = jnp.full(shape, -1, jnp.int32)
    ys = jnp.full((*shape, *y.shape), missing_value(y.dtype))
    return EventLog(jnp.full(shape, jnp.nan, dtype), ys, none, none)


class EventBatching(NamedTuple):
    """The events and jumps of one trajectory or of many in lanes.

    - `each(function, *args)`: calls `function(watch, *args)` for each trajectory.
    - `write(log, met, count, found, step)`: the log with what was `met`, after `count` events.
    - `events`: whether there are any; `jumps`: the same.
    """

    each: Callable[..., Any]
    write: Callable[[Any, Array, Array, EventOccurrence, StepRecord], Any]
    events: bool
    jumps: bool


def handle_events(
    watching: EventBatching, after: IntegratorState, step: StepRecord, log: Any, t1: Array
) -> tuple[IntegratorState, StepRecord, Any]:
    """The trajectory after a step with what it met, the step up to there, and the log."""
    bare = step._replace(solver_state=(), residuals=(), before=None)
    found = EventOccurrence(
        step.t1, step.y1, jnp.full_like(step.index, -1), jnp.zeros_like(step.accept)
    )
    size = jnp.zeros_like(after.event_state.signs)
    if watching.events:
        end = _find_events(watching, bare, after.event_state, log, found)
        signs = lax.stop_gradient(end.signs)
        after = after._replace(event_state=after.event_state._replace(signs=signs, count=end.count))
        log, found, size = end.log, end.found, end.size
    landed = jnp.zeros_like(step.accept)
    if watching.jumps:
        stop = after.event_state.stop
        landed = step.accept & (found.t == stop) & (stop != t1)
    again = found.cut | landed

    def restart(s: IntegratorState) -> IntegratorState:
        t1s = jnp.broadcast_to(t1, step.t.shape)
        return select(
            again,
            watching.each(EventHandler.restart_after_event, s, bare, found, size, landed, t1s),
            s,
        )

    after = cond_as_loop(jnp.any(again), restart, after)
    if watching.events:
        after = after._replace(status=watching.each(EventHandler.status, after))
    return after, step._replace(t1=found.t, y1=found.y), log


class _EventSearch(NamedTuple):
    """The search for events in a step: at the fraction `theta` of it, if it is still `going`."""

    going: Array
    theta: Array
    signs: Array
    size: Array
    count: Array
    log: Any
    found: EventOccurrence


def _find_events(
    watching: EventBatching,
    step: StepRecord,
    sights: EventState,
    log: Any,
    nothing: EventOccurrence,
) -> _EventSearch:
    """All events of an accepted step up to the first that cuts it."""
    each = watching.each

    def one(s: _EventSearch) -> _EventSearch:
        seen = each(EventHandler.brackets, step, s.signs, s.theta, s.size)
        met = s.going & jnp.any(seen.crossed, axis=0)

        def meet(after: _EventSearch) -> _EventSearch:
            crossing, now = each(EventHandler.first, step, s.signs, seen)
            cut = met & now.cut
            return _EventSearch(
                going=met & ~cut,
                theta=select(met, crossing.theta, after.theta),
                signs=select(met, crossing.signs, after.signs),
                size=after.size,
                count=after.count + met,
                log=watching.write(after.log, met, after.count, now, step),
                found=select(cut, now, after.found),
            )

        signs = select(s.going, seen.signs, s.signs)
        after = s._replace(going=jnp.zeros_like(met), signs=signs, size=seen.size)
        return cond_as_loop(jnp.any(met), meet, after)

    theta, size = jnp.zeros_like(step.t), jnp.zeros_like(sights.signs)
    start = _EventSearch(step.accept, theta, sights.signs, size, sights.count, log, nothing)
    return lax.while_loop(lambda s: jnp.any(s.going), one, start)


def single_trajectory(watch: EventHandler) -> EventBatching:
    """Of one trajectory."""

    def write(
        log: EventLog, met: Array, count: Array, found: EventOccurrence, step: StepRecord
    ) -> EventLog:
        row, fits = jnp.minimum(count, watch.rows - 1), met & (count < watch.rows)

        def put(buffer: Array, value: Array) -> Array:
            return put_row(buffer, jnp.where(fits, value, buffer[row]), row)

        values = found.t, found.y, found.which, step.index
        return EventLog(*map(put, log[:-1], values))

    def each(function: Callable, *args: Any) -> Any:
        return function(watch, *args)

    return EventBatching(each, write, bool(watch.events), watch.jumps is not None)
