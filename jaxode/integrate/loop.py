"""The loop over the steps of one trajectory: step, judge, accept, record."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..solvers.base import StepResult
from .events.detection import EventHandler
from .events.discontinuities import one_sided_field
from .events.handling import EventLog, empty_log, handle_events, single_trajectory
from .save import StepRecord
from .solution import Stats
from .step import (
    Field,
    IntegratorState,
    Method,
    attempt_step,
    finalise,
    initialise,
    stats_of,
    under_way,
)
from .xla_loops import fused


class Recorder(NamedTuple):
    """What the loop records: `write(state, step) -> state` after each attempted step.

    `inside(state, t1, direction)` says whether a time inside the coming step, to `t1`, will be
    read; without it no dense output is made. `step` stands in for the solver's.
    """

    write: Callable[[Any, StepRecord], Any]
    inside: Callable[[Any, Array, Array], Array | bool] | None = None
    step: Callable[..., StepResult] | None = None


class Outcome(NamedTuple):
    """How the loop ended; `solver_state` is what the solver would have handed on."""

    y1: Array
    status: Array
    stats: Stats
    record: Any
    h: Array
    solver_state: Any
    log: EventLog | None


def integrate(
    method: Method,
    field: Field,
    y0: Array,
    t0: Array,
    t1: Array,
    recorder: Recorder,
    open_record: Callable[[Any], Any],
    watch: EventHandler | None = None,
) -> Outcome:
    """Integrate `field` from `(t0, y0)` to `t1`, recording on the way.

    `open_record` makes the recorder's first state from the solver's first carry. The state at the
    end is NaN unless the status is `SUCCESS`. `watch`: the events and jumps to look for.
    """
    watching, empty = None, None
    if watch is not None:
        watching = single_trajectory(watch)
        empty = empty_log((), watch.rows, y0, t0.dtype) if watch.events else None

    def first(y: Array, t: Array) -> IntegratorState:
        s = initialise(method, field, y, t, t1)
        return s if watch is None else watch.initialise(s, t1)

    shapes = jax.eval_shape(first, y0, t0)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)._replace(t=t0, y=y0)

    def whole(state: tuple[IntegratorState, Any, Any]) -> tuple[IntegratorState, Any, Any]:
        (s, record, log), direction = state, jnp.sign(t1 - state[0].t)

        def unfinished(state: tuple[IntegratorState, Any, Any]) -> Array:
            return under_way(method, state[0], direction, t1)

        def advance(state: tuple[IntegratorState, Any, Any]) -> tuple[IntegratorState, Any, Any]:
            s, record, log = state

            def look(t_new: Array) -> Array | bool | None:
                if watching is not None and watching.events:
                    return True
                inside = recorder.inside
                return None if inside is None else inside(record, t_new, direction)

            here, stop = field, t1
            if watching is not None and watching.jumps:
                stop = s.event_state.stop
                here = one_sided_field(field, s.t, stop)
            after, step = attempt_step(method, here, s, direction, stop, look, recorder.step)
            if method.progress is not None:
                method.progress(after.t, t0, t1)
            if watching is not None:
                after, step, log = handle_events(watching, after, step, log, t1)
            return after, recorder.write(record, step), log

        start = first(s.y, s.t), record, log
        end, record, log = lax.while_loop(unfinished, advance, start)
        return finalise(end, direction * (t1 - end.t)), record, log

    end, record, log = fused(whole, (blank, open_record(blank.solver_state), empty))
    if log is not None:
        log = log._replace(count=end.event_state.count)
    stats = stats_of(
        method,
        end.num_steps,
        end.num_accepted,
        end.extra_evaluations,
        end.linear_algebra_counts,
        end.t,
    )
    return Outcome(end.y, end.status, stats, record, end.h, end.solver_state, log)
