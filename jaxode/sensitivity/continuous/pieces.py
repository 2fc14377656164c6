"""The continuous adjoint over events and jumps: one adjoint equation for each piece between them.

A solve without derivatives finds the events. The pieces between them and the jumps are solved
again, one after the other, each differentiable by its own adjoint equation; between two of them
stand the derivative of the event's time, by the implicit function theorem, and the state maps.
Values are those of the first solve, derivatives those of the pieces: nothing is solved twice
without a derivative.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.events.compiled import packed_apply
from ...integrate.events.detection import ENDS, RECORDED, EventOccurrence
from ...integrate.events.handling import EventLog
from ...integrate.events.state_jumps import moved
from ...integrate.forward import Result
from ...integrate.ivp import IVP, SolveConfig, direction_of, event_handler_of, packed_field
from ...integrate.missing import missing_where
from ...integrate.save import with_derivative_of
from ...problem.errors import OptionError
from ...problem.field import map_parts

# Times that differ by no more roundings are one.
_SAME = 64


class Breaks(NamedTuple):
    """What ends the pieces of one trajectory, in order; of pieces of no length at its end nothing.

    - `t`: the times. Those of jumps have derivatives.
    - `row`: of an event its row in the log, else -1. `jump`: of a jump its place, else -1.
    - `late`: of an event, if it occurred at the very time of the break before it.
    """

    t: Array
    row: Array
    jump: Array
    late: Array


class Course(NamedTuple):
    """Time and state where a piece starts, and what the pieces before it have led to.

    `takes_start`: values saved at that very time are those of this piece. `ys`: the states saved,
    `log_ts`, `log_ys`: times and states of events.
    """

    t: Array
    y: Array
    takes_start: Array
    ys: Array
    log_ts: Any
    log_ys: Any


class PieceField(eqx.Module):
    """A part of a vector field at times strictly between `start` and `stop`."""

    part: Callable[..., PyTree]
    start: Any
    stop: Any

    def __call__(self, t: Array, y: PyTree, args: PyTree) -> PyTree:
        """Evaluate it."""
        low, high = jnp.minimum(self.start, self.stop), jnp.maximum(self.start, self.stop)
        first, last = (x.astype(t.dtype) for x in (low, high))
        inside = jnp.clip(t, jnp.nextafter(first, last), jnp.nextafter(last, first))
        return self.part(with_derivative_of(inside, t), y, args)


def check_pieces(config: SolveConfig) -> None:
    """**Raises:** `OptionError` for events and jumps in a system with a mass matrix."""
    if getattr(config.method.solver, "mass", None) is not None:
        raise OptionError(
            "the continuous adjoint does not go through events and jumps of a system with a mass "
            'matrix: use sensitivity="discrete" or "forward"'
        )


def find_breaks(problem: IVP, log: EventLog | None, t_reached: Array) -> tuple[Breaks, Array]:
    """The breaks of one trajectory, whose events are in the log, and the time where it ended.

    Both times are NaN where nothing is left to solve: after a terminal event.
    """
    ts, direction = problem.ts, direction_of(problem.ts)
    none = jnp.zeros(0, jnp.int32)
    times, used, rows, jumps, late = [], [], none, none, none.astype(bool)
    reached = lax.stop_gradient(t_reached)
    end = jnp.where(reached == ts[-1], ts[-1], reached)
    if log is not None:
        rows = jnp.arange(log.ts.shape[0], dtype=jnp.int32)
        end = jnp.where(jnp.any(log.effect == ENDS), jnp.nan, end)
        times, used, late = [lax.stop_gradient(log.ts)], [rows < log.count], log.late
    if problem.jumps is not None:
        jumps = jnp.arange(problem.jumps.shape[0], dtype=jnp.int32)
        after, before = problem.jumps - ts[0], reached - problem.jumps
        inside = (direction * after > 0) & (direction * before >= 0) & (problem.jumps != ts[-1])
        times, used = [*times, problem.jumps], [*used, inside]
    # At one time: events of the steps that end there, jumps, and the events that these cause.
    rank = jnp.concatenate([2 * late.astype(jnp.int32), jnp.ones_like(jumps)])
    time, known = jnp.concatenate(times), jnp.concatenate(used)
    key = jnp.where(known, direction * lax.stop_gradient(time), jnp.inf)
    order = jnp.lexsort((rank, key))

    def in_order(x: Array, fill: Any) -> Array:
        return jnp.where(known, x, fill)[order]

    no_row, no_jump = jnp.full_like(jumps, -1), jnp.full_like(rows, -1)
    breaks = Breaks(
        in_order(time, end),
        in_order(jnp.concatenate([rows, no_row]), -1),
        in_order(jnp.concatenate([no_jump, jumps]), -1),
        in_order(jnp.concatenate([late, no_row > 0]), False),
    )
    return breaks, end


def piece_times(problem: IVP, config: SolveConfig, course: Course, stop: Array) -> Array:
    """The times of a piece: its start, those that are saved in it, its end."""
    low, high = lax.stop_gradient((jnp.minimum(course.t, stop), jnp.maximum(course.t, stop)))
    # What lies outside is not read.
    inside = with_derivative_of(jnp.clip(problem.ts, low, high), problem.ts)
    return jnp.concatenate([course.t[None], inside, stop[None]])


def after_piece(
    problem: IVP, config: SolveConfig, course: Course, at: Breaks, log: Any, solved: Any
) -> Course:
    """The course after a piece, whose states `solved` are those at its times; `at`: its end."""
    ts, direction, (ys, y), t = problem.ts, direction_of(problem.ts), solved, at.t
    since, until = direction * (ts - course.t), direction * (ts - t)
    goes_on = (at.jump >= 0) & config.saves_after_jumps
    own = (since > 0) | ((ts == course.t) & course.takes_start)
    own = own & ((until < 0) | ((ts == t) & ~goes_on))
    rows = own.reshape(-1, *[1] * y.ndim)
    course = course._replace(ys=jnp.where(rows, ys[1:-1], course.ys), takes_start=goes_on)
    if log is not None:
        is_event, row = at.row >= 0, jnp.maximum(at.row, 0)
        number, effect = log.index[row], log.effect[row]
        located = _located(problem, config, course.t, at, y, number)
        t, y = jnp.where(is_event, located[0], t), jnp.where(is_event, located[1], y)
        place = jnp.where(is_event, row, log.ts.shape[0])
        course = course._replace(
            log_ts=course.log_ts.at[place].set(t, mode="drop"),
            log_ys=course.log_ys.at[place].set(y, mode="drop"),
        )
        event = EventOccurrence(t, y, number, effect)
        applied = event_handler_of(problem, config).apply_event(event)
        y = jnp.where(is_event & (effect != RECORDED), applied, y)
    if problem.jump_map is not None:
        place = jnp.maximum(at.jump, 0)
        jumped = packed_apply(problem.jump_map, t, y, problem.args, config.packing, place)
        y = jnp.where(at.jump >= 0, jumped, y)
    return course._replace(t=t, y=y)


def _located(
    problem: IVP, config: SolveConfig, start: Array, at: Breaks, y: Array, number: Array
) -> tuple[Array, Array]:
    """Time and state of an event at the end of a piece, differentiable as the root that it is.

    An event that the break before it caused happens at the time of that, the start of the piece.
    """
    handler, field = event_handler_of(problem, config), packed_field(problem, config)
    is_event = jnp.arange(handler.num_events) == number

    def condition(t: Array, y: Array) -> Array:
        return jnp.sum(jnp.where(is_event, handler.values_at(t, y, jnp.zeros_like(t)), 0))

    t, slope = at.t, lax.stop_gradient(field(at.t, y))
    here, value = lax.stop_gradient((t, y)), condition(t, y)
    rate = lax.stop_gradient(jax.jvp(condition, here, (jnp.ones_like(t), slope))[1])
    logical = jnp.asarray(handler.of_each(lambda event: event.logical))
    constant = (rate == 0) | jnp.any(is_event & logical)
    change = (lax.stop_gradient(value) - value) / jnp.where(constant, 1, rate)
    root = t + jnp.where(constant, 0, change).astype(t.dtype)
    caused = at.late & (jnp.abs(t - start) <= _SAME * jnp.finfo(t.dtype).eps * jnp.abs(t))
    root = jnp.where(caused, with_derivative_of(t, start), root)
    return root, moved(y, root - t, slope)


def solve_in_pieces(
    found: Result,
    each: Callable[..., Any],
    solve_piece: Callable[[Array, Array, Array], tuple[Array, Array]],
    y0: Array,
    batch: bool,
    save: str,
) -> Result:
    """The result `found` of a solve, with the derivatives of its pieces.

    `each(function, *arrays)` calls `function(problem, config, *arrays)` for the trajectory, or for
    each of a `batch`. `solve_piece(times, y, stop)` solves from `y` at the first of the times to
    `stop`, and returns the states at all of them and the last one.
    """
    log, axis = found.log, int(batch)

    def breaks_of(problem: IVP, config: SolveConfig, log: Any, t: Array) -> tuple[Breaks, Array]:
        return find_breaks(problem, log, t)

    breaks, end = each(breaks_of, log, found.stats.t_reached)
    ts = each(lambda problem, config: problem.ts)
    known = lambda x: jnp.nan_to_num(lax.stop_gradient(x))  # noqa: E731
    course = Course(
        ts[..., 0],
        y0,
        jnp.ones_like(end, bool),
        jnp.zeros((*ts.shape, *y0.shape[axis:]), y0.dtype),
        None if log is None else known(log.ts),
        None if log is None else known(log.ys),
    )
    none = jnp.full_like(end, -1, jnp.int32)
    last = Breaks(end, none, none, none > 0)

    def piece(course: Course, at: Breaks) -> tuple[Course, None]:
        at = at._replace(t=jnp.where(jnp.isnan(at.t), course.t, at.t))
        solved = solve_piece(each(piece_times, course, at.t), course.y, at.t)
        return each(after_piece, course, at, log, solved), None

    breaks = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), breaks)
    course, _ = piece(lax.scan(piece, course, breaks)[0], last)
    ys = jnp.stack([y0, course.y], axis) if save == "ends" else course.ys
    if log is not None:
        log = log._replace(ts=_derived(log.ts, course.log_ts), ys=_derived(log.ys, course.log_ys))
    return found._replace(ys=_derived(found.ys, ys), y1=_derived(found.y1, course.y), log=log)


def _derived(value: Array, other: Array) -> Array:
    """The value with the derivative of another; what was not reached has none."""
    return with_derivative_of(value, missing_where(jnp.isnan(value), other))


def constant(problem: Any) -> Any:
    """A problem or an ensemble, by whose arrays nothing is differentiated."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, problem)


def field_between(field: Any, start: Any, stop: Any) -> Any:
    """The field of a piece, or those of pieces of many trajectories."""
    if start is not None:
        start, stop = lax.stop_gradient((start, stop))
    return map_parts(lambda part: PieceField(part, start, stop), field)


def without_breaks(problem: IVP) -> IVP:
    """The problem without its events and jumps."""
    return dataclasses.replace(problem, events=(), jumps=None, jump_map=None)


def for_pieces(config: SolveConfig) -> SolveConfig:
    """The configuration of the solve of a piece."""
    method = dataclasses.replace(config.method, progress=None, restarts=False)
    return dataclasses.replace(config, method=method, save="ts", max_events=0)
