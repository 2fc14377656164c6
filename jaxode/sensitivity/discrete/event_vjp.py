"""What the step after an event or a jump begins with, as a function of the step before it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ...integrate.events.discontinuities import lands
from ...integrate.events.handling import Log
from ...integrate.ivp import Plan, Problem, field_of_step, stop_of, watch_of
from ...integrate.save import Step

Parts = tuple[Array, Array, Any]  # start and end of a step, and its dense output
Clock = tuple[Array, Array]  # when it begins, and its size


class Behind(NamedTuple):
    """A step that begins: its time, where times are differentiated, state and solver's carry."""

    t: Any
    y: Array
    carry: Any


def of_event(
    problem: Problem, plan: Plan, parts: Parts, clock: Clock, row: Log
) -> tuple[tuple[Array, Array], Behind]:
    """Time and state of the event in a row of the log, and what followed if it cut its step."""
    watch, (t, h), (y, y1, dense) = watch_of(problem, plan), clock, parts
    step = Step(t, h, t + h, jnp.sign(h), y, y1, dense, (), row.steps, jnp.asarray(True))
    theta = lax.stop_gradient((row.ts - t) / h)
    found = watch.found(theta, row.index, step)
    landed = lands(row.ts, jnp.zeros_like(h), stop_of(problem, t))
    after = watch.kicked(found.t, watch.applied(found), landed)
    return (found.t, found.y), _begun(problem, plan, found.t, after, True)


def of_jump(problem: Problem, plan: Plan, y1: Array, t: Array, with_times: bool) -> Behind:
    """What followed a step from `t` that ended on a jump."""
    stop = stop_of(problem, t)
    after = watch_of(problem, plan).kicked(stop, y1, jnp.asarray(True))
    return _begun(problem, plan, stop, after, with_times)


def _begun(problem: Problem, plan: Plan, t: Array, y: Array, with_times: bool) -> Behind:
    carry = plan.method.stepper.init(field_of_step(problem, plan, t), t, y)
    return Behind(t if with_times else None, y, carry)


def cutting(problem: Problem, index: Array) -> Array:
    """Whether the events that are numbered `index` cut their steps; False for what is none."""
    return jnp.asarray([*(event.cuts for event in problem.events), False])[index]


def rows_of(log: Log, *place: Any) -> Log:
    """What was written of an event, or of one for each lane; but for its state."""
    return jax.tree.map(lambda x: x[place], log._replace(ys=(), count=()))
