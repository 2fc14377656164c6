"""The state after an event or a jump, as a differentiable function of the step that it ended."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ...integrate.events.discontinuities import ends_on
from ...integrate.events.handling import EventLog
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


def event_and_state_after(
    problem: IVP, config: SolveConfig, parts: StepParts, clock: StepClock, row: EventLog
) -> tuple[tuple[Array, Array], PostEventState]:
    """Time and state of an event in the log, and the state after it if it cut its step."""
    handler, (t, h), (y, y1, dense) = event_handler_of(problem, config), clock, parts
    step = StepRecord(t, h, t + h, jnp.sign(h), y, y1, dense, (), row.steps, jnp.asarray(True))
    theta = lax.stop_gradient((row.ts - t) / h)
    event = handler.event_at(theta, row.index, step)
    at_discontinuity = ends_on(row.ts, jnp.zeros_like(h), next_discontinuity_of(problem, t))
    after = handler.apply_jump(event.t, handler.apply_event(event), at_discontinuity)
    return (event.t, event.y), _restart(problem, config, event.t, after, True)


def state_after_jump(
    problem: IVP, config: SolveConfig, y1: Array, t: Array, with_times: bool
) -> PostEventState:
    """The state after the jump on which a step from `t` ended, in the state `y1`."""
    stop = next_discontinuity_of(problem, t)
    after = event_handler_of(problem, config).apply_jump(stop, y1, jnp.asarray(True))
    return _restart(problem, config, stop, after, with_times)


def _restart(
    problem: IVP, config: SolveConfig, t: Array, y: Array, with_times: bool
) -> PostEventState:
    solver_state = config.method.stepper.init(field_of_step(problem, config, t), t, y)
    return PostEventState(t if with_times else None, y, solver_state)


def truncates(problem: IVP, index: Array) -> Array:
    """Which of the events numbered `index` cut their steps; False for -1, which is no event."""
    return jnp.asarray([*(event.truncates_step for event in problem.events), False])[index]
