"""The user's `Solution`, from the packed result of a solve."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..problem.status import Status
from ..problem.times import saved_rows
from .empty_span import moved_by_its_times
from .events.compiled import places
from .events.detection import ENDS, EventOccurrence
from .forward import Result
from .ivp import IVP, SolveConfig, direction_of, event_handler_of
from .jumps_at_ends import jump_at_last, save_ends
from .missing import missing_where
from .solution import DenseOutput, Events, Solution


def solution_of(
    result: Result,
    problem: IVP,
    config: SolveConfig,
    consistent: Array | bool,
    y_before: Array,
    by_steps: bool,
) -> Solution:
    """Make the user's `Solution`.

    `consistent`: the initial state satisfies algebraic equations. `y_before`: it is the state
    before the jumps at the first time. `by_steps`: derivatives are those of the steps taken.
    """
    unpack, saved_ends = config.packing.unpack, None
    if problem.events:
        result = _with_event_at_start(result, problem, config)
    if problem.jump_map is not None:
        result, saved_ends = jump_at_last(result, problem, config, y_before)
    dense = None
    if result.dense is not None:
        dense = DenseOutput(
            *result.dense,
            result.stats.num_accepted,
            config.method.solver.interpolate,
            config.packing,
        )
        result = result._replace(ys=_states_at_times(dense, problem, config))
    if by_steps:
        result = moved_by_its_times(result, problem, config)
    if saved_ends is not None:
        result = save_ends(result, problem, config, saved_ends)
    ys = result.ys if problem.save_fn is not None else unpack(result.ys)
    status = _status_of_inputs(result.status, problem, config, consistent)
    good = (status != Status.BAD_TIMES) & (status != Status.INCONSISTENT_START)
    if dense is not None:
        dense = dataclasses.replace(dense, h=jnp.where(good, dense.h, jnp.nan))
    ys, y1 = jax.tree.map(lambda x: missing_where(~good, x), (ys, unpack(result.y1)))
    # These times pass by the derivative rule of the solve, so that their own gradient is kept.
    ts = result.ts if config.save == "steps" else problem.ts
    if config.save != "steps" and any(config.unsaved):
        rows = saved_rows(problem.ts.shape[0], config.unsaved)
        ts, ys = jax.tree.map(lambda x: x[rows], (ts, ys))
    events, stats = None, result.stats
    if result.log is not None:
        log = result.log
        terminated = jnp.any(log.effect == ENDS)
        # Every sensitivity differentiates the log; none differentiates the statistics.
        last = log.ts[jnp.clip(log.count, 1, log.ts.shape[0]) - 1]
        t_reached = jnp.where(terminated, last, result.stats.t_reached)
        stats = dataclasses.replace(result.stats, t_reached=t_reached)
        event, entry = (jnp.asarray(place)[log.index] for place in places(problem.events))
        sizes = tuple(event.count for event in problem.events)
        events = Events(log.ts, unpack(log.ys), event, log.count, terminated, entry, sizes)
        if dense is not None:
            dense = dataclasses.replace(dense, last=result.stats.t_reached)
    return Solution(ts, ys, y1, stats, status, dense, events)


def _states_at_times(dense: DenseOutput, problem: IVP, config: SolveConfig) -> Array:
    """The packed states at the times of the solve; where a state jumps, on the side to be saved."""
    jumps = problem.jump_map is not None or any(e.apply is not None for e in problem.events)
    return dense.packed_at(problem.ts, before=jumps and not config.saves_after_jumps)


def _status_of_inputs(
    status: Array, problem: IVP, config: SolveConfig, consistent: Array | bool
) -> Array:
    """The status, of times that are out of order or a start that is inconsistent too.

    Under `jit` they raise no error.
    """
    if config.save in ("steps", "dense") and problem.ts.shape[0] > 2:
        steps, direction = jnp.diff(problem.ts), direction_of(problem.ts)
        ordered = jnp.all(jnp.where(direction == 0, steps == 0, steps * direction >= 0))
        status = jnp.where(ordered, status, jnp.int32(Status.BAD_TIMES))
    return jnp.where(consistent, status, jnp.int32(Status.INCONSISTENT_START))


def _with_event_at_start(result: Result, problem: IVP, config: SolveConfig) -> Result:
    """The result with the event that ended the solve at its start, before a step, if one did.

    The loop has not logged it: so it is differentiated here, and no derivative rule knows of it.
    """
    handler, log, t = event_handler_of(problem, config), result.log, problem.ts[0]
    if log is None or all(math.isnan(sign) for sign in handler.ending_signs):
        return result
    ended = (result.status == Status.SUCCESS) & (result.stats.num_steps == 0)
    ended = ended & (t != problem.ts[-1])
    event = EventOccurrence(
        t, problem.y0, handler.ending_event(t, problem.y0), jnp.where(ended, ENDS, log.effect[0])
    )

    def first(row: Array, buffer: Array) -> Array:
        return buffer.at[0].set(jnp.where(ended, row, buffer[0]))

    log = log._replace(
        ts=first(t, log.ts),
        ys=first(event.y, log.ys),
        index=first(event.index, log.index),
        effect=first(event.effect, log.effect),
        count=jnp.where(ended, 1, log.count),
    )
    y1 = lax.cond(ended, lambda y1: handler.apply_event(event), lambda y1: y1, result.y1)
    return result._replace(log=log, y1=y1)
