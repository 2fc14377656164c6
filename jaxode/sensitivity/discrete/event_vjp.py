"""What the step after an event or a jump begins with, as a function of the step before it."""

from typing import Any, NamedTuple

import jax
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

Parts = tuple[Array, Array, Any]  # start and end of a step, and its dense output
Clock = tuple[Array, Array]  # when it begins, and its size


class PostEventState(NamedTuple):
    """A step that begins: its time, where times are differentiated, state and solver's carry."""

    t: Any
    y: Array
    solver_state: Any


def of_event(
    problem: IVP, config: SolveConfig, parts: Parts, clock: Clock, row: EventLog
) -> tuple[tuple[Array, Array], PostEventState]:
    """Time and state of the event in a row of the log, and what followed if it cut its step."""
    watch, (t, h), (y, y1, dense) = event_handler_of(problem, config), clock, parts
    step = StepRecord(t, h, t + h, jnp.sign(h), y, y1, dense, (), row.steps, jnp.asarray(True))
    theta = lax.stop_gradient((row.ts - t) / h)
    found = watch.event_at(theta, row.index, step)
    landed = ends_on(row.ts, jnp.zeros_like(h), next_discontinuity_of(problem, t))
    after = watch.apply_jump(found.t, watch.apply_event(found), landed)
    return (found.t, found.y), _begun(problem, config, found.t, after, True)


def of_jump(
    problem: IVP, config: SolveConfig, y1: Array, t: Array, with_times: bool
) -> PostEventState:
    """What followed a step from `t` that ended on a jump."""
    stop = next_discontinuity_of(problem, t)
    after = event_handler_of(problem, config).apply_jump(stop, y1, jnp.asarray(True))
    return _begun(problem, config, stop, after, with_times)


def _begun(
    problem: IVP, config: SolveConfig, t: Array, y: Array, with_times: bool
) -> PostEventState:
    carry = config.method.stepper.init(field_of_step(problem, config, t), t, y)
    return PostEventState(t if with_times else None, y, carry)


def cutting(problem: IVP, index: Array) -> Array:
    """Whether the events that are numbered `index` cut their steps; False for what is none."""
    return jnp.asarray([*(event.truncates_step for event in problem.events), False])[index]


def rows_of(log: EventLog, *place: Any) -> EventLog:
    """What was written of an event, or of one for each lane; but for its state."""
    return jax.tree.map(lambda x: x[place], log._replace(ys=(), count=()))
