"""The replay of a batch in one kernel: each trajectory's steps undone in a lane's registers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ...integrate.ensemble import Ensemble, first_values
from ...integrate.forward import Result
from ...integrate.ivp import IVP, SolveConfig, packed_field, step_reader
from ...kernels.blocks import Block, KernelInputs, call_reducing_kernel, pad_to_blocks
from ...kernels.inputs import KernelTrace, Span, kernel_field, kernel_inputs, stored_solver_state
from ...kernels.lowering.block_arrays import LaneReduction, SharedMatrix
from ...kernels.lowering.interpreter import lower_to_lanes
from ...kernels.lowering.lane_loops import lane_while_loop
from ...kernels.lowering.lane_scalars import Element, LaneScalars, is_lane_value, zeros_like
from ...solvers.explicit.stage_loop import LoopedField
from ..batch_cotangents import assemble_cotangent, replace_in_problem, shared_cotangent_invalid


class Way(NamedTuple):
    """Where the lanes are: the step to undo, times that are unread, cotangents."""

    step: Any
    saves_left: Any
    y: Any
    solver_state: Any
    shared: Any
    per_trajectory: Any


class KernelDiscreteBackward(eqx.Module):
    """The backward pass of an ensemble; `per_trajectory` and `shared` are its arrays to differentiate by."""

    ensemble: Ensemble
    per_trajectory: PyTree
    shared: PyTree
    cotangents: Result
    lanes: int = eqx.field(static=True)
    kept: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True)

    @classmethod
    def of(
        cls, perturbed: PyTree, ensemble: Ensemble, cotangents: Result, lanes: int
    ) -> "KernelDiscreteBackward":
        """The pass for these cotangents."""
        own = eqx.filter(
            ensemble.per_trajectory,
            replace_in_problem(perturbed.per_trajectory, y0=False, ts=False),
        )
        shared = eqx.filter(ensemble.shared, replace_in_problem(perturbed.shared, ts=False))
        return cls(ensemble, own, shared, cotangents, lanes, stored_solver_state(ensemble))

    @property
    def values(self) -> list[Array]:
        """The cotangents of values at times, `(trajectories, times, ...)`, where there are any."""
        if self.ensemble.config.save != "ts":
            return []
        return jax.tree.leaves(self.cotangents.ys)

    def end(self) -> Array:
        """The cotangents of the last states."""
        y1, ys = self.cotangents.y1, self.cotangents.ys
        end = jnp.zeros_like(self.ensemble.per_trajectory[0].y0) if y1 is None else y1
        return end if self.ensemble.config.save != "ends" or ys is None else end + ys[:, 1]

    def run(self, log: KernelTrace, good: Array, num_accepted: Array, perturbed: PyTree) -> PyTree:
        """The cotangent of the ensemble."""
        y, unread, carry, own, shared = self.walked(log, good, num_accepted)
        more_own, more_shared, first = self.first(unread, carry, good)
        own, shared = jax.tree.map(jnp.add, (own, shared), (more_own, more_shared))
        lost = shared_cotangent_invalid(self.cotangents, good)
        ct = assemble_cotangent(self.ensemble, own, shared, y + first, None, good, lost)
        return eqx.filter(ct, perturbed)

    def first(
        self, saves_left: Array, ct_carry: list[Array], good: Array
    ) -> tuple[PyTree, PyTree, Array]:
        """Cotangents of own and shared arrays and starts, from those of what was made of these.

        These are the solver's first carries, and the values at times that no step has passed.
        """

        def total(ct: Array) -> Array:
            here = (jnp.arange(ct.shape[1]) < saves_left[:, None]) & good[:, None]
            return jnp.sum(jnp.where(here.reshape(here.shape + (1,) * (ct.ndim - 2)), ct, 0), 1)

        def made(own: PyTree, shared: PyTree, y0: Array) -> Any:
            own = replace_in_problem(eqx.combine(own, self.ensemble.per_trajectory), y0=y0)
            ensemble = Ensemble(own, eqx.combine(shared, self.ensemble.shared))
            values = self.asked(first_values(ensemble)) if self.values else []
            return values, jax.vmap(lambda rows: self.solver_state(*ensemble.problem_of(rows)))(own)

        start, ys = self.ensemble.per_trajectory[0].y0, self.cotangents.ys
        _, pull = jax.vjp(made, self.per_trajectory, self.shared, start)
        own, shared, y0 = pull(([total(ct) for ct in self.values], ct_carry))
        if self.ensemble.config.save == "ends" and ys is not None:
            y0 = y0 + ys[:, 0]
        return own, shared, y0

    def solver_state(self, problem: IVP, config: SolveConfig) -> list[Array]:
        """The arrays of the first carry that are logged."""
        if not self.kept:
            return []
        field = packed_field(problem, config)
        return jax.tree.leaves(config.method.stepper.init(field, problem.ts[0], problem.y0))

    def asked(self, values: PyTree) -> list[Array]:
        """Of the values those that have cotangents."""
        cts = jax.tree.leaves(self.cotangents.ys, is_leaf=lambda x: x is None)
        return [x for x, ct in zip(jax.tree.leaves(values), cts, strict=True) if ct is not None]

    def walked(
        self, log: KernelTrace, good: Array, num_accepted: Array
    ) -> tuple[Array, Array, Any, PyTree, PyTree]:
        """Cotangents of starts, unread times, cotangents of carries, own and shared arrays."""
        count, start = self.ensemble.count, self.ensemble.per_trajectory[0].y0
        own, shared, times = kernel_inputs(self.ensemble, self.lanes)
        steps = jnp.where(good, num_accepted, 0)
        values = [
            pad_to_blocks(jnp.moveaxis(self._flat(ct), 0, -1), self.lanes) for ct in self.values
        ]
        given = KernelInputs(
            (own, steps, self.end()), shared, (times, *jax.tree.leaves(log), *values)
        )
        ends = start[0], jnp.zeros((), jnp.int32), list(self.kept), _of_one(self.per_trajectory)
        (y, unread, carry, own), shared = call_reducing_kernel(
            self.body, given, ends, self.shared, count, self.lanes
        )
        return y, unread, carry, own, shared

    def _flat(self, ct: Array) -> Array:
        return ct.reshape(*ct.shape[:2], -1)

    def body(self, block: Block, own: Any, shared: Any, tables: Sequence[Any]) -> tuple[Any, Any]:
        """What one block does."""
        (own, steps, end), times = own, tables[0]
        rows, span = own[0], own[1] or shared[1]
        ends = 3 + len(self.kept)
        log, values = KernelTrace.of(tables[1:ends]), tables[ends:]
        lanes = _Lanes(self, block, rows, shared[0], span, times, log, values)
        way = lanes.start(steps, end)
        leaves, treedef = jax.tree.flatten(way, is_leaf=is_lane_value)

        def unfinished(state: list[LaneScalars]) -> Element:
            return jax.tree.unflatten(treedef, state).step.item() >= 0

        def advance(mask: Array, state: list[LaneScalars]) -> list[LaneScalars]:
            way = lanes.undo(mask, jax.tree.unflatten(treedef, state))
            return jax.tree.leaves(way, is_leaf=is_lane_value)

        way = jax.tree.unflatten(treedef, lane_while_loop(unfinished, advance, leaves, block.lanes))
        return (way.y, way.saves_left, way.solver_state, way.per_trajectory), way.shared


class _Lanes(NamedTuple):
    """What the lanes of a block have, and what they undo."""

    replay: KernelDiscreteBackward
    block: Block
    rows: PyTree
    shared: PyTree
    span: Any
    times: Any
    log: KernelTrace
    values: Sequence[Any]

    def start(self, steps: LaneScalars, end: LaneScalars) -> Way:
        """The lanes behind their last steps."""
        number = self.replay.ensemble.all_times.shape[-1]
        _, shared = self.moving(self.rows, self.shared)
        blank = (
            jax.tree.map(
                lambda x: LaneReduction.zeros(x) if isinstance(x, SharedMatrix) else zeros_like(x),
                shared,
                is_leaf=is_lane_value,
            ),
            jax.tree.map(zeros_like, _of_one(self.replay.per_trajectory)),
        )
        # What fills up the last block has no part in any sum.
        real = self.block.trajectories < self.replay.ensemble.count
        last = LaneScalars.of([jnp.where(real, steps.item(), 0) - 1], (), jnp.int32)
        carry = [zeros_like(x) for x in self.replay.kept]
        return Way(last, LaneScalars.constant(number, jnp.int32), end, carry, *blank)

    def undo(self, mask: Array, way: Way) -> Way:
        """Pull the cotangents back over a step of every lane."""
        lanes, replay = self.block.lanes, self.replay
        index = jnp.maximum(way.step.vector(lanes), 0)
        like = replay.ensemble.per_trajectory[0].y0
        clock = self.block.load_row(self.log.clock, index, (2,), self.log.clock.dtype)
        y = self.block.load_row(self.log.y, index, like.shape[1:], like.dtype)
        carry = [
            self.block.load_row(ref, index, x.shape, x.dtype)
            for ref, x in zip(self.log.solver_state, replay.kept, strict=True)
        ]
        kept: list[Any] = []

        def forwards(
            rows: PyTree, shared: PyTree, y: Array, carry: Any, clock: Array, inside: Any
        ) -> Any:
            t, h = clock

            def advance(own: PyTree, more: PyTree, y: Array, carry: Any) -> Any:
                stepper = eqx.combine(own, more, rows, shared)[1].method.stepper
                field = kernel_field(replay.ensemble, (own, more), (rows, shared))
                if isinstance(field, LoopedField):
                    stepped = stepper.step_without_error(field, t, y, h, inside)
                    return (stepped.y1, stepped.dense), []
                # A carry that can be made afresh is cheaper to make than to keep.
                fresh = stepper.init(field, t, y)
                if carry:
                    fresh = jax.tree.unflatten(jax.tree.structure(fresh), carry)
                stepped = stepper.step(field, t, y, h, fresh, inside)
                left = jax.tree.leaves(stepped.solver_state) if carry else []
                return (stepped.y1, stepped.dense), left

            own, more = self.moving(rows, shared)
            (found, _), pull = jax.vjp(advance, own, more, y, carry)
            leaves, treedef = jax.tree.flatten(pull)
            kept.append(treedef)
            return found, leaves

        inside = self.unread_inside(way, clock) if self.values else None
        run = lower_to_lanes(forwards, lanes)
        (y1, dense), leaves = run(self.rows, self.shared, y, carry, clock, inside)

        cts = (
            LaneScalars.constant(np.zeros(y.shape, y.dtype)),
            way.y,
            jax.tree.map(zeros_like, dense, is_leaf=is_lane_value),
        )
        if self.values:
            way, cts = self.read(mask, way, (y, y1, dense), clock, cts)

        def backwards(way: Way, leaves: Any, cts: Any) -> Way:
            ct_y, *rest = cts
            pull = jax.tree.unflatten(kept[0], leaves)
            own, more, y, carry = pull((tuple(rest), way.solver_state))
            own, more = jax.tree.map(jnp.add, (way.per_trajectory, way.shared), (own, more))
            return Way(way.step - 1, way.saves_left, y + ct_y, carry, more, own)

        return lower_to_lanes(backwards, lanes, mask)(way, leaves, cts)

    def moving(self, rows: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        """What is differentiated of a trajectory's own arrays, and of those that all share."""
        known = [
            jax.tree.map(lambda x: x is not None, tree, is_leaf=lambda x: x is None)
            for tree in (self.replay.per_trajectory, self.replay.shared)
        ]
        return eqx.filter(rows, known[0]), eqx.filter(shared, known[1])

    def time(self, saves_left: LaneScalars) -> LaneScalars:
        """The last time that is unread."""
        index = jnp.maximum(saves_left.vector(self.block.lanes) - 1, 0)
        return LaneScalars.of([self.block.load_entry(self.times, index)], (), self.times.dtype)

    def unread_inside(self, way: Way, clock: LaneScalars) -> LaneScalars:
        """Whether a time that is unread lies behind the start of the step."""

        def one(span: Span, t: Array, clock: Array) -> Array:
            return span.direction * (t - clock[0]) > 0

        return lower_to_lanes(one, self.block.lanes)(self.span, self.time(way.saves_left), clock)

    def read(
        self, mask: Array, way: Way, step: Any, clock: LaneScalars, cts: Any
    ) -> tuple[Way, Any]:
        """Take up the cotangents of the times that the step has passed, the last first."""
        lanes = self.block.lanes
        leaves, treedef = jax.tree.flatten((way, cts), is_leaf=is_lane_value)

        def passed(state: list[LaneScalars]) -> Element:
            way, _ = jax.tree.unflatten(treedef, state)

            # A first step has written the repeats of the first time too, all but the first row.
            def one(inside: Array, step: Array, saves_left: Array) -> Array:
                return (saves_left > 1) & (inside | (step == 0))

            inside = self.unread_inside(way, clock)
            found = lower_to_lanes(one, lanes)(inside, way.step, way.saves_left)
            return mask & found.vector(lanes)

        def one(mask: Array, state: list[LaneScalars]) -> list[LaneScalars]:
            way, cts = jax.tree.unflatten(treedef, state)
            now = self.read_one(mask, way, cts, step, clock)
            return jax.tree.leaves(now, is_leaf=is_lane_value)

        return jax.tree.unflatten(treedef, lane_while_loop(passed, one, leaves, lanes))

    def read_one(
        self, mask: Array, way: Way, cts: Any, step: Any, clock: LaneScalars
    ) -> tuple[Way, Any]:
        """Take up the cotangents of one time."""
        index = jnp.maximum(way.saves_left.vector(self.block.lanes) - 1, 0)
        given = [
            self.block.load_row(ref, index, ct.shape[2:], ref.dtype)
            for ref, ct in zip(self.values, self.replay.values, strict=True)
        ]

        def one(
            rows: PyTree, shared: PyTree, span: Span, way: Way, cts: Any, step: Any, clock: Array,
            at: Array, given: list[Array],
        ) -> tuple[Way, Any]:  # fmt: skip
            def value(own: PyTree, more: PyTree, step: Any) -> list[Array]:
                problem, plan = eqx.combine(own, more, rows, shared)
                y, y1, dense = step
                last = at == span.t1
                t, h = clock
                return self.replay.asked(step_reader(problem, plan)(at, last, t, h, y, y1, dense))

            _, pull = jax.vjp(value, *self.moving(rows, shared), step)
            own, more, parts = pull(given)
            own, more, cts = jax.tree.map(
                jnp.add, (way.per_trajectory, way.shared, cts), (own, more, parts)
            )
            return way._replace(saves_left=way.saves_left - 1, per_trajectory=own, shared=more), cts

        run = lower_to_lanes(one, self.block.lanes, mask)
        time = self.time(way.saves_left)
        return run(self.rows, self.shared, self.span, way, cts, step, clock, time, given)


def _of_one(own: PyTree) -> PyTree:
    """The shapes of one trajectory's part."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), own)
