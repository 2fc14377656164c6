"""The forward run of a batch in lanes: the state of a lane, its steps, records and results."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.ensemble import (
    Ensemble,
    TileResult,
    first_values,
    method_in_lanes,
    result_of,
    values_in_lanes,
)
from ..integrate.events.discontinuities import field_for_looking_ahead, one_sided_field
from ..integrate.events.handling import empty_log, handle_events
from ..integrate.follow_up import follow_up, waits
from ..integrate.forward import Result, times_status
from ..integrate.ivp import (
    IVP,
    Save,
    SolveConfig,
    direction_of,
    event_handler_of,
    packed_field,
    packed_jacobian,
)
from ..integrate.save import SaveCursor, StepRecord
from ..integrate.step import (
    IntegratorState,
    attempt_step,
    finalise,
    initialise,
    needs_step,
    step_end,
)
from ..problem.field import Split
from ..problem.status import Status
from ..solvers.linear import WithJacobian
from .events import events_in_lanes
from .queue import LaneProgram, LaneTile
from .save import LaneSaveAtTimes, LaneSaveDense, LaneSaveSteps


class LaneState(NamedTuple):
    """The state of one lane, or of all lanes of a tile.

    `rows`: the trajectory's own part of the problem, without `y0` and `ts`. `t1` and `direction`
    are None where all trajectories share them. `cursor`: the save-point cursor, where times are
    saved.
    """

    rows: tuple[IVP, SolveConfig]
    t1: Any
    direction: Any
    integrator: IntegratorState
    cursor: Any


class Iteration(NamedTuple):
    """One iteration of a tile, as tracers see it: the lanes before it, and their steps."""

    numbers: Array
    lanes: LaneState
    steps: StepRecord


IterationTracer = Callable[[Any, Iteration], Any]


class BatchRun(eqx.Module):
    """The forward run of an ensemble in the lanes of one tile; nothing is saved unless `saving`."""

    ensemble: Ensemble
    tile: LaneTile
    saving: bool = eqx.field(static=True, default=True)

    @property
    def save(self) -> Save:
        """The save mode of this run."""
        return self.ensemble.config.save if self.saving else "ends"

    def lane_program(self, trace: IterationTracer | None = None) -> LaneProgram:
        """Return the operations on lanes; their record is `((saved, log), traced)`."""

        def advance(numbers: Array, lanes: LaneState, record: Any) -> tuple[LaneState, Any]:
            (saved, log), traced = record
            after, steps = self.attempt_step(lanes)
            steps = steps._replace(accept=steps.accept & (numbers < self.ensemble.count))
            if trace is not None:
                traced = trace(traced, Iteration(numbers, lanes, steps))
            if self.ensemble.has_events:
                parts = self.ensemble, self.tile, lanes.rows, numbers, self.saving
                t1, _ = self.span(lanes)
                integrator, steps, log = handle_events(
                    events_in_lanes(*parts), after.integrator, steps, log, t1
                )
                after = after._replace(integrator=integrator)
            cursor, saved = self.write(numbers, lanes, steps, saved)
            return after._replace(cursor=cursor), ((saved, log), traced)

        method = self.ensemble.config.method
        return LaneProgram(
            self.ensemble.count,
            _blank_lanes,
            self.load,
            self.finished,
            self.result,
            advance,
            method.progress if self.saving else None,
            _waits if method.has_neighbour else None,
            self.follow if method.has_neighbour else None,
        )

    def follow(self, numbers: Array, lanes: LaneState) -> LaneState:
        """Let the neighbours of lanes follow where they wait."""
        method = method_in_lanes(self.ensemble, lanes.rows)
        t1, direction = self.span(lanes)
        mask = numbers < self.ensemble.count
        integrator = follow_up(method, lanes.integrator, direction, t1, mask)
        return lanes._replace(integrator=integrator)

    def load(self, number: Array) -> LaneState:
        """Return a trajectory at its start."""
        rows = jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False),
            self.ensemble.per_trajectory,
        )
        problem, config = self.ensemble.problem_of(rows)
        ts, direction = problem.ts, direction_of(problem.ts)
        field = packed_field(problem, config)
        integrator = initialise(config.method, field, problem.y0, ts[0], ts[-1])
        if self.ensemble.has_events:
            integrator = event_handler_of(problem, config).initialise(integrator, ts[-1])
        own = dataclasses.replace(rows[0], y0=None, ts=None), rows[1]
        cursor = self.times_recorder().cursor(number, direction) if self.save == "ts" else ()
        span = (None, None) if rows[0].ts is None else (ts[-1], direction)
        return LaneState(own, *span, integrator, cursor)

    def span(self, lanes: LaneState) -> tuple[Array, Array]:
        """Return the last time and the direction, per lane or shared."""
        if lanes.t1 is not None:
            return lanes.t1, lanes.direction
        ts = self.ensemble.shared[0].ts
        return ts[-1], direction_of(ts)

    def step_limit(self, lanes: LaneState) -> Array:
        """Return the time that the next step may not pass, per lane or shared."""
        return (
            lanes.integrator.event_state.stop_time
            if self.ensemble.has_jumps
            else self.span(lanes)[0]
        )

    def finished(self, lanes: LaneState) -> Array:
        """Return the mask of lanes whose trajectories have ended."""
        t1, direction = self.span(lanes)
        return ~needs_step(self.ensemble.config.method, lanes.integrator, direction, t1)

    def result(self, lane: LaneState) -> tuple[Array, Array, Array, Array]:
        """Return a trajectory's last state, its time, status with counts, and next step size."""
        t1, direction = self.span(lane)
        end = finalise(lane.integrator, direction * (t1 - lane.integrator.t))
        status = end.status
        if self.save == "ts":
            missed = lane.cursor.is_incomplete(self.ensemble.all_times.shape[-1]) & (end.t == t1)
            status = times_status(status, lane.cursor.ordered, missed)
        num_events = end.event_state.count if self.ensemble.shared[0].events else ()
        optional = jax.tree.leaves((end.extra_evaluations, end.linear_algebra_counts, num_events))
        counts = status, end.num_steps, end.num_accepted, *optional
        return end.y, end.t, jnp.stack(counts), end.h

    def attempt_step(self, lanes: LaneState) -> tuple[LaneState, StepRecord]:
        """Attempt a step of every lane."""
        needs = self.needs_dense(lanes)
        # The extra stages of a dense output are computed in all lanes where one needs them.
        any_needs = needs if needs is None or needs is True else jnp.any(needs)
        method, field = method_in_lanes(self.ensemble, lanes.rows), self.field_of_turn(lanes)
        (_, direction), limit = self.span(lanes), self.step_limit(lanes)
        ahead = one_sided_field if self.ensemble.has_jumps else self.looking_ahead
        field = ahead(field, lanes.integrator.t, limit)
        integrator, steps = attempt_step(
            method, field, lanes.integrator, direction, limit, lambda _: any_needs
        )
        if isinstance(needs, Array):  # a lane does not count stages that only other lanes need
            unneeded = method.solver.evaluations.dense * (jnp.any(needs) & ~needs)
            integrator = integrator._replace(
                extra_evaluations=jax.tree.map(lambda n: n - unneeded, integrator.extra_evaluations)
            )
        steps = steps._replace(direction=jnp.broadcast_to(direction, steps.t.shape))
        return lanes._replace(integrator=integrator), steps

    def looking_ahead(self, field: Callable, start: Array, stop: Array) -> Callable:
        """Return the field of the lanes for a solver that may look past `stop`."""
        solver = self.ensemble.config.method.solver
        return field_for_looking_ahead(field, solver, start, stop)

    def field_of_turn(self, lanes: LaneState) -> Callable[..., Array]:
        """Return the field of the lanes, or where neighbours are due in any, that of neighbours."""
        ensemble, rows = self.ensemble.nudged(lanes.rows, lanes.integrator.neighbour_due)
        return dataclasses.replace(self, ensemble=ensemble).field(rows)

    def field(self, lane_rows: PyTree) -> Callable[..., Array]:
        """Return the field on lanes, of `(t, y)` with shapes `(lanes,)` and `(..., lanes)`."""

        def in_lanes(pick: Callable[[Any], Callable]) -> Callable[..., Array]:
            def field_in_lanes(t: Array, y: Array, half: int | None = None) -> Array:
                def field_of_lane(rows: PyTree, t: Array, y: Array) -> Array:
                    problem, config = self.ensemble.problem_of(rows)
                    problem = dataclasses.replace(problem, ts=None)
                    return pick(packed_field(problem, config))(t, y, half)

                # The barrier keeps XLA from recomputing y in every component of the slope.
                y = lax.optimization_barrier(y)
                return jax.vmap(field_of_lane, in_axes=-1, out_axes=-1)(lane_rows, t, y)

            return field_in_lanes

        def jacobian(rows: PyTree, t: Array, y: Array) -> Array:
            return packed_jacobian(*self.ensemble.problem_of(rows))(t, y)

        def with_jacobian(field: Callable[..., Array]) -> Callable[..., Array]:
            if self.ensemble.shared[0].jac is None:
                return field
            matrices = jax.vmap(jacobian, in_axes=-1, out_axes=-1)
            return WithJacobian(field, lambda t, y: matrices(lane_rows, t, y))

        if isinstance(self.ensemble.shared[0].field, Split):
            stiff, other = in_lanes(lambda f: f.stiff), in_lanes(lambda f: f.other)
            return Split(with_jacobian(stiff), other)
        return with_jacobian(in_lanes(lambda f: f))

    def needs_dense(self, lanes: LaneState) -> Array | bool | None:
        """Return which lanes need dense output of their next step; True where that is free."""
        if self.save == "dense" or self.ensemble.shared[0].events:
            return True
        if self.save != "ts":
            return None
        if not self.ensemble.config.method.solver.evaluations.dense:
            return True
        _, direction = self.span(lanes)
        method = self.ensemble.config.method
        end = step_end(method, lanes.integrator, direction, self.step_limit(lanes))
        return lanes.cursor.is_before(end, direction)

    def write(
        self, numbers: Array, lanes: LaneState, steps: StepRecord, saved: Any
    ) -> tuple[Any, Any]:
        """Record the steps: the cursors after them, and the saved values."""
        if self.save == "ends":
            return lanes.cursor, saved
        if self.save != "ts":
            return lanes.cursor, self.steps_recorder().write(saved, numbers, steps)

        t1, _ = self.span(lanes)

        def read(cursor: SaveCursor) -> PyTree:
            num_times = self.ensemble.all_times.shape[-1]
            last, final = cursor.is_last(t1), cursor.is_final(num_times)
            return values_in_lanes(self.ensemble, lanes.rows, cursor.t, last, steps, final)

        return self.times_recorder().write(read, lanes.cursor, numbers, steps, saved)

    def initial_record(self) -> Any:
        """Return the record before the first step: saved values, and the log of events."""
        if not self.ensemble.shared[0].events:
            return self.initial_values(), None
        y0 = self.ensemble.per_trajectory[0].y0
        length, dtype = self.ensemble.config.max_events, self.ensemble.all_times.dtype
        return self.initial_values(), empty_log((self.ensemble.count,), length, y0[0], dtype)

    def initial_values(self) -> Any:
        """Return the buffers of saved values before the first step."""
        own = self.ensemble.per_trajectory
        if self.save == "ends":
            return ()
        if self.save == "ts":
            return self.times_recorder().open(first_values(self.ensemble))
        t0 = jax.vmap(lambda rows: self.ensemble.ts(rows)[0])(own)
        return self.steps_recorder().open(t0, own[0].y0)

    def times_recorder(self) -> LaneSaveAtTimes:
        """Return the recorder of values at the times."""
        return LaneSaveAtTimes(self.ensemble.all_times, self.tile)

    def steps_recorder(self) -> LaneSaveSteps | LaneSaveDense:
        """Return the recorder of all accepted steps."""
        method = self.ensemble.config.method
        if self.save == "steps":
            return LaneSaveSteps(method.max_steps, self.tile)
        return LaneSaveDense(method.max_steps, method.solver.num_dense, self.tile)

    def gather_results(self, ended: TileResult) -> Result:
        """Return the result with the trajectories as first axis."""
        return result_of(self.ensemble, ended, self.tile.width, self.save)


def _waits(lanes: LaneState) -> Array:
    return waits(lanes.integrator)


def _blank_lanes(lanes: LaneState) -> LaneState:
    status = jnp.full_like(lanes.integrator.status, Status.MAX_STEPS)
    return lanes._replace(integrator=lanes.integrator._replace(status=status))
