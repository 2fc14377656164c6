"""The forward run of a batch: what a lane carries, what it records, what comes out."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..control import Tolerance
from ..forward import (
    Plan,
    Problem,
    Result,
    Save,
    direction_of,
    packed_field,
    packed_jacobian,
    reading,
    times_status,
)
from ..linalg import WithJacobian
from ..record import Step, state_at
from ..solution import Status
from ..split import Split
from ..trajectory import Method, Moving, attempt, begin, judged, stats_of, step_end, under_way
from .lanes import Ended, Tile, Work
from .saving import AtTimes, EveryDense, EveryStep, Reader


class Ensemble(eqx.Module):
    """Many problems of one form.

    `own` holds what each trajectory has for itself, an array's first axis being the trajectories;
    `shared` all the rest. Both are `(Problem, Plan)`, None in the places that the other fills.
    """

    own: tuple[Problem, Plan]
    shared: tuple[Problem, Plan]

    def one(self, rows: PyTree) -> tuple[Problem, Plan]:
        """The problem of one trajectory, from its rows of `own`."""
        return eqx.combine(rows, self.shared)

    def ts(self, rows: PyTree) -> Array:
        """The times of a trajectory."""
        own = rows[0].ts
        return self.shared[0].ts if own is None else own

    @property
    def all_times(self) -> Array:
        """The times, shape `(times,)` or `(trajectories, times)`."""
        own = self.own[0].ts
        return self.shared[0].ts if own is None else own

    @property
    def count(self) -> int:
        """How many trajectories."""
        return self.own[0].y0.shape[0]

    @property
    def plan(self) -> Plan:
        """The plan, for what is static in it: solver, packing, `save`."""
        return self.shared[1]


class Lane(NamedTuple):
    """One trajectory in its lane, or many in theirs.

    `rows`: its own of the problem, but for `y0` and `ts`. `t1` and `direction` are None where all
    share them.
    """

    rows: tuple[Problem, Plan]
    t1: Any
    direction: Any
    moving: Moving
    reader: Any


class Turn(NamedTuple):
    """What a tile did in one turn, for those who trace it: lanes before it, and their steps."""

    numbers: Array
    lanes: Lane
    steps: Step


Trace = Callable[[Any, Turn], Any]


class Run(eqx.Module):
    """The parts of a batch's forward run, over one ensemble and one tile."""

    ensemble: Ensemble
    tile: Tile
    saving: bool = eqx.field(static=True, default=True)

    @property
    def save(self) -> Save:
        """What is recorded."""
        return self.ensemble.plan.save if self.saving else "ends"

    def work(self, trace: Trace | None = None) -> Work:
        """What the lanes do; the record is `(saved, traced)`."""

        def advance(numbers: Array, lanes: Lane, record: Any) -> tuple[Lane, Any]:
            saved, traced = record
            after, steps = self.attempt(lanes)
            steps = steps._replace(accept=steps.accept & (numbers < self.ensemble.count))
            if trace is not None:
                traced = trace(traced, Turn(numbers, lanes, steps))
            reader, saved = self.write(numbers, lanes, steps, saved)
            return after._replace(reader=reader), (saved, traced)

        meter = self.ensemble.plan.method.progress if self.saving else None
        return Work(self.ensemble.count, _idle, self.load, self.over, self.result, advance, meter)

    def load(self, number: Array) -> Lane:
        """A trajectory at its start."""
        rows = jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), self.ensemble.own
        )
        problem, plan = self.ensemble.one(rows)
        ts, direction = problem.ts, direction_of(problem.ts)
        field = packed_field(problem, plan)
        moving = begin(plan.method, field, problem.y0, ts[0], ts[-1])
        kept = dataclasses.replace(rows[0], y0=None, ts=None), rows[1]
        reader = self.at_times().reader(number, direction) if self.save == "ts" else ()
        span = (None, None) if rows[0].ts is None else (ts[-1], direction)
        return Lane(kept, *span, moving, reader)

    def span(self, lanes: Lane) -> tuple[Array, Array]:
        """The last time and the direction, of each lane or of all."""
        if lanes.t1 is not None:
            return lanes.t1, lanes.direction
        ts = self.ensemble.shared[0].ts
        return ts[-1], direction_of(ts)

    def over(self, lanes: Lane) -> Array:
        """Which trajectories have ended."""
        t1, direction = self.span(lanes)
        return ~under_way(self.ensemble.plan.method, lanes.moving, direction, t1)

    def result(self, lane: Lane) -> tuple[Array, Array, Array]:
        """The state at a trajectory's end, the time reached, and status and counts."""
        t1, direction = self.span(lane)
        end = judged(lane.moving, direction * (t1 - lane.moving.t))
        status = end.status
        if self.save == "ts":
            missed = lane.reader.count < self.ensemble.all_times.shape[-1]
            status = times_status(status, lane.reader.ordered, missed)
        more = jax.tree.leaves((end.num_more, end.num_made))
        counts = status, end.num_steps, end.num_accepted, *more
        return end.y, end.t, jnp.stack(counts)

    def attempt(self, lanes: Lane) -> tuple[Lane, Step]:
        """A step of every lane."""
        inside = self.inside(lanes)
        # The extra stages of a dense output are computed for all lanes where one needs them.
        anyone = inside if inside is None or inside is True else jnp.any(inside)
        method, field = method_in_lanes(self.ensemble, lanes.rows), self.field(lanes.rows)
        t1, direction = self.span(lanes)
        moving, steps = attempt(method, field, lanes.moving, direction, t1, lambda _: anyone)
        if isinstance(inside, Array):  # a lane's count leaves out stages for another one's sake
            unread = method.solver.evaluations.inside * (jnp.any(inside) & ~inside)
            moving = moving._replace(num_more=jax.tree.map(lambda n: n - unread, moving.num_more))
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

    def inside(self, lanes: Lane) -> Array | bool | None:
        """Which lanes will read inside their next step; True where it does not matter."""
        if self.save == "dense":
            return True
        if self.save != "ts":
            return None
        if not self.ensemble.plan.method.solver.evaluations.inside:
            return True

        t1, direction = self.span(lanes)
        return direction * (lanes.reader.t - step_end(lanes.moving, direction, t1)) < 0

    def write(self, numbers: Array, lanes: Lane, steps: Step, saved: Any) -> tuple[Any, Any]:
        """Record the steps: the readers after it, and what is saved."""
        if self.save == "ends":
            return lanes.reader, saved
        if self.save != "ts":
            return lanes.reader, self.every().write(saved, numbers, steps)

        t1, _ = self.span(lanes)

        def read(reader: Reader) -> PyTree:
            last, final = reader.t == t1, reader.count == self.ensemble.all_times.shape[-1] - 1
            return values_in_lanes(self.ensemble, lanes.rows, reader.t, last, steps, final)

        return self.at_times().write(read, lanes.reader, numbers, steps, saved)

    def open(self) -> Any:
        """What is saved before the first step."""
        own = self.ensemble.own
        if self.save == "ends":
            return ()
        if self.save == "ts":
            return self.at_times().open(first_values(self.ensemble))
        t0 = jax.vmap(lambda rows: self.ensemble.ts(rows)[0])(own)
        return self.every().open(t0, own[0].y0)

    def at_times(self) -> AtTimes:
        """Recorder of values at the times."""
        return AtTimes(self.ensemble.all_times, self.tile)

    def every(self) -> EveryStep | EveryDense:
        """Recorder of all steps."""
        method = self.ensemble.plan.method
        if self.save == "steps":
            return EveryStep(method.max_steps, self.tile)
        return EveryDense(method.max_steps, method.solver.num_dense, self.tile)

    def close(self, ended: Ended) -> Result:
        """The results, trajectory by trajectory."""
        (y1, t, counts), (saved, _), turns = ended
        status, num_steps, num_accepted, *more = jnp.moveaxis(counts, 1, 0)
        method = self.ensemble.plan.method
        num_made = tuple(more[-2:]) if method.solver.keeps else ()
        num_more = more[: method.counts_more]
        stats = stats_of(method, num_steps, num_accepted, num_more, num_made, t)
        share = jnp.sum(num_steps) / jnp.maximum(turns * self.tile.width, 1).astype(t.dtype)
        stats = dataclasses.replace(stats, useful_share=jnp.full_like(t, share))
        if self.save == "ends":
            ys = jnp.stack([self.ensemble.own[0].y0, y1], axis=1)
            return Result(None, ys, y1, stats, status, None)
        if self.save == "ts":
            return Result(None, saved, y1, stats, status, None)
        if self.save == "steps":
            return Result(saved[0], saved[1], y1, stats, status, None)
        return Result(None, None, y1, stats, status, saved)


