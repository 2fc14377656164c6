"""What ends a step, and the state that the next one begins with: functions to differentiate.

A step ends at an event that cuts it, or on a jump, or both. The state map of the event comes first,
then those of the jumps, then the solver begins again.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ...integrate.events.detection import EventOccurrence
from ...integrate.events.handling import EventLog
from ...integrate.events.state_jumps import Clock
from ...integrate.ivp import (
    IVP,
    SolveConfig,
    event_handler_of,
    field_of_step,
    next_discontinuity_of,
)
from ...integrate.save import StepRecord
from .cotangents import StepClock, StepParts


class PostEventState(NamedTuple):
    """The start of a step: its time, where times are differentiated, state and solver state."""

    t: Any
    y: Array
    solver_state: Any


def located_event(
    problem: IVP, config: SolveConfig, parts: StepParts, clock: StepClock, row: EventLog
) -> Clock:
    """Time and state of an event in the log."""
    handler, (t, h), (y, y1, dense) = event_handler_of(problem, config), clock, parts
    step = StepRecord(t, h, t + h, jnp.sign(h), y, y1, dense, (), row.steps, jnp.asarray(True))
    theta = lax.stop_gradient((row.ts - t) / h).astype(config.packing.number_dtype)
    event = handler.event_at(theta, row.index, step)
    return event.t, event.y


def state_after_event(problem: IVP, config: SolveConfig, t: Array, y: Array, index: Array) -> Array:
    """The state that the state map of event `index` makes of `y`."""
    event = EventOccurrence(t, y, index, jnp.zeros_like(index))
    return event_handler_of(problem, config).apply_event(event)


def state_after_jump(
    problem: IVP, config: SolveConfig, t: Array, y: Array, t_step: Array, at: Array, number: Array
) -> Clock:
    """Time and state after jump `number` of those `at` a time, from time and state before it.

    `t_step`: the start of the step that ended there.
    """
    jumps = event_handler_of(problem, config).jumps
    assert jumps is not None
    return jumps.jump(at, number, (t, y), field_of_step(problem, config, t_step))


def state_after_jumps(
    problem: IVP, config: SolveConfig, t: Array, y: Array, t_step: Array, number: Array
) -> Clock:
    """Time and state after the first `number` jumps at `t`; not differentiable backwards."""
    jumps = event_handler_of(problem, config).jumps
    if jumps is None or jumps.apply is None:
        return t, y
    return jumps.first(number, (t, y), field_of_step(problem, config, t_step))


def num_jumps(problem: IVP, config: SolveConfig, t: Array) -> Array:
    """The number of state maps at `t`."""
    jumps = event_handler_of(problem, config).jumps
    if jumps is None or jumps.apply is None:
        return jnp.zeros((), jnp.int32)
    return jumps.count(t)


def restarted(
    problem: IVP, config: SolveConfig, t: Array, y: Array, with_times: bool
) -> PostEventState:
    """The start of the step after an event or a jump."""
    solver_state = config.method.stepper.init(field_of_step(problem, config, t), t, y)
    return PostEventState(t if with_times else None, y, solver_state)


def end_of_step(
    problem: IVP,
    config: SolveConfig,
    parts: StepParts,
    clock: StepClock,
    row: EventLog | None,
    cut: Array,
) -> Clock:
    """Time and state at the end of a step, before any state map; `row`: the event, if it was `cut`.

    Not for derivatives.
    """
    stop, y1 = next_discontinuity_of(problem, clock[0]), parts[1]
    if row is None:
        return stop, y1
    _, y = located_event(problem, config, parts, clock, row)
    return jnp.where(cut, row.ts, stop), jnp.where(cut, y, y1)
