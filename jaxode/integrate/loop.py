"""The loop over the steps of one trajectory: attempt, accept or reject, handle events, record."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..problem.field import Field
from ..solvers.base import StepResult
from .counts import stats_of
from .events.detection import EventHandler
from .events.discontinuities import one_sided_field
from .events.handling import EventBatching, EventLog, empty_log, handle_events, single_trajectory
from .follow_up import follow_up, waits
from .save import StepRecord
from .solution import Stats
from .step import (
    IntegratorState,
    Method,
    attempt_step,
    finalise,
    initialise,
    needs_step,
)
from .xla_loops import fused, host_controls_loops


class Recorder(NamedTuple):
    """The recorder of the loop: `write(state, step) -> state` after each attempted step.

    `needs_dense(state, t1, direction)` tells if dense output inside the coming step, to `t1`, will
    be evaluated; None for never. `step(due)` replaces the solver's step, if it is given; `due`: if
    it is that of a neighbour. `end(state, y)` adds the last state, also that of a failed solve, to
    what is recorded; None for not at all.
    """

    write: Callable[[Any, StepRecord], Any]
    needs_dense: Callable[[Any, Array, Array], Array | bool] | None = None
    step: Callable[[Array | bool], Callable[..., StepResult]] | None = None
    end: Callable[[Any, Array], Any] | None = None


class Outcome(NamedTuple):
    """The outcome of the loop; `h` and `solver_state` are those of a step that would follow."""

    y1: Array
    status: Array
    stats: Stats
    record: Any
    h: Array
    solver_state: Any
    log: EventLog | None


class _LoopState(NamedTuple):
    """The state of the loop over steps."""

    integrator: IntegratorState
    record: Any
    log: EventLog | None


class _Span(NamedTuple):
    """The time span of a solve, and its direction: 1, -1, or 0 if it is empty."""

    t0: Array
    t1: Array
    direction: Array


def integrate(
    method: Method,
    field_of_turn: Callable[[Array | bool], Field],
    y0: Array,
    t0: Array,
    t1: Array,
    recorder: Recorder,
    open_record: Callable[[Any], Any],
    event_handler: EventHandler | None = None,
) -> Outcome:
    """Integrate a field from `(t0, y0)` to `t1`, and record the steps.

    `open_record` makes the recorder's first state from the solver's first state. The final `y1` is
    NaN unless the status is `SUCCESS`. `field_of_turn(due)`: the field; where the
    neighbour of a differentiated solve is due, that of the neighbour.
    """
    batching, empty = None, None
    if event_handler is not None:
        batching = single_trajectory(event_handler)
        events = bool(event_handler.events)
        empty = empty_log((), event_handler.max_events, y0, t0.dtype) if events else None

    def first_state(y: Array, t: Array) -> IntegratorState:
        s = initialise(method, field_of_turn(False), y, t, t1)
        if method.detects_stability:
            s = s._replace(num_stability_bound=jnp.int32(0))
        return s if event_handler is None else event_handler.initialise(s, t1)

    shapes = jax.eval_shape(first_state, y0, t0)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)._replace(t=t0, y=y0)

    def run_loop(state: _LoopState) -> _LoopState:
        direction = jnp.sign(t1 - state.integrator.t)
        span = _Span(t0, t1, direction)

        def unfinished(state: _LoopState) -> Array:
            return needs_step(method, state.integrator, direction, t1)

        def advance(state: _LoopState) -> _LoopState:
            due = state.integrator.neighbour_due
            step = None if recorder.step is None else recorder.step(due)
            return _advance(method, (field_of_turn(due), step), span, recorder, batching, state)

        start = state._replace(integrator=first_state(state.integrator.y, state.integrator.t))
        end = _iterate(method, span, unfinished, advance, start)
        remaining = direction * (t1 - end.integrator.t)
        if recorder.end is not None:
            end = end._replace(record=recorder.end(end.record, end.integrator.y))
        return end._replace(integrator=finalise(end.integrator, remaining))

    start = _LoopState(blank, open_record(blank.solver_state), empty)
    end, record, log = fused(run_loop, start)
    if log is not None:
        log = log._replace(count=end.event_state.count)
    stats = stats_of(
        method,
        end.num_steps,
        end.num_accepted,
        end.extra_evaluations,
        end.linear_algebra_counts,
        end.t,
        end.h,
    )
    if method.detects_stability:
        stats = dataclasses.replace(stats, num_stability_bound=end.num_stability_bound)
    return Outcome(end.y, end.status, stats, record, end.h, end.solver_state, log)


def _iterate(
    method: Method,
    span: _Span,
    unfinished: Callable[[_LoopState], Array],
    advance: Callable[[_LoopState], _LoopState],
    start: _LoopState,
) -> _LoopState:
    """Iterate `advance` while `unfinished`; a neighbour follows each iteration that it waits for.

    A solve that moves makes all its iterations in one run of the inner loop.
    """
    if not method.has_neighbour:
        return lax.while_loop(unfinished, advance, start)

    def goes_on(state: _LoopState) -> Array:
        return unfinished(state) | state.integrator.neighbour_due

    def follow(state: _LoopState) -> _LoopState:
        followed = follow_up(method, state.integrator, span.direction, span.t1)
        return state._replace(integrator=followed)

    def unaccompanied(state: _LoopState) -> Array:
        return unfinished(state) & ~waits(state.integrator)

    def follow_then_advance(state: _LoopState) -> _LoopState:
        return lax.while_loop(unaccompanied, advance, follow(state))

    if host_controls_loops():
        return lax.while_loop(goes_on, lambda state: advance(follow(state)), start)
    return lax.while_loop(goes_on, follow_then_advance, start)


def _advance(
    method: Method,
    turn: tuple[Field, Callable[..., StepResult] | None],
    span: _Span,
    recorder: Recorder,
    batching: EventBatching | None,
    state: _LoopState,
) -> _LoopState:
    """Attempt a step, handle its events and record it.

    `turn`: the field of the step, and the step if it is not the solver's.
    """
    (field, step), (s, record, log) = turn, state

    def needs_dense(t_new: Array) -> Array | bool | None:
        if batching is not None and batching.has_events:
            return True
        if recorder.needs_dense is None:
            return None
        return recorder.needs_dense(record, t_new, span.direction)

    stop_time = span.t1
    if batching is not None and batching.has_jumps:
        stop_time = s.event_state.stop_time
        field = one_sided_field(field, s.t, stop_time)
    after, attempt = attempt_step(method, field, s, span.direction, stop_time, needs_dense, step)
    if batching is not None:
        after, attempt, log = handle_events(batching, after, attempt, log, span.t1)
    if method.progress is not None:
        goes_on = needs_step(method, after, span.direction, span.t1)
        method.progress(after.t, span.t0, span.t1, goes_on)
    return _LoopState(after, recorder.write(record, attempt), log)
