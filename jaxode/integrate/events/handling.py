"""Event handling after each step: find events in order, log them, restart truncated steps.

An `EventBatching` makes it work for one trajectory, or for many in lanes, whose axis comes last.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ...problem.status import Status
from ..save import StepRecord, missing_value, put_row
from ..step import IntegratorState, select
from ..xla_loops import cond_as_loop
from .detection import EventHandler, EventOccurrence, EventState


class EventLog(NamedTuple):
    """The log of events in order, with rows for `max_events` of them.

    - `ts`, `ys`: times, and states before the event. `index`: its number, as of an
      `EventOccurrence`, and `effect`: its effect. `late`: if it occurred at the start of its step.
    - `steps`: the number of accepted steps before it.
    - `count`: the number of events; those beyond the last row are not logged.
    """

    ts: Array
    ys: Any
    index: Array
    steps: Array
    effect: Array
    late: Array
    count: Any = ()


def empty_log(count: tuple[int, ...], rows: int, y: Array, dtype: Any) -> EventLog:
    """Make an empty log; `count` is `()` or the number of trajectories, `y` an example state."""
    shape = (*count, rows)
    none = jnp.full(shape, -1, jnp.int32)
    ys = jnp.full((*shape, *y.shape), missing_value(y.dtype))
    times, zero = jnp.full(shape, jnp.nan, dtype), jnp.zeros_like(none)
    return EventLog(times, ys, none, none, zero, zero.astype(bool))


def log_row(event: EventOccurrence, step: StepRecord) -> tuple[Array, ...]:
    """The row of a log, but the count, for an event in a step."""
    rounding = 8 * jnp.finfo(step.t.dtype).eps * (jnp.abs(step.t) + jnp.abs(step.h))
    late = jnp.abs(event.t - step.t) <= rounding
    return event.t, event.y, event.index, step.index, event.effect, late


class EventBatching(NamedTuple):
    """Event handling over trajectories: one, or many in lanes.

    - `map_trajectories(function, *args)`: calls `function(event_handler, *args)` for each.
    - `write_log(log, occurred, count, event, step)`: writes the events that `occurred` after
      `count` earlier ones.
    - `max_events`: the number of events beyond which a solve fails, or, if it `stops_looking`, has
      no more of them.
    - `has_events`, `has_jumps`: True if there are any. `saves_after`: saved at a jump is the state
      after it.
    """

    map_trajectories: Callable[..., Any]
    write_log: Callable[[Any, Array, Array, EventOccurrence, StepRecord], Any]
    max_events: int
    has_events: bool
    has_jumps: bool
    saves_after: bool = False
    stops_looking: bool = False

    @property
    def most_found(self) -> int:
        """The number of events after which no further one is looked for; one too many fails."""
        return self.max_events if self.stops_looking else self.max_events + 1


def handle_events(
    batching: EventBatching, after: IntegratorState, step: StepRecord, log: Any, t1: Array
) -> tuple[IntegratorState, StepRecord, Any]:
    """Handle the events and jumps of a step.

    Returns the integrator state after them, the step up to the first event that truncates it, and
    the log. `t1` is the last time of the solve.
    """
    bare = step._replace(solver_state=(), residuals=(), before=None)
    none = jnp.full_like(step.index, -1)
    event = EventOccurrence(step.t1, step.y1, none, jnp.zeros_like(none))
    size = jnp.zeros_like(after.event_state.signs)
    if batching.has_events:
        end = _find_events(batching, bare, after.event_state, log, event)
        event_state = after.event_state._replace(
            signs=lax.stop_gradient(end.signs), count=end.count, occurrences=end.occurrences
        )
        after = after._replace(event_state=event_state)
        log, event, size = end.log, end.event, end.size
    at_discontinuity = jnp.zeros_like(step.accept)
    if batching.has_jumps:
        stop_time = after.event_state.stop_time
        at_discontinuity = step.accept & (event.t == stop_time) & (stop_time != t1)
    restarts = event.truncates_step | at_discontinuity

    def restart(s: IntegratorState) -> IntegratorState:
        inputs = s, bare, event, size, at_discontinuity, jnp.broadcast_to(t1, step.t.shape)
        restarted = batching.map_trajectories(EventHandler.restart_after_event, *inputs)
        return select(restarts, restarted, s)

    after = cond_as_loop(jnp.any(restarts), restart, after)
    if batching.has_events:
        status = batching.map_trajectories(EventHandler.event_status, after)
        after = after._replace(status=status)
    step = step._replace(t1=event.t, y1=event.y)
    if batching.saves_after:
        goes_on = at_discontinuity & (after.status != Status.TERMINATED)
        step = step._replace(y1=jnp.where(goes_on, after.y, event.y), excludes_end=goes_on)
    return after, step, log


class _EventSearch(NamedTuple):
    """The state of the search for events in a step, which continues after its fraction `theta`.

    `event` is the event that truncates the step, if one was found; `met` are the conditions that
    occurred in it.
    """

    unfinished: Array
    theta: Array
    signs: Array
    size: Array
    count: Array
    occurrences: Any
    log: Any
    event: EventOccurrence
    met: Array


def _find_events(
    batching: EventBatching,
    step: StepRecord,
    event_state: EventState,
    log: Any,
    no_event: EventOccurrence,
) -> _EventSearch:
    """Find and log all events of an accepted step up to the first that truncates it."""
    map_trajectories = batching.map_trajectories

    def find_next(s: _EventSearch) -> _EventSearch:
        brackets = map_trajectories(EventHandler.brackets, step, s.signs, s.theta, s.size, s.met)
        occurred = s.unfinished & jnp.any(brackets.crossed, axis=0)

        def log_event(after: _EventSearch) -> _EventSearch:
            inputs = step, s.signs, brackets, s.met, s.occurrences
            crossing, event, occurrences = map_trajectories(EventHandler.first_event, *inputs)
            truncated = occurred & event.truncates_step
            return _EventSearch(
                unfinished=occurred & ~truncated & (after.count + 1 < batching.most_found),
                theta=select(occurred, crossing.theta, after.theta),
                signs=select(occurred, crossing.signs, after.signs),
                size=after.size,
                count=after.count + occurred,
                occurrences=select(occurred, occurrences, after.occurrences),
                log=batching.write_log(after.log, occurred, after.count, event, step),
                event=select(truncated, event, after.event),
                met=select(occurred, crossing.met, after.met),
            )

        signs = select(s.unfinished, brackets.signs, s.signs)
        finished = s._replace(unfinished=jnp.zeros_like(occurred), signs=signs, size=brackets.size)
        return cond_as_loop(jnp.any(occurred), log_event, finished)

    start = _EventSearch(
        unfinished=step.accept & (event_state.count < batching.most_found),
        theta=jnp.zeros_like(step.t, event_state.signs.dtype),
        signs=event_state.signs,
        size=jnp.zeros_like(event_state.signs),
        count=event_state.count,
        occurrences=event_state.occurrences,
        log=log,
        event=no_event,
        met=jnp.zeros_like(event_state.signs, bool),
    )
    return lax.while_loop(lambda s: jnp.any(s.unfinished), find_next, start)


def single_trajectory(event_handler: EventHandler) -> EventBatching:
    """Make the event handling of one trajectory."""
    max_events = event_handler.max_events

    def write_log(
        log: EventLog, occurred: Array, count: Array, event: EventOccurrence, step: StepRecord
    ) -> EventLog:
        row, fits = jnp.minimum(count, max_events - 1), occurred & (count < max_events)

        def put(buffer: Array, value: Array) -> Array:
            return put_row(buffer, jnp.where(fits, value, buffer[row]), row)

        return EventLog(*map(put, log[:-1], log_row(event, step)))

    def call(function: Callable, *args: Any) -> Any:
        return function(event_handler, *args)

    return EventBatching(
        map_trajectories=call,
        write_log=write_log,
        max_events=max_events,
        has_events=bool(event_handler.events),
        has_jumps=event_handler.jumps is not None,
        saves_after=event_handler.saves_after,
        stops_looking=event_handler.stops_looking,
    )
