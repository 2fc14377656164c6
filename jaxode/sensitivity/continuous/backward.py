"""The backward pass along the adjoint equations, of one trajectory or of many in lanes.

Each trajectory is integrated from its last time to its first. At a saved time its adjoint jumps by
the cotangent of the state saved there. Where the state is no part of the adjoint equation, an
iteration also recomputes steps of the forward solve, a segment at a time, whose dense output gives
the state.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch import queue as tiles
from ...batch.forward import BatchRun
from ...batch.queue import LaneProgram
from ...integrate.counts import first_evaluations
from ...integrate.ensemble import method_in_lanes
from ...integrate.events.discontinuities import field_for_looking_ahead
from ...integrate.ivp import direction_of, packed_field
from ...integrate.save import StepRecord, put_row
from ...integrate.step import IntegratorState, attempt_step, initialise, select
from ...integrate.xla_loops import fused
from ...problem.status import Status
from ..batch_cotangents import replace_in_problem
from .backward_solver import FAR_OFF, SHORTEST_SHARE
from .checkpoints import SavedStates, SegmentSchedule, SegmentSteps, integrator_shapes
from .ensemble_adjoint import AdjointLane, EnsembleAdjoint
from .restarts import KeptStates


class AdjointSolve(EnsembleAdjoint):
    """The backward solve of all adjoint equations.

    - `jumps`: of the adjoint at the saved times, shape `(trajectories, times, ...)`.
    - `saved`: checkpoints of the forward solve, where it is recomputed; `num_accepted`: its
      accepted steps, `last`: the index of the last saved time that it reached, both of shape
      `(trajectories,)`.
    - `kept`: states of the forward solve to begin again from, where there are any, in order.
    """

    jumps: Array
    saved: SavedStates | None
    num_accepted: Array
    last: Array
    kept: KeptStates | None

    def run(self) -> tuple[tuple[Array, PyTree, Array, Any], PyTree]:
        """Integrate every adjoint equation.

        Returns the adjoints at the first times, the integrals for each trajectory's own parameters,
        whether each succeeded and its counts; and the integral for the shared parameters.
        """
        record = jax.tree.map(jnp.zeros_like, self.shared), self.step_buffers()
        if self.tile is not None:
            # A lane of zeros is finished: its target is its time.
            count, idle = self.ensemble.count, lambda lanes: lanes
            program = LaneProgram(count, idle, self.load, self.finished, self.result, self.iterate)
            results, (total, _), _ = tiles.run(program, self.tile, record)
            return results, total
        zero = jnp.zeros((), jnp.int32)
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(self.load, zero))

        def solve(state: tuple[AdjointLane, Any]) -> tuple[AdjointLane, Any]:
            lane, record = state
            return lax.while_loop(
                lambda s: ~self.finished(s[0]),
                lambda s: self.iterate(zero, *s),
                (self.load(lane.number), record),
            )

        lane, (total, _) = fused(solve, (blank, record))
        return jax.tree.map(lambda x: x[None], self.result(lane)), total

    def iterate(self, numbers: Array, lanes: AdjointLane, record: Any) -> tuple[AdjointLane, Any]:
        """Make one step of every lane, and add its share to the integral for shared parameters."""
        total, buffers = record
        lanes = self.jump(lanes)
        if self.backward.with_y:
            lanes, total = self.step(numbers, lanes, total, buffers, ~self.finished(lanes))
            return lanes, (total, buffers)
        lanes, buffers = self.recompute(lanes, buffers)
        complete = self.segments.complete(lanes.segment, -lanes.direction)
        active = complete & ~self.finished(lanes)
        lanes, total = lax.cond(
            jnp.any(active),
            lambda: self.step(numbers, lanes, total, buffers, active),
            lambda: (lanes, total),
        )
        return self.next_segment(lanes), (total, buffers)

    def step(
        self, numbers: Array, lanes: AdjointLane, total: PyTree, buffers: Any, active: Array
    ) -> tuple[AdjointLane, PyTree]:
        """Make a step of the adjoint equations of the lanes that are `active`."""
        field, method = self.field(lanes, buffers), self.method(lanes.rows)
        before = lanes.integrator
        if self.tile is not None:
            first = self.save_time(lanes.number, jnp.zeros_like(lanes.number))
            field = field_for_looking_ahead(field, method.solver, before.t, first)
        with_integral = bool(jax.tree.leaves((self.shared, lanes.g)))
        needs_dense = True if with_integral or self.kept is not None else None
        integrator, steps = attempt_step(
            method, field, before, lanes.direction, self.step_end(lanes), lambda _: needs_dense
        )
        if method.controller.adaptive:  # a step cut at its target does not limit the next one
            longer = jnp.maximum(integrator.h, before.h)
            integrator = integrator._replace(h=jnp.where(steps.accept, longer, integrator.h))
        if self.kept is not None:
            lanes, far = self.pass_kept_states(lanes, steps)
            integrator = select(far, before, integrator)
            steps = steps._replace(accept=steps.accept & ~far)
        if self.backward.with_y:
            integrator, accept = self.check_known_states(lanes, before, integrator, steps)
            steps = steps._replace(accept=accept)
        accept = steps.accept & active & (numbers < self.ensemble.count)
        if not self.backward.with_y:
            integrator = jax.tree.map(lambda a, b: jnp.where(active, a, b), integrator, before)
        if with_integral:
            own, shared = self.integral(accept, lanes, buffers, steps)
            total = jax.tree.map(jnp.add, total, shared)
            lanes = lanes._replace(g=jax.tree.map(jnp.add, lanes.g, own))
        counted = active & (numbers < self.ensemble.count)
        lanes = self.counting(lanes, 1, method.solver.evaluations.step, counted)
        return lanes._replace(integrator=integrator), total

    def counting(
        self, lanes: AdjointLane, steps: int, evaluations: int, where: Array | bool = True
    ) -> AdjointLane:
        """Return the lanes with so many more steps and evaluations, if they are reported."""
        if self.backward.report is None:
            return lanes
        more = (steps, evaluations)
        counts = [
            n + k * jnp.asarray(where, n.dtype) for n, k in zip(lanes.counts, more, strict=True)
        ]
        return lanes._replace(counts=tuple(counts))

    def pass_kept_states(self, lanes: AdjointLane, steps: StepRecord) -> tuple[AdjointLane, Array]:
        """Compare the states in accepted steps with the kept ones that they pass.

        The last one that a step passes is compared. Returns the lanes, and which of them are too
        far from it: those have to step again, and stop at the first one.
        """
        kept, interpolate = self.kept, self.backward.solver.interpolate
        assert kept is not None

        def pass_in_lane(lane: AdjointLane, step: tuple[Any, ...]) -> tuple[AdjointLane, Array]:
            t, h, t1, y, dense, accept = step
            ahead = kept.ahead(lane.number, t1, lane.direction)
            passes = accept & (ahead < lane.num_kept) & ~lane.stops_at_kept
            t_kept, y_kept = kept.t[lane.number, ahead], kept.y[lane.number, ahead]
            equation = self.equation(lane.rows)
            flat = interpolate(jnp.where(passes, (t_kept - t) / h, 0), y, h, dense)
            far = self.backward.far(equation.packing.unpack(flat).y, y_kept, equation.config)
            far = passes & far
            first = kept.t[lane.number, lane.num_kept - 1]
            return lane._replace(
                num_kept=jnp.where(accept & ~far, ahead, lane.num_kept),
                stops_at_kept=lane.stops_at_kept | far,
                target=jnp.where(far, first, lane.target),
            ), far

        step = steps.t, steps.h, steps.t1, steps.y, steps.dense, steps.accept
        return self.map_lanes(pass_in_lane)(lanes, step)

    def check_known_states(
        self, lanes: AdjointLane, before: IntegratorState, after: IntegratorState, steps: StepRecord
    ) -> tuple[IntegratorState, Array]:
        """Refuse accepted steps that end where the state is known, and too far from it.

        Returns the integrator state after each step, and which steps are accepted. A refused one is
        tried at half its size; where it is a small part of the way already, the solve fails.
        """
        adaptive = self.backward.controller.adaptive

        def check_lane(lane: AdjointLane, step: tuple[Any, ...]) -> tuple[Array, Array]:
            t1, size, y1, ends, is_first = step
            equation, end = self.equation(lane.rows), self.save_time(lane.number, lane.save_index)
            y1 = equation.packing.unpack(y1).y
            known = self.known_state(lane, t1)[1]
            diverged = equation.diverged(y1, known)
            if not adaptive:
                return jnp.zeros_like(ends), ends & diverged
            part = jnp.abs(end - self.save_time(lane.number, lane.save_index - 1))
            is_short = size <= SHORTEST_SHARE * part
            off = diverged | (is_first & self.backward.far(y1, known, equation.config, FAR_OFF))
            return ends & off & ~is_short, ends & diverged & is_short

        size, none = jnp.abs(steps.h), jnp.zeros_like(steps.accept)
        ends = steps.accept & (lanes.direction * (lanes.target - steps.t1) <= 0)
        step = steps.t1, size, after.y, ends, before.num_steps == 0
        refused, failed = lax.cond(
            jnp.any(ends), lambda: self.map_lanes(check_lane)(lanes, step), lambda: (none, none)
        )
        again = before._replace(num_steps=after.num_steps)
        after = select(refused | failed, again, after)
        return after._replace(
            h=jnp.where(refused, size / 2, after.h),
            status=jnp.where(failed, jnp.int32(Status.STEP_UNDERFLOW), after.status),
        ), steps.accept & ~(refused | failed)

    def known_state(self, lane: AdjointLane, t: Array) -> tuple[Array, Array]:
        """Return the time and the state of the forward solve where a lane stops next, at `t`."""
        index = lane.save_index - 1
        saved = self.save_time(lane.number, index), self.ys[lane.number, index]
        if self.kept is None:
            return saved
        ahead = self.kept.ahead(lane.number, t, lane.direction)
        kept = self.kept.t[lane.number, ahead], self.kept.y[lane.number, ahead]
        return select(lane.stops_at_kept, kept, saved)

    # How a lane starts, jumps and ends.

    def load(self, number: Array) -> AdjointLane:
        """Initialise the adjoint equation of a trajectory at the last time that it reached."""
        rows = jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False),
            self.ensemble.per_trajectory,
        )
        ts, rows = self.ensemble.ts(rows), replace_in_problem(rows, y0=None, ts=None)
        last = self.last[number]
        t1, y = ts[last], self.ys[number, last]
        equation = self.equation(rows)
        a = equation.make_consistent(t1, y, self.jumps[number, last])
        start = equation.pack(y, a, jax.tree.map(jnp.zeros_like, equation.diff))
        field = equation.field(self.constant_state(y))
        integrator = initialise(equation.method(), field, start, t1, ts[0])
        segment = ()
        if self.saved is not None:
            end = self.segments.end_before(
                self.saved, self.num_accepted[number], t1, direction_of(ts), number
            )
            segment = self.segments.begin(self.saved, self.forward_shapes, end, t1, number)
        g = jax.tree.map(jnp.zeros_like, self.own_parameters(rows))
        index, direction = last.astype(jnp.int32), direction_of(ts[::-1])
        target = ts[jnp.maximum(last - 1, 0)]
        num_kept, stops = (), ()
        if self.kept is not None:
            num_kept, stops = self.kept.ahead(number, t1, direction), jnp.zeros((), bool)
        lane = AdjointLane(
            rows, number, index, target, direction, integrator, g, segment, num_kept, stops
        )
        if self.backward.report is None:
            return lane
        first = jnp.int32(first_evaluations(equation.method()))
        return lane._replace(counts=(jnp.int32(0), first))

    def arrived(self, lanes: AdjointLane) -> Array:
        """Return which lanes have reached their targets."""
        return lanes.direction * (lanes.target - lanes.integrator.t) <= 0

    def finished(self, lanes: AdjointLane) -> Array:
        """Return which lanes have reached their first time, or failed."""
        max_steps = self.ensemble.config.method.max_steps
        s = lanes.integrator
        failed = (s.status != Status.SUCCESS) | (s.num_steps >= max_steps)
        if self.saved is not None:
            failed = failed | self.segments.failed(lanes.segment, -lanes.direction)
        arrived = self.arrived(lanes)
        return (arrived & ~self.has_to_jump(lanes)) | (failed & ~arrived)

    def has_to_jump(self, lanes: AdjointLane) -> Array:
        """Return which lanes jump where they stop next: all but those on the last part."""
        jumps = lanes.save_index > 1
        return jumps if self.kept is None else jumps | lanes.stops_at_kept

    def result(self, lane: AdjointLane) -> tuple[Array, PyTree, Array, Any]:
        """Return the adjoint at the first time, the own integral, and whether the lane succeeded.

        Also returns the counts, if they are reported.

        With a mass matrix `M` the cotangent of the state is `M^T a`, for the adjoint `a`.
        """
        state = self.equation(lane.rows).packing.unpack(lane.integrator.y)
        g = state.g if self.backward.kind == "backsolve" else lane.g
        counts = lane.counts
        if counts:
            steps, evaluations = counts
            counts = steps, evaluations + sum(jax.tree.leaves(lane.integrator.extra_evaluations))
        return state.a, g, self.arrived(lane), counts

    def jump(self, lanes: AdjointLane) -> AdjointLane:
        """Apply the jump at a saved time to the lanes there, and set the time before as target.

        At a kept state the jump is zero, and the state that of the forward solve.
        """
        if self.ensemble.all_times.shape[-1] == 2 and self.kept is None:
            return lanes

        def due(lanes: AdjointLane) -> Array:
            return self.arrived(lanes) & self.has_to_jump(lanes)

        def jump_lane(lane: AdjointLane) -> AdjointLane:
            index, integrator = lane.save_index - 1, lane.integrator
            equation = self.equation(lane.rows)
            state = equation.packing.unpack(integrator.y)
            t, y = self.known_state(lane, integrator.t)
            jump = self.jumps[lane.number, index]
            if self.kept is not None:
                at_kept = lane.stops_at_kept
                jump = jnp.where(at_kept, 0, jump)
                index = jnp.where(at_kept, lane.save_index, index)
                ahead = self.kept.ahead(lane.number, integrator.t, lane.direction)
                ahead = jnp.where(at_kept, ahead, lane.num_kept)
                lane = lane._replace(num_kept=ahead, stops_at_kept=jnp.zeros_like(at_kept))
            a = equation.make_consistent(t, y, state.a + jump)
            start = equation.pack(y, a, state.g)
            field = equation.field(self.constant_state(y))
            solver_state = equation.method().stepper.init(field, t, start)
            low, zero = jnp.zeros_like(t), jnp.zeros_like(integrator.num_steps)
            integrator = integrator._replace(
                t=t, t_low=low, y=start, solver_state=solver_state, num_steps=zero
            )
            target = self.save_time(lane.number, index - 1)
            lane = self.counting(lane, 0, self.backward.solver.evaluations.init)
            return lane._replace(save_index=index, target=target, integrator=integrator)

        def jump_due(lanes: AdjointLane) -> AdjointLane:
            mask = due(lanes)
            jumped = self.map_lanes(jump_lane)(lanes)
            return jax.tree.map(lambda a, b: jnp.where(mask, a, b), jumped, lanes)

        # A lane jumps more than once where saved times coincide.
        return lax.while_loop(lambda lanes: jnp.any(due(lanes)), jump_due, lanes)

    # How the steps of the forward solve are recomputed.

    def recompute(
        self, lanes: AdjointLane, buffers: SegmentSteps
    ) -> tuple[AdjointLane, SegmentSteps]:
        """Recompute a step of the forward solve in the lanes whose segments are incomplete."""
        active = ~self.segments.complete(lanes.segment, -lanes.direction) & ~self.finished(lanes)
        if self.tile is None:
            problem, config = self.ensemble.problem_of(lanes.rows)
            field, method = packed_field(problem, config), config.method
        else:
            run, last = BatchRun(self.ensemble, self.tile), self.ensemble.all_times.shape[-1] - 1
            end = self.save_time(lanes.number, jnp.full_like(lanes.number, last))
            field = run.looking_ahead(run.field(lanes.rows), lanes.segment.integrator.t, end)
            method = method_in_lanes(self.ensemble, lanes.rows)
        segment, buffers = self.segments.advance(
            method, field, lanes.segment, -lanes.direction, active, self.write_row, buffers
        )
        return lanes._replace(segment=segment), buffers

    def next_segment(self, lanes: AdjointLane) -> AdjointLane:
        """Begin the previous segment in the lanes that have reached the start of theirs."""
        segment = lanes.segment
        reached = lanes.direction * (segment.t0 - lanes.integrator.t) <= 0
        due = reached & (segment.first > 0) & self.segments.complete(segment, -lanes.direction)

        def previous(lane: AdjointLane) -> Any:
            assert self.saved is not None
            end, t1 = lane.segment.first, lane.segment.t0
            return self.segments.begin(self.saved, self.forward_shapes, end, t1, lane.number)

        def switch() -> AdjointLane:
            begun = self.map_lanes(previous)(lanes)
            chosen = jax.tree.map(lambda a, b: jnp.where(due, a, b), begun, segment)
            num_steps = jnp.where(due, 0, lanes.integrator.num_steps)
            integrator = lanes.integrator._replace(num_steps=num_steps)
            return lanes._replace(segment=chosen, integrator=integrator)

        return lax.cond(jnp.any(due), switch, lambda: lanes)

    def step_end(self, lanes: AdjointLane) -> Array:
        """Return the times that steps must not pass: targets, and starts of segments."""
        if self.saved is None:
            return lanes.target
        d, target, start = lanes.direction, lanes.target, lanes.segment.t0
        return jnp.where(d * target <= d * start, target, start)

    @property
    def segments(self) -> SegmentSchedule:
        """The division of the forward solve into segments."""
        return SegmentSchedule.of(self.ensemble.config.method)

    @property
    def forward_shapes(self) -> IntegratorState:
        """The shapes of an integrator's state in the forward solve."""
        return integrator_shapes(self.ensemble)

    def step_buffers(self) -> Any:
        """Return buffers for the steps of a segment, of the trajectory or of each lane."""
        if self.saved is None:
            return ()
        width = () if self.tile is None else (self.tile.width,)
        num_dense = self.ensemble.config.method.solver.num_dense
        return self.segments.step_buffers(self.forward_shapes, num_dense, *width)

    def write_row(
        self, buffers: SegmentSteps, mask: Array, row: Array, values: SegmentSteps
    ) -> SegmentSteps:
        """Write `values` as a row of the lanes in `mask`."""
        if self.tile is None:  # a rejected step is overwritten, or lies beyond the last row read
            return jax.tree.map(lambda b, v: put_row(b, v, row), buffers, values)
        lanes = jnp.arange(self.tile.width, dtype=jnp.int32)
        return self.tile.put(buffers, mask, (lanes, row), values)
