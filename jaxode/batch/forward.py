"""The forward run of a batch: what a lane carries, what it records, what comes out."""

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
from ..integrate.events.discontinuities import one_sided_field
from ..integrate.events.handling import empty_log, handle_events
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
from ..integrate.save import StepRecord
from ..integrate.step import (
    IntegratorState,
    attempt_step,
    finalise,
    initialise,
    step_end,
    under_way,
)
from ..problem.field import Split
from ..problem.status import Status
from ..solvers.linear import WithJacobian
from .events import events_in_lanes
from .queue import LaneProgram, LaneTile
from .save import LaneSaveAtTimes, LaneSaveDense, LaneSavePoint, LaneSaveSteps


class LaneState(NamedTuple):
    """One trajectory in its lane, or many in theirs.

    `rows`: its own of the problem, but for `y0` and `ts`. `t1` and `direction` are None where all
    share them.
    """

    rows: tuple[IVP, SolveConfig]
    t1: Any
    direction: Any
    moving: IntegratorState
    reader: Any


class Iteration(NamedTuple):
    """What a tile did in one turn, for those who trace it: lanes before it, and their steps."""

    numbers: Array
    lanes: LaneState
    steps: StepRecord


Trace = Callable[[Any, Iteration], Any]


class BatchRun(eqx.Module):
    """The parts of a batch's forward run, over one ensemble and one tile."""

    ensemble: Ensemble
    tile: LaneTile
    saving: bool = eqx.field(static=True, default=True)

    @property
    def save(self) -> Save:
        """What is recorded."""
        return self.ensemble.config.save if self.saving else "ends"

    def work(self, trace: Trace | None = None) -> LaneProgram:
        """What the lanes do; the record is `(saved, traced)`."""

        def advance(numbers: Array, lanes: LaneState, record: Any) -> tuple[LaneState, Any]:
            (saved, log), traced = record
            after, steps = self.attempt(lanes)
            steps = steps._replace(accept=steps.accept & (numbers < self.ensemble.count))
            if trace is not None:
                traced = trace(traced, Iteration(numbers, lanes, steps))
            if self.ensemble.has_events:
                parts = self.ensemble, self.tile, lanes.rows, numbers, self.saving
                t1, _ = self.span(lanes)
                moving, steps, log = handle_events(
                    events_in_lanes(*parts), after.moving, steps, log, t1
                )
                after = after._replace(moving=moving)
            reader, saved = self.write(numbers, lanes, steps, saved)
            return after._replace(reader=reader), ((saved, log), traced)

        meter = self.ensemble.config.method.progress if self.saving else None
        return LaneProgram(
            self.ensemble.count, _idle, self.load, self.over, self.result, advance, meter
        )

    def load(self, number: Array) -> LaneState:
        """A trajectory at its start."""
        rows = jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False),
            self.ensemble.per_trajectory,
        )
        problem, plan = self.ensemble.one(rows)
        ts, direction = problem.ts, direction_of(problem.ts)
        field = packed_field(problem, plan)
        moving = initialise(plan.method, field, problem.y0, ts[0], ts[-1])
        if self.ensemble.has_events:
            moving = event_handler_of(problem, plan).initialise(moving, ts[-1])
        kept = dataclasses.replace(rows[0], y0=None, ts=None), rows[1]
        reader = self.at_times().reader(number, direction) if self.save == "ts" else ()
        span = (None, None) if rows[0].ts is None else (ts[-1], direction)
        return LaneState(kept, *span, moving, reader)

    def span(self, lanes: LaneState) -> tuple[Array, Array]:
        """The last time and the direction, of each lane or of all."""
        if lanes.t1 is not None:
            return lanes.t1, lanes.direction
        ts = self.ensemble.shared[0].ts
        return ts[-1], direction_of(ts)

    def stop(self, lanes: LaneState) -> Array:
        """The time that the next step may not pass, of each lane or of all."""
        return lanes.moving.event_state.stop if self.ensemble.jumps else self.span(lanes)[0]

    def over(self, lanes: LaneState) -> Array:
        """Which trajectories have ended."""
        t1, direction = self.span(lanes)
        return ~under_way(self.ensemble.config.method, lanes.moving, direction, t1)

    def result(self, lane: LaneState) -> tuple[Array, Array, Array]:
        """The state at a trajectory's end, the time reached, and status and counts."""
        t1, direction = self.span(lane)
        end = finalise(lane.moving, direction * (t1 - lane.moving.t))
        status = end.status
        if self.save == "ts":
            missed = (lane.reader.count < self.ensemble.all_times.shape[-1]) & (end.t == t1)
            status = times_status(status, lane.reader.ordered, missed)
        met = end.event_state.count if self.ensemble.shared[0].events else ()
        more = jax.tree.leaves((end.extra_evaluations, end.linear_algebra_counts, met))
        counts = status, end.num_steps, end.num_accepted, *more
        return end.y, end.t, jnp.stack(counts)

    def attempt(self, lanes: LaneState) -> tuple[LaneState, StepRecord]:
        """A step of every lane."""
        inside = self.inside(lanes)
        # The extra stages of a dense output are computed for all lanes where one needs them.
        anyone = inside if inside is None or inside is True else jnp.any(inside)
        method, field = method_in_lanes(self.ensemble, lanes.rows), self.field(lanes.rows)
        (_, direction), stop = self.span(lanes), self.stop(lanes)
        if self.ensemble.jumps:
            field = one_sided_field(field, lanes.moving.t, stop)
        moving, steps = attempt_step(method, field, lanes.moving, direction, stop, lambda _: anyone)
        if isinstance(inside, Array):  # a lane's count leaves out stages for another one's sake
            unread = method.solver.evaluations.dense * (jnp.any(inside) & ~inside)
            moving = moving._replace(
                extra_evaluations=jax.tree.map(lambda n: n - unread, moving.extra_evaluations)
            )
        steps = steps._replace(direction=jnp.broadcast_to(direction, steps.t.shape))
        return lanes._replace(moving=moving), steps

    def field(self, lane_rows: PyTree) -> Callable[..., Array]:
        """The field on lanes, `(t, y)` of shapes `(lanes,)` and `(..., lanes)`."""

        def in_lanes(pick: Callable[[Any], Callable]) -> Callable[..., Array]:
            def many(t: Array, y: Array, half: int | None = None) -> Array:
                def one(rows: PyTree, t: Array, y: Array) -> Array:
                    return pick(packed_field(*self.ensemble.one(rows)))(t, y, half)

                # The state of a stage enters each component of its slope: computed once, not there.
                y = lax.optimization_barrier(y)
                return jax.vmap(one, in_axes=-1, out_axes=-1)(lane_rows, t, y)

            return many

        def jacobian(rows: PyTree, t: Array, y: Array) -> Array:
            return packed_jacobian(*self.ensemble.one(rows))(t, y)

        def with_jacobian(field: Callable[..., Array]) -> Callable[..., Array]:
            if self.ensemble.shared[0].jac is None:
                return field
            matrices = jax.vmap(jacobian, in_axes=-1, out_axes=-1)
            return WithJacobian(field, lambda t, y: matrices(lane_rows, t, y))

        if isinstance(self.ensemble.shared[0].field, Split):
            stiff, other = in_lanes(lambda f: f.stiff), in_lanes(lambda f: f.other)
            return Split(with_jacobian(stiff), other)
        return with_jacobian(in_lanes(lambda f: f))

    def inside(self, lanes: LaneState) -> Array | bool | None:
        """Which lanes will read inside their next step; True where it does not matter."""
        if self.save == "dense" or self.ensemble.shared[0].events:
            return True
        if self.save != "ts":
            return None
        if not self.ensemble.config.method.solver.evaluations.dense:
            return True

        _, direction = self.span(lanes)
        end = step_end(lanes.moving, direction, self.stop(lanes))
        return direction * (lanes.reader.t - end) < 0

    def write(
        self, numbers: Array, lanes: LaneState, steps: StepRecord, saved: Any
    ) -> tuple[Any, Any]:
        """Record the steps: the readers after it, and what is saved."""
        if self.save == "ends":
            return lanes.reader, saved
        if self.save != "ts":
            return lanes.reader, self.every().write(saved, numbers, steps)

        t1, _ = self.span(lanes)

        def read(reader: LaneSavePoint) -> PyTree:
            last, final = reader.t == t1, reader.count == self.ensemble.all_times.shape[-1] - 1
            return values_in_lanes(self.ensemble, lanes.rows, reader.t, last, steps, final)

        return self.at_times().write(read, lanes.reader, numbers, steps, saved)

    def open(self) -> Any:
        """What is saved before the first step, and the log of events."""
        if not self.ensemble.shared[0].events:
            return self.first(), None
        y0 = self.ensemble.per_trajectory[0].y0
        rows, dtype = self.ensemble.config.max_events, self.ensemble.all_times.dtype
        return self.first(), empty_log((self.ensemble.count,), rows, y0[0], dtype)

    def first(self) -> Any:
        """What is saved before the first step."""
        own = self.ensemble.per_trajectory
        if self.save == "ends":
            return ()
        if self.save == "ts":
            return self.at_times().open(first_values(self.ensemble))
        t0 = jax.vmap(lambda rows: self.ensemble.ts(rows)[0])(own)
        return self.every().open(t0, own[0].y0)

    def at_times(self) -> LaneSaveAtTimes:
        """Recorder of values at the times."""
        return LaneSaveAtTimes(self.ensemble.all_times, self.tile)

    def every(self) -> LaneSaveSteps | LaneSaveDense:
        """Recorder of all steps."""
        method = self.ensemble.config.method
        if self.save == "steps":
            return LaneSaveSteps(method.max_steps, self.tile)
        return LaneSaveDense(method.max_steps, method.solver.num_dense, self.tile)

    def close(self, ended: TileResult) -> Result:
        """The results, trajectory by trajectory."""
        return result_of(self.ensemble, ended, self.tile.width, self.save)


def _idle(lanes: LaneState) -> LaneState:
    status = jnp.full_like(lanes.moving.status, Status.MAX_STEPS)
    return lanes._replace(moving=lanes.moving._replace(status=status))