def first_values(ensemble: Ensemble) -> PyTree:
    """What is saved at the first time of each trajectory, its axis first."""

    def one(rows: PyTree) -> PyTree:
        problem, plan = ensemble.one(rows)
        return reading(problem, plan).fn(problem.ts[0], problem.y0)

    return jax.vmap(one)(ensemble.own)


def values_in_lanes(
    ensemble: Ensemble,
    rows: PyTree,
    t: Array,
    last: Array,
    steps: Step,
    final: Array | None = None,
) -> PyTree:
    """What is saved at `t` inside the lanes' steps; `last` and `final` as a `Reading` has them."""

    def value(rows: PyTree, t: Array, y: Array) -> PyTree:
        return reading(*ensemble.one(rows)).fn(t, y)

    interpolate = ensemble.plan.method.solver.interpolate
    inner = interpolate((t - steps.t) / steps.h, steps.y, steps.h, steps.dense)
    y = state_at(last, final, steps.y1, inner)
    return y if ensemble.shared[0].read is None else jax.vmap(value, -1, -1)(rows, t, y)


def method_in_lanes(ensemble: Ensemble, rows: PyTree) -> Method:
    """The method, its tolerances laid out for lanes, with what the solver has for each."""
    method, tolerance = ensemble.plan.method, rows[1].method.tolerance

    def spread(own: Any, shared: Any) -> Array:
        # One of the two is None; a tolerance by component has the state's shape before its lanes.
        return own if shared is None else shared[..., None] if shared.ndim else shared

    rtol = spread(tolerance.rtol, method.tolerance.rtol)
    atol = spread(tolerance.atol, method.tolerance.atol)
    spread_out = Tolerance(rtol, atol, method.tolerance.norm, lanes=True)
    solver = eqx.combine(rows[1].method.solver, method.solver)
    return dataclasses.replace(method, tolerance=spread_out, solver=solver)


def _idle(lanes: Lane) -> Lane:
    status = jnp.full_like(lanes.moving.status, Status.MAX_STEPS)
    return lanes._replace(moving=lanes.moving._replace(status=status))
