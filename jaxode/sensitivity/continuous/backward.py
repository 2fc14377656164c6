"""The way back along adjoint equations: one walk for all methods, one trajectory or lanes of many.

A trajectory goes from its last time to its first. At a saved time its adjoint takes up that value's
cotangent. Where the state is no part of the equation, a turn also makes steps of the solve again,
a segment at a time, between which the state is read.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch import queue as tiles
from ...batch.forward import BatchRun
from ...batch.queue import LaneProgram, LaneTile
from ...integrate.ensemble import Ensemble, method_in_lanes
from ...integrate.ivp import direction_of, packed_field
from ...integrate.save import StepRecord, put_row
from ...integrate.step import Field, IntegratorState, Method, attempt_step, initialise
from ...integrate.xla_loops import fused
from ...problem.status import Status
from ...solvers.step_size import Tolerance
from ..batch_cotangents import replace_in_problem
from .adjoint_equation import AdjointEquation, AugmentedState, StateFunction
from .backward_solver import BackwardConfig
from .checkpoints import (
    SavedStates,
    SegmentSchedule,
    SegmentSteps,
    integrator_shapes,
    interpolate_segment,
)
from .quadrature import Integrand, integrate_step, integrate_steps_in_lanes


class AdjointLane(NamedTuple):
    """A trajectory on its way back, from its saved time `place` to the one before it, `target`.

    `g`: the integral for its own parameters, where that is no part of the equation. `strayed`:
    the state did not come back to where it was. `segment`: of the solve, where it is made again.
    """

    rows: PyTree
    number: Array
    place: Array
    target: Array
    direction: Array
    moving: IntegratorState
    g: PyTree
    strayed: Array
    segment: Any


class AdjointSolve(eqx.Module):
    """All adjoint equations, in the lanes of `tile`; None for one trajectory, which has no lanes.

    - `flags` says what is differentiated of a trajectory's own problem, `shared` is that of all.
    - `ys`, `jumps`: the states at the saved times, and what they add to the adjoint, shape
      `(trajectories, times, ...)`.
    - `kept`, `counts`: trajectories as they were kept, and their accepted steps.
    """

    ensemble: Ensemble
    tile: LaneTile | None
    backward: BackwardConfig
    flags: PyTree
    shared: PyTree
    ys: Array
    jumps: Array
    kept: SavedStates | None
    counts: Array

    def run(self) -> tuple[tuple[Array, PyTree, Array], PyTree]:
        """Each first adjoint, own integral, and whether it came to its end; the shared integral."""
        record = jax.tree.map(jnp.zeros_like, self.shared), self.buffers()
        if self.tile is not None:
            # Blank lanes are over as they are: their target is where they stand.
            count, idle = self.ensemble.count, lambda lanes: lanes
            work = LaneProgram(count, idle, self.load, self.over, self.result, self.turn)
            results, (total, _), _ = tiles.run(work, self.tile, record)
            return results, total
        zero = jnp.zeros((), jnp.int32)
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(self.load, zero))

        def whole(state: tuple[AdjointLane, Any]) -> tuple[AdjointLane, Any]:
            lane, record = state
            start = self.load(lane.number), record
            return lax.while_loop(lambda s: ~self.over(s[0]), lambda s: self.turn(zero, *s), start)

        lane, (total, _) = fused(whole, (blank, record))
        return jax.tree.map(lambda x: x[None], self.result(lane)), total

    def turn(self, numbers: Array, lanes: AdjointLane, record: Any) -> tuple[AdjointLane, Any]:
        """A step of every lane, and what it adds to the shared integral."""
        total, buffers = record
        lanes = self.jump(lanes)
        if self.backward.with_y:
            lanes, total = self.step(numbers, lanes, total, buffers, ~self.over(lanes))
            return lanes, (total, buffers)
        lanes, buffers = self.remake(lanes, buffers)
        full = self.segments.full(lanes.segment, -lanes.direction)
        active = full & ~self.over(lanes)
        lanes, total = lax.cond(
            jnp.any(active),
            lambda: self.step(numbers, lanes, total, buffers, active),
            lambda: (lanes, total),
        )
        return self.switch(lanes), (total, buffers)

    def step(
        self, numbers: Array, lanes: AdjointLane, total: PyTree, buffers: Any, active: Array
    ) -> tuple[AdjointLane, PyTree]:
        """A step of the lanes that are `active`."""
        field, method, before = self.field(lanes, buffers), self.method(lanes.rows), lanes.moving
        looks = True if jax.tree.leaves((self.shared, lanes.g)) else None
        moving, steps = attempt_step(
            method, field, before, lanes.direction, self.aim(lanes), lambda _: looks
        )
        if method.controller.adaptive:  # a step cut at its target says nothing of the next one's
            longer = jnp.maximum(moving.h, before.h)
            moving = moving._replace(h=jnp.where(steps.accept, longer, moving.h))
        accept = steps.accept & active & (numbers < self.ensemble.count)
        if not self.backward.with_y:
            moving = jax.tree.map(lambda a, b: jnp.where(active, a, b), moving, before)
        if looks:
            own, shared = self.integral(accept, lanes, buffers, steps)
            total = jax.tree.map(jnp.add, total, shared)
            lanes = lanes._replace(g=jax.tree.map(jnp.add, lanes.g, own))
        return lanes._replace(moving=moving), total

    # Where a lane begins, turns and ends.

    def load(self, number: Array) -> AdjointLane:
        """A trajectory's adjoint equation at its last time."""
        rows = jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False),
            self.ensemble.per_trajectory,
        )
        ts, rows = self.ensemble.ts(rows), replace_in_problem(rows, y0=None, ts=None)
        adjoint, y = self.adjoint(rows), self.ys[number, -1]
        a = adjoint.consistent(ts[-1], y, self.jumps[number, -1])
        start = adjoint.start(y, a, jax.tree.map(jnp.zeros_like, adjoint.moving))
        field = adjoint.packed(self.still(y))
        moving = initialise(adjoint.method(), field, start, ts[-1], ts[0])
        segment = ()
        if self.kept is not None:
            end = self.counts[number]
            segment = self.segments.begin(self.kept, self.forward, end, ts[-1], number)
        g = jax.tree.map(jnp.zeros_like, self.per_trajectory(rows))
        place, direction = jnp.int32(ts.shape[0] - 1), direction_of(ts[::-1])
        no = jnp.zeros((), bool)
        return AdjointLane(rows, number, place, ts[-2], direction, moving, g, no, segment)

    def arrived(self, lanes: AdjointLane) -> Array:
        """Which lanes stand at their targets."""
        return lanes.direction * (lanes.target - lanes.moving.t) <= 0

    def over(self, lanes: AdjointLane) -> Array:
        """Which lanes have come to their first time, or failed."""
        most = self.ensemble.config.method.max_steps
        failed = (lanes.moving.status != Status.SUCCESS) | (lanes.moving.num_steps >= most)
        if self.kept is not None:
            failed = failed | self.segments.broken(lanes.segment, -lanes.direction)
        arrived = self.arrived(lanes)
        return (arrived & (lanes.place <= 1)) | (failed & ~arrived) | lanes.strayed

    def result(self, lane: AdjointLane) -> tuple[Array, PyTree, Array]:
        """The adjoint at the first time, the own integral, and whether they are what they should.

        The adjoint of a solve with a mass matrix is `M^T a`.
        """
        adjoint = self.adjoint(lane.rows)
        state = adjoint.packing.unpack(lane.moving.y)
        strayed = lane.strayed | self.off(adjoint, state, self.ys[lane.number, 0])
        g = state.g if self.backward.kind == "backsolve" else lane.g
        return state.a, g, self.arrived(lane) & ~strayed

    def jump(self, lanes: AdjointLane) -> AdjointLane:
        """Where a lane stands at a saved time, add its cotangent and aim at the time before it."""
        if self.ensemble.all_times.shape[-1] == 2:
            return lanes

        def due(lanes: AdjointLane) -> Array:
            return self.arrived(lanes) & (lanes.place > 1) & ~lanes.strayed

        def one(lane: AdjointLane) -> AdjointLane:
            place, moving = lane.place - 1, lane.moving
            adjoint = self.adjoint(lane.rows)
            state = adjoint.packing.unpack(moving.y)
            y, t = self.ys[lane.number, place], self.time(lane.number, place)
            a = adjoint.consistent(t, y, state.a + self.jumps[lane.number, place])
            start = adjoint.start(y, a, state.g)
            carry = adjoint.method().stepper.init(adjoint.packed(self.still(y)), t, start)
            low, none = jnp.zeros_like(t), jnp.zeros_like(moving.num_steps)
            moving = moving._replace(t=t, t_low=low, y=start, solver_state=carry, num_steps=none)
            target = self.time(lane.number, place - 1)
            strayed = lane.strayed | self.off(adjoint, state, y)
            return lane._replace(place=place, target=target, moving=moving, strayed=strayed)

        def again(lanes: AdjointLane) -> AdjointLane:
            mask = due(lanes)
            return jax.tree.map(lambda a, b: jnp.where(mask, a, b), self.each(one)(lanes), lanes)

        return lax.while_loop(lambda lanes: jnp.any(due(lanes)), again, lanes)

    def off(self, adjoint: AdjointEquation, state: AugmentedState, known: Array) -> Array:
        """Whether the state did not come back to where it was."""
        if not self.backward.with_y:
            return jnp.zeros((), bool)
        return adjoint.strayed(state.y, known)

    # The steps of the solve, made again.

    def remake(self, lanes: AdjointLane, buffers: SegmentSteps) -> tuple[AdjointLane, SegmentSteps]:
        """A step of the solve, in the lanes whose segments are not full."""
        going = ~self.segments.full(lanes.segment, -lanes.direction) & ~self.over(lanes)
        if self.tile is None:
            problem, plan = self.ensemble.one(lanes.rows)
            field, method = packed_field(problem, plan), plan.method
        else:
            field = BatchRun(self.ensemble, self.tile).field(lanes.rows)
            method = method_in_lanes(self.ensemble, lanes.rows)
        segment, buffers = self.segments.advance(
            method, field, lanes.segment, -lanes.direction, going, self.put, buffers
        )
        return lanes._replace(segment=segment), buffers

    def switch(self, lanes: AdjointLane) -> AdjointLane:
        """Where a lane stands at the start of its segment, go on to the one before it."""
        segment = lanes.segment
        here = lanes.direction * (segment.t0 - lanes.moving.t) <= 0
        due = here & (segment.first > 0) & self.segments.full(segment, -lanes.direction)

        def one(lane: AdjointLane) -> Any:
            assert self.kept is not None
            end, t1 = lane.segment.first, lane.segment.t0
            return self.segments.begin(self.kept, self.forward, end, t1, lane.number)

        def go() -> AdjointLane:
            before = self.each(one)(lanes)
            chosen = jax.tree.map(lambda a, b: jnp.where(due, a, b), before, segment)
            none = jnp.where(due, 0, lanes.moving.num_steps)
            return lanes._replace(segment=chosen, moving=lanes.moving._replace(num_steps=none))

        return lax.cond(jnp.any(due), go, lambda: lanes)

    def aim(self, lanes: AdjointLane) -> Array:
        """The time that the lanes go to, no further than their segments."""
        if self.kept is None:
            return lanes.target
        d, target, start = lanes.direction, lanes.target, lanes.segment.t0
        return jnp.where(d * target <= d * start, target, start)

    @property
    def segments(self) -> SegmentSchedule:
        """How the steps of the solve are made again."""
        method = self.ensemble.config.method
        return SegmentSchedule.of(method.max_steps, method.solver.num_dense)

    @property
    def forward(self) -> IntegratorState:
        """The shapes of a trajectory of the solve."""
        return integrator_shapes(self.ensemble)

    def buffers(self) -> Any:
        """SegmentSteps for the steps of a segment, of the trajectory or of each lane."""
        if self.kept is None:
            return ()
        width = () if self.tile is None else (self.tile.width,)
        dense = self.ensemble.config.method.solver.num_dense
        return self.segments.buffers(self.forward, dense, *width)

    def put(self, buffers: SegmentSteps, mask: Array, row: Array, values: SegmentSteps) -> SegmentSteps:
        """Write `values` as a row of the lanes of `mask`."""
        if self.tile is None:  # what is not accepted is overwritten, or beyond what is filled
            return jax.tree.map(lambda b, v: put_row(b, v, row), buffers, values)
        lanes = jnp.arange(self.tile.width, dtype=jnp.int32)
        return self.tile.put(buffers, mask, (lanes, row), values)

    # The equations.

    def per_trajectory(self, rows: PyTree) -> PyTree:
        """What is a trajectory's own and differentiated, but has no part in its equation."""
        if self.backward.kind == "backsolve":
            return ()
        return eqx.filter(rows, self.flags)[0]

    def adjoint(self, rows: PyTree) -> AdjointEquation:
        """The adjoint equation of a trajectory."""
        problem, plan = self.ensemble.one(rows)
        problem = dataclasses.replace(problem, y0=self.ys[0, 0])  # for its shape alone
        within = self.flags if self.backward.kind == "backsolve" else False
        moving = eqx.filter(rows, within)[0]
        still = eqx.filter(problem, jax.tree.map(_is_none, moving, is_leaf=_is_none))
        return AdjointEquation(moving, still, plan, self.backward)

    def still(self, y: Array) -> StateFunction | None:
        """How the state is read where it is known to be `y`."""
        return None if self.backward.with_y else lambda t: y

    def read(self, lane: AdjointLane, rows: Any) -> StateFunction | None:
        """How the state is read in a segment; None where the equation has it."""
        if self.backward.with_y:
            return None
        interpolate = self.ensemble.config.method.solver.interpolate
        filled, direction = lane.segment.filled, -lane.direction
        return lambda t: interpolate_segment(rows, filled, direction, t, interpolate)

    def field(self, lanes: AdjointLane, buffers: Any) -> Field:
        """The adjoint equation of every lane."""
        return self.in_lanes(
            lambda lane, rows: self.adjoint(lane.rows).packed(self.read(lane, rows)), lanes, buffers
        )

    def in_lanes(
        self, field: Callable[[AdjointLane, Any], Field], lanes: AdjointLane, buffers: Any
    ) -> Field:
        """The field of every lane, as one on lanes."""
        segment = lanes.segment if self.kept is None else lanes.segment._replace(moving=None)
        lanes = lanes._replace(moving=None, segment=segment)  # pyright: ignore[reportArgumentType]
        once = lax.optimization_barrier
        if self.tile is None:
            one = field(lanes, buffers)
            return lambda t, y: one(t, once(y))
        many = jax.vmap(
            lambda lane, rows, t, y: field(lane, rows)(t, y), in_axes=(-1, 0, -1, -1), out_axes=-1
        )
        return lambda t, y: many(lanes, buffers, t, once(y))

    def integral(
        self, accept: Array, lanes: AdjointLane, buffers: Any, steps: StepRecord
    ) -> tuple[PyTree, PyTree]:
        """What the accepted steps add to the integrals of what is own, and what is shared."""
        first = jax.tree.map(lambda x: x[0], self.ensemble.per_trajectory)
        calm = replace_in_problem(first, y0=None, ts=None), self.ensemble.ts(first)[0], self.ys[0, 0]

        def states(theta: Array) -> tuple[Array, Array, Array]:
            """Times, states and adjoints at a share of the steps."""
            solver, t = self.backward.solver, steps.t + theta * steps.h
            flat = solver.interpolate(theta, steps.y, steps.h, steps.dense)
            unpack = self.adjoint(calm[0]).packing.unpack
            state = self.each(unpack)(flat)
            if self.backward.with_y:
                return t, state.y, state.a
            return t, self.in_lanes(reading, lanes, buffers)(t, state.a), state.a

        def reading(lane: AdjointLane, rows: Any) -> Field:
            read = self.read(lane, rows)
            assert read is not None
            return lambda t, _: read(t)

        def slope(own: PyTree, shared: PyTree, rows: PyTree, t: Array, y: Array) -> Array:
            rows = (eqx.combine(own, rows[0]), rows[1]) if jax.tree.leaves(own) else rows
            return packed_field(*eqx.combine(shared, self.ensemble.one(rows)))(t, y)

        integrand = Integrand(
            states, slope, self.per_trajectory(lanes.rows), self.shared, self.backward.solver.order
        )
        if self.tile is None:
            return integrate_step(integrand, lanes.rows, accept, steps.h)
        return integrate_steps_in_lanes(integrand, lanes.rows, accept, steps.h, calm)

    def each(self, function: Callable) -> Callable:
        """A function of one trajectory, of every lane."""
        return function if self.tile is None else self.tile.map(function)

    def method(self, rows: PyTree) -> Method:
        """The method of the adjoint equations, its tolerances laid out for lanes."""
        if self.tile is None:
            return self.adjoint(rows).method()

        def one(rows: PyTree, _: Array) -> tuple[Array, Array]:
            tolerance = self.adjoint(rows).tolerance()
            return tolerance.rtol, tolerance.atol

        lanes = jnp.arange(self.tile.width)
        rtol, atol = jax.vmap(one, in_axes=-1, out_axes=-1)(rows, lanes)
        method = self.adjoint(self.tile.lane(rows, jnp.int32(0))).method()
        tolerance = Tolerance(rtol, atol, method.tolerance.norm, True)
        return dataclasses.replace(method, tolerance=tolerance)

    def time(self, number: Array, place: Array) -> Array:
        """A saved time of a trajectory."""
        ts = self.ensemble.all_times
        return ts[place] if ts.ndim == 1 else ts[number, place]


def _is_none(x: Any) -> bool:
    return x is None
