"""The solve itself, before anyone differentiates it: pick what to record, run the loop."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..problem.status import Status
from ..solvers.base import StepResult
from .events.handling import EventLog
from .ivp import IVP, SolveConfig, direction_of, event_handler_of, packed_field, step_reader
from .loop import Outcome, Recorder, integrate
from .save import SaveAtTimes, SaveDense, SavePointState, SaveSteps, missing_value
from .solution import DenseOutput, Events, Solution, Stats


class Result(NamedTuple):
    """Values as arrays: `ys` packed, or what `read` returns; `dense` holds the recorded steps."""

    ts: Any
    ys: PyTree
    y1: Array
    stats: Stats
    status: Array
    dense: tuple[Array, Array, Array, Array] | None
    log: EventLog | None = None


def run(
    problem: IVP,
    config: SolveConfig,
    tracing: Any = None,
    step: Callable[..., StepResult] | None = None,
) -> tuple[Result, Any]:
    """Solve, and trace the accepted steps if told to; `step` stands in for the solver's.

    `tracing` is a `Tracing` or `Clocking`, or what else opens, writes and closes as they do.
    """
    values = _recorder(problem, config)
    t0, y0 = problem.ts[0], problem.y0

    def open_record(carry: Any) -> tuple[Any, Any]:
        return values.open(), None if tracing is None else tracing.open(t0, y0, carry)

    def write(record: tuple[Any, Any], step: Any) -> tuple[Any, Any]:
        saved, trace = record
        saved = values.write(saved, step)
        return saved, None if tracing is None else tracing.write(trace, step)

    look = values.inside
    inside = None if look is None else (lambda record, t1, sign: look(record[0], t1, sign))
    field = packed_field(problem, config)
    watch = event_handler_of(problem, config) if problem.has_events else None
    recorder = Recorder(write, inside, step)
    outcome = integrate(config.method, field, y0, t0, problem.ts[-1], recorder, open_record, watch)
    saved, trace = outcome.record
    if tracing is not None:
        trace = tracing.close(trace, outcome.y1, outcome.solver_state)
    return values.close(saved, outcome)._replace(log=outcome.log), trace


class _Values(NamedTuple):
    open: Callable[[], Any]
    write: Callable[[Any, Any], Any]
    inside: Callable[[Any, Array, Array], Array | bool] | None
    close: Callable[[Any, Outcome], Result]


def _recorder(problem: IVP, config: SolveConfig) -> _Values:
    ts, y0 = problem.ts, problem.y0
    if config.save == "ends":

        def ends(saved: Any, out: Outcome) -> Result:
            return _result(ts, jnp.stack([y0, out.y1]), out)

        return _Values(lambda: (), lambda saved, step: saved, None, ends)
    if config.save == "ts":
        at = SaveAtTimes(ts, step_reader(problem, config))

        def written(saved: SavePointState, out: Outcome) -> Result:
            # A time that was never passed lies outside the span, unless that is empty or was left.
            missed = saved.cursor.is_incomplete(ts.shape[0]) & jnp.any(ts != ts[0])
            missed = missed & (out.stats.t_reached == ts[-1])
            status = times_status(out.status, saved.cursor.ordered, missed)
            return _result(ts, saved.buffers, out._replace(status=status))

        return _Values(lambda: at.open(y0), at.write, at.needs_dense, written)
    if config.save == "steps":
        every = SaveSteps(config.method.max_steps)

        def steps(saved: Any, out: Outcome) -> Result:
            return _result(*every.close(saved, out.stats.num_accepted), out)

        return _Values(lambda: every.open(ts[0], y0), every.write, None, steps)
    dense = SaveDense(config.method.max_steps, config.method.solver.num_dense)
    return _Values(
        lambda: dense.open(ts[0], y0),
        dense.write,
        lambda saved, t1, sign: True,
        lambda saved, out: _result(ts, None, out)._replace(
            dense=dense.close(saved, out.stats.num_accepted)
        ),
    )


def times_status(status: Array, ordered: Array, missed: Array) -> Array:
    """The status, given whether times were passed in order, and whether one never was."""
    bad = ~ordered | (missed & (status == Status.SUCCESS))
    return jnp.where(bad, jnp.int32(Status.BAD_TIMES), status)


def _result(ts: Array, ys: PyTree, out: Outcome) -> Result:
    return Result(ts, ys, out.y1, out.stats, out.status, None)


def solution_of(
    result: Result, problem: IVP, config: SolveConfig, consistent: Array | bool = True
) -> Solution:
    """What the user is given; `consistent` tells whether its start could be made so."""
    unpack = config.packing.unpack
    dense = None
    if result.dense is not None:
        t, h, y, slopes = result.dense
        count, solver = result.stats.num_accepted, config.method.solver
        dense = DenseOutput(t, h, y, slopes, count, solver.interpolate, config.packing)
        ys = dense(problem.ts)
    elif problem.read is not None:
        ys = result.ys
    else:
        ys = unpack(result.ys)
    # Times out of order cannot be refused under jit, so they get a status instead.
    status = result.status
    if config.save in ("steps", "dense") and problem.ts.shape[0] > 2:
        steps, direction = jnp.diff(problem.ts), direction_of(problem.ts)
        ordered = jnp.all(jnp.where(direction == 0, steps == 0, steps * direction >= 0))
        status = jnp.where(ordered, status, jnp.int32(Status.BAD_TIMES))
    status = jnp.where(consistent, status, jnp.int32(Status.INCONSISTENT_START))
    good = (status != Status.BAD_TIMES) & (status != Status.INCONSISTENT_START)
    if dense is not None:
        dense = dataclasses.replace(dense, h=jnp.where(good, dense.h, jnp.nan))
    ys, y1 = jax.tree.map(
        lambda x: jnp.where(good, x, missing_value(x.dtype)), (ys, unpack(result.y1))
    )
    # Times that are only handed back keep their gradient outside of the rule for the solve.
    ts = result.ts if config.save == "steps" else problem.ts
    events, stats = None, result.stats
    if result.log is not None:
        log = result.log
        ended = jnp.any(problem.ends[log.index])
        # The log is differentiated by every sensitivity, the counts are not.
        last = log.ts[jnp.clip(log.count, 1, log.ts.shape[0]) - 1]
        t_reached = jnp.where(ended, last, result.stats.t_reached)
        stats = dataclasses.replace(result.stats, t_reached=t_reached)
        events = Events(log.ts, unpack(log.ys), log.index, log.count, ended)
        if dense is not None:
            dense = dataclasses.replace(dense, last=result.stats.t_reached)
    return Solution(ts, ys, y1, stats, status, dense, events)
