"""The forward solve of one trajectory: recorders of the save mode, the loop, the solution."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..problem.field import Field
from ..problem.status import Status
from ..solvers.base import StepResult
from .events.handling import EventLog
from .ivp import (
    IVP,
    SolveConfig,
    event_handler_of,
    for_derivatives,
    nudged_problem,
    packed_field,
    step_reader,
)
from .loop import Outcome, Recorder, integrate
from .save import SaveAtTimes, SaveDense, SavePointState, SaveSteps
from .solution import Stats


class Result(NamedTuple):
    """The result of a solve in packed arrays.

    `ys` holds packed states, or the values of `save_fn`. `dense` holds the recorded steps. `log` is
    the log of events.
    """

    ts: Any
    ys: PyTree
    y1: Array
    stats: Stats
    status: Array
    dense: tuple[Array, Array, Array, Array] | None
    log: EventLog | None = None


def solve_forward(
    problem: IVP,
    config: SolveConfig,
    trace_recorder: Any = None,
    step: Callable[[Array | bool], Callable[..., StepResult]] | None = None,
    perturbed: Any = None,
) -> tuple[Result, Any]:
    """Solve the problem; returns the result, and the trace that `trace_recorder` made of the steps.

    `trace_recorder` is a `CheckpointRecorder`, a `TimeRecorder`, or another object with their
    methods `open`, `write` and `close`, and `end` if it records the last state. `step` replaces the
    solver's, as in a `Recorder`. `perturbed` marks the arrays of `problem` by which the solution is
    differentiated, if it is.
    """
    if perturbed is not None:
        config = for_derivatives(problem, config, perturbed)
    save_mode = _save_mode(problem, config)
    t0, y0 = problem.ts[0], problem.y0

    def open_record(solver_state: Any) -> tuple[Any, Any]:
        saved = save_mode.open()
        return saved, None if trace_recorder is None else trace_recorder.open(t0, y0, solver_state)

    def write(record: tuple[Any, Any], step: Any) -> tuple[Any, Any]:
        saved, trace = record
        saved = save_mode.write(saved, step)
        return saved, None if trace_recorder is None else trace_recorder.write(trace, step)

    saved_needs_dense = save_mode.needs_dense
    needs_dense = (
        None
        if saved_needs_dense is None
        else lambda record, t1, direction: saved_needs_dense(record[0], t1, direction)
    )

    def field_of_turn(due: Array | bool) -> Field:
        return packed_field(nudged_problem(problem, config, due), config)

    event_handler = event_handler_of(problem, config) if problem.has_events else None
    record_end = getattr(trace_recorder, "end", None)
    end = None if record_end is None else lambda record, y: (record[0], record_end(record[1], y))
    recorder = Recorder(write, needs_dense, step, end)
    outcome = integrate(
        config.method,
        field_of_turn,
        y0,
        t0,
        problem.ts[-1],
        recorder,
        open_record,
        event_handler,
    )
    saved, trace = outcome.record
    if trace_recorder is not None:
        trace = trace_recorder.close(trace, outcome.solver_state)
    return save_mode.close(saved, outcome)._replace(log=outcome.log), trace


class _SaveMode(NamedTuple):
    """The recorder of one `save` option: its functions, as of a `Recorder`, and its result."""

    open: Callable[[], Any]
    write: Callable[[Any, Any], Any]
    needs_dense: Callable[[Any, Array, Array], Array | bool] | None
    close: Callable[[Any, Outcome], Result]


def _save_mode(problem: IVP, config: SolveConfig) -> _SaveMode:
    ts, y0 = problem.ts, problem.y0
    if config.save == "ends":

        def close_ends(saved: Any, out: Outcome) -> Result:
            return _result(ts, jnp.stack([y0, out.y1]), out)

        return _SaveMode(lambda: (), lambda saved, step: saved, None, close_ends)
    if config.save == "ts":
        at_times = SaveAtTimes(ts, step_reader(problem, config))

        def close_times(saved: SavePointState, out: Outcome) -> Result:
            # A time that no step passed lies outside the span, unless the span is empty or an event
            # ended the solve.
            missed = saved.cursor.is_incomplete(ts.shape[0]) & jnp.any(ts != ts[0])
            missed = missed & (out.stats.t_reached == ts[-1])
            status = times_status(out.status, saved.cursor.ordered, missed)
            return _result(ts, saved.buffers, out._replace(status=status))

        return _SaveMode(
            lambda: at_times.open(y0), at_times.write, at_times.needs_dense, close_times
        )
    if config.save == "steps":
        steps = SaveSteps(config.method.max_steps)

        def close_steps(saved: Any, out: Outcome) -> Result:
            return _result(*steps.close(saved, out.stats.num_accepted), out)

        return _SaveMode(lambda: steps.open(ts[0], y0), steps.write, None, close_steps)
    dense = SaveDense(config.method.max_steps, config.method.solver.num_dense)
    return _SaveMode(
        lambda: dense.open(ts[0], y0),
        dense.write,
        lambda saved, t1, direction: True,
        lambda saved, out: _result(ts, None, out)._replace(
            dense=dense.close(saved, out.stats.num_accepted)
        ),
    )


def times_status(status: Array, ordered: Array, missed: Array) -> Array:
    """The status `BAD_TIMES` for times that are not `ordered` or `missed`; else `status`."""
    bad = ~ordered | (missed & (status == Status.SUCCESS))
    return jnp.where(bad, jnp.int32(Status.BAD_TIMES), status)


def _result(ts: Array, ys: PyTree, out: Outcome) -> Result:
    return Result(ts, ys, out.y1, out.stats, out.status, None)
