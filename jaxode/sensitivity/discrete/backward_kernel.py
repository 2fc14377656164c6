"""The backward pass of the discrete adjoint over a batch in one kernel, a trajectory per lane."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ...integrate.ensemble import Ensemble, first_values
from ...integrate.forward import Result
from ...integrate.ivp import IVP, Save, SolveConfig, packed_field, step_reader
from ...kernels.blocks import Block, KernelInputs, call_reducing_kernel, pad_to_blocks
from ...kernels.inputs import KernelTrace, Span, kernel_field, kernel_inputs, stored_solver_state
from ...kernels.lowering.block_arrays import LaneReduction, SharedMatrix
from ...kernels.lowering.interpreter import lower_to_lanes
from ...kernels.lowering.lane_loops import lane_while_loop
from ...kernels.lowering.lane_scalars import Element, LaneScalars, is_lane_value, zeros_like
from ...solvers.explicit.stage_loop import LoopedField
from ..batch_cotangents import (
    assemble_cotangent,
    per_row,
    reached_by_each,
    replace_in_problem,
    replace_unwanted,
)
from ..reached import Reached, SolveOutcome
from .layout import differentiated, like_differentiated, tree_add
from .saved_values import add_first_state_cotangent, last_state_cotangent, sum_unwritten


class KernelBackwardState(NamedTuple):
    """The state of the backward pass in a block's lanes.

    `step`: the step that is pulled back next; -1 where none is left. The others as `BackwardState`
    has them, `shared` and `per_trajectory` in the place of its `diff`.
    """

    step: Any
    saves_left: Any
    y: Any
    solver_state: Any
    shared: Any
    per_trajectory: Any


class KernelDiscreteBackward(eqx.Module):
    """The backward pass of an ensemble in a kernel.

    - `per_trajectory`, `shared`: the differentiated arrays of the ensemble.
    - `lanes`: of a block. `logged`: shapes of the solver's arrays that are logged with each step.
    - `reached`: how far each solve came, and what is asked of it.
    """

    ensemble: Ensemble
    per_trajectory: PyTree
    shared: PyTree
    cotangents: Result
    reached: Reached
    num_accepted: Array
    lanes: int = eqx.field(static=True)
    logged: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        perturbed: PyTree,
        ensemble: Ensemble,
        cotangents: Result,
        outcome: SolveOutcome,
        lanes: int,
    ) -> "KernelDiscreteBackward":
        """The pass for these cotangents."""
        reached, num_accepted = reached_by_each(ensemble, outcome, cotangents), outcome.num_accepted
        ensemble = replace_unwanted(ensemble, reached, num_accepted)
        arrays = differentiated(perturbed, ensemble)
        logged = stored_solver_state(ensemble)
        return cls(ensemble, *arrays, cotangents, reached, num_accepted, lanes, logged)

    @property
    def save(self) -> Save:
        """The kind of values that the solve saved."""
        return self.ensemble.config.save

    @property
    def ct_values(self) -> list[Array]:
        """The cotangents of values at times, `(trajectories, times, ...)`, where there are any."""
        return jax.tree.leaves(self.cotangents.ys) if self.save == "ts" else []

    def run(self, log: KernelTrace, perturbed: PyTree) -> PyTree:
        """The cotangent of the ensemble."""
        y, saves_left, solver_state, own, shared = self.over_steps(log)
        more_own, more_shared, y0 = self.over_first(saves_left, solver_state)
        own, shared = tree_add((own, shared), (more_own, more_shared))
        ct = self.cotangents
        add_first_state = jax.vmap(partial(add_first_state_cotangent, self.save))
        y0 = add_first_state(y + y0, ct.ys, ct.dense, self.num_accepted)
        ct = assemble_cotangent(self.ensemble, own, shared, y0, None, self.reached)
        return eqx.filter(ct, perturbed)

    def over_first(
        self, saves_left: Array, ct_solver_state: list[Array]
    ) -> tuple[PyTree, PyTree, Array]:
        """Cotangents of own and shared arrays and starts, from those of what was made of these.

        These are the first solver states, and the values at times that no step has passed.
        """

        def at_start(own: PyTree, shared: PyTree, y0: Array) -> Any:
            own = replace_in_problem(eqx.combine(own, self.ensemble.per_trajectory), y0=y0)
            ensemble = Ensemble(own, eqx.combine(shared, self.ensemble.shared))
            values = self.with_cotangent(first_values(ensemble)) if self.ct_values else []
            return values, jax.vmap(lambda rows: self.solver_state(*ensemble.problem_of(rows)))(own)

        _, pull = jax.vjp(
            at_start, self.per_trajectory, self.shared, self.ensemble.per_trajectory[0].y0
        )
        unwritten = jnp.where(self.reached.wanted, saves_left, 0)
        ct_values = [jax.vmap(sum_unwritten)(ct, unwritten) for ct in self.ct_values]
        return pull((ct_values, ct_solver_state))

    def solver_state(self, problem: IVP, config: SolveConfig) -> list[Array]:
        """The arrays of the first solver state that are logged."""
        if not self.logged:
            return []
        field = packed_field(problem, config)
        return jax.tree.leaves(config.method.stepper.init(field, problem.ts[0], problem.y0))

    def with_cotangent(self, values: PyTree) -> list[Array]:
        """Of the values those that have cotangents."""
        cts = jax.tree.leaves(self.cotangents.ys, is_leaf=lambda x: x is None)
        return [x for x, ct in zip(jax.tree.leaves(values), cts, strict=True) if ct is not None]

    def over_steps(self, log: KernelTrace) -> tuple[Array, Array, Any, PyTree, PyTree]:
        """The kernel: cotangents before the first steps, from those after the last ones.

        They are those of states, solver states, own and shared arrays; after the first come the
        numbers of saved times that no step has passed.
        """
        count, y0 = self.ensemble.count, self.ensemble.per_trajectory[0].y0
        own, shared, times = kernel_inputs(self.ensemble, self.lanes)
        steps = jnp.where(self.reached.wanted, self.num_accepted, 0)
        end = jax.vmap(partial(last_state_cotangent, self.save))(
            y0, self.cotangents.y1, self.cotangents.ys
        )
        end = jnp.where(per_row(self.reached.failed, end), 0, end)
        flat = [ct.reshape(*ct.shape[:2], -1) for ct in self.ct_values]
        values = [pad_to_blocks(jnp.moveaxis(ct, 0, -1), self.lanes) for ct in flat]
        given = KernelInputs(
            (own, steps, self.reached.num_saves, end),
            shared,
            (times, *jax.tree.leaves(log), *values),
        )
        outputs = (
            y0[0],
            jnp.zeros((), jnp.int32),
            list(self.logged),
            _of_one_trajectory(self.per_trajectory),
        )
        (y, saves_left, solver_state, own), shared = call_reducing_kernel(
            self.body, given, outputs, self.shared, count, self.lanes
        )
        return y, saves_left, solver_state, own, shared

    def body(self, block: Block, own: Any, shared: Any, tables: Sequence[Any]) -> tuple[Any, Any]:
        """The backward pass over the trajectories of a block."""
        (own, steps, num_saves, end), times = own, tables[0]
        rows, span = own[0], own[1] or shared[1]
        first_value = 3 + len(self.logged)
        log, values = KernelTrace.of(tables[1:first_value]), tables[first_value:]
        lanes = _BlockBackward(self, block, rows, shared[0], span, times, log, values)
        start = lanes.start(steps, num_saves, end)
        leaves, treedef = jax.tree.flatten(start, is_leaf=is_lane_value)

        def unfinished(state: list[LaneScalars]) -> Element:
            return jax.tree.unflatten(treedef, state).step.item() >= 0

        def advance(mask: Array, state: list[LaneScalars]) -> list[LaneScalars]:
            back = lanes.pull_back(mask, jax.tree.unflatten(treedef, state))
            return jax.tree.leaves(back, is_leaf=is_lane_value)

        back = jax.tree.unflatten(
            treedef, lane_while_loop(unfinished, advance, leaves, block.lanes)
        )
        return (back.y, back.saves_left, back.solver_state, back.per_trajectory), back.shared


class _BlockBackward(NamedTuple):
    """The backward pass in the lanes of one block.

    - `rows`, `shared`: the problems, each lane's own part and the one of all. `span`: first and
      last time, and direction.
    - `times`, `log`, `values`: references to the saved times, the steps, and the cotangents of
      values.
    """

    backward: KernelDiscreteBackward
    block: Block
    rows: PyTree
    shared: PyTree
    span: Any
    times: Any
    log: KernelTrace
    values: Sequence[Any]

    def start(
        self, steps: LaneScalars, num_saves: LaneScalars, end: LaneScalars
    ) -> KernelBackwardState:
        """The state after the last steps."""
        _, shared = self.diff(self.rows, self.shared)
        blank = (
            jax.tree.map(
                lambda x: LaneReduction.zeros(x) if isinstance(x, SharedMatrix) else zeros_like(x),
                shared,
                is_leaf=is_lane_value,
            ),
            jax.tree.map(zeros_like, _of_one_trajectory(self.backward.per_trajectory)),
        )
        # What fills up the last block has no part in any sum.
        real = self.block.trajectories < self.backward.ensemble.count
        last = LaneScalars.of([jnp.where(real, steps.item(), 0) - 1], (), jnp.int32)
        solver_state = [zeros_like(x) for x in self.backward.logged]
        return KernelBackwardState(last, num_saves, end, solver_state, *blank)

    def pull_back(self, mask: Array, back: KernelBackwardState) -> KernelBackwardState:
        """Pull the cotangents back over a step of every lane."""
        lanes, backward = self.block.lanes, self.backward
        index = jnp.maximum(back.step.vector(lanes), 0)
        like = backward.ensemble.per_trajectory[0].y0
        clock = self.block.load_row(self.log.clock, index, (2,), self.log.clock.dtype)
        y = self.block.load_row(self.log.y, index, like.shape[1:], like.dtype)
        solver_state = [
            self.block.load_row(ref, index, x.shape, x.dtype)
            for ref, x in zip(self.log.solver_state, backward.logged, strict=True)
        ]
        needs_dense = self.save_left_inside(back, clock) if self.values else None
        (y1, dense), leaves, treedef = self.step_vjp(y, solver_state, clock, needs_dense)
        cts = (
            LaneScalars.constant(np.zeros(y.shape, y.dtype)),
            back.y,
            jax.tree.map(zeros_like, dense, is_leaf=is_lane_value),
        )
        if self.values:
            back, cts = self.pull_back_values(mask, back, (y, y1, dense), clock, cts)

        def backwards(back: KernelBackwardState, leaves: Any, cts: Any) -> KernelBackwardState:
            ct_y, *ct_end = cts
            pull = jax.tree.unflatten(treedef, leaves)
            own, shared, y, logged = pull((tuple(ct_end), back.solver_state))
            own, shared = tree_add((back.per_trajectory, back.shared), (own, shared))
            return KernelBackwardState(
                back.step - 1, back.saves_left, y + ct_y, logged, shared, own
            )

        return lower_to_lanes(backwards, lanes, mask)(back, leaves, cts)

    def step_vjp(
        self, y: LaneScalars, solver_state: list[LaneScalars], clock: LaneScalars, needs_dense: Any
    ) -> tuple[Any, Any, Any]:
        """A step's end and dense output; leaves and treedef of their pull-back."""
        treedefs: list[Any] = []

        def forwards(
            rows: PyTree, shared: PyTree, y: Array, logged: Any, clock: Array, needs_dense: Any
        ) -> Any:
            t, h = clock

            def advance(own: PyTree, diff_shared: PyTree, y: Array, logged: Any) -> Any:
                stepper = eqx.combine(own, diff_shared, rows, shared)[1].method.stepper
                field = kernel_field(self.backward.ensemble, (own, diff_shared), (rows, shared))
                if isinstance(field, LoopedField):
                    stepped = stepper.step_without_error(field, t, y, h, needs_dense)
                    return (stepped.y1, stepped.dense), []
                # A solver state that can be initialised here is cheaper to compute than to log.
                state = stepper.init(field, t, y)
                if logged:
                    state = jax.tree.unflatten(jax.tree.structure(state), logged)
                stepped = stepper.step(field, t, y, h, state, needs_dense)
                state1 = jax.tree.leaves(stepped.solver_state) if logged else []
                return (stepped.y1, stepped.dense), state1

            (end, _), pull = jax.vjp(advance, *self.diff(rows, shared), y, logged)
            leaves, treedef = jax.tree.flatten(pull)
            treedefs.append(treedef)
            return end, leaves

        run = lower_to_lanes(forwards, self.block.lanes)
        end, leaves = run(self.rows, self.shared, y, solver_state, clock, needs_dense)
        return end, leaves, treedefs[0]

    def diff(self, rows: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        """The differentiated arrays: a trajectory's own, and those that all share."""
        own = like_differentiated(rows, self.backward.per_trajectory)
        return own, like_differentiated(shared, self.backward.shared)

    def time(self, saves_left: LaneScalars) -> LaneScalars:
        """The last saved time that is left."""
        index = jnp.maximum(saves_left.vector(self.block.lanes) - 1, 0)
        return LaneScalars.of([self.block.load_entry(self.times, index)], (), self.times.dtype)

    def save_left_inside(self, back: KernelBackwardState, clock: LaneScalars) -> LaneScalars:
        """True if a saved time that is left comes after the start of the step."""

        def after_start(span: Span, t: Array, clock: Array) -> Array:
            return span.direction * (t - clock[0]) > 0

        return lower_to_lanes(after_start, self.block.lanes)(
            self.span, self.time(back.saves_left), clock
        )

    def pull_back_values(
        self, mask: Array, back: KernelBackwardState, step: Any, clock: LaneScalars, cts: Any
    ) -> tuple[KernelBackwardState, Any]:
        """Pull back the cotangents of values at the times in the step, the last first."""
        lanes = self.block.lanes
        leaves, treedef = jax.tree.flatten((back, cts), is_leaf=is_lane_value)

        def passed(state: list[LaneScalars]) -> Element:
            back, _ = jax.tree.unflatten(treedef, state)

            # A first step has written the repeats of the first time too, all but the first row.
            def in_step(inside: Array, step: Array, saves_left: Array) -> Array:
                return (saves_left > 1) & (inside | (step == 0))

            inside = self.save_left_inside(back, clock)
            has_passed = lower_to_lanes(in_step, lanes)(inside, back.step, back.saves_left)
            return mask & has_passed.vector(lanes)

        def pull_back_one(mask: Array, state: list[LaneScalars]) -> list[LaneScalars]:
            back, cts = jax.tree.unflatten(treedef, state)
            pulled_back = self.pull_back_value(mask, back, cts, step, clock)
            return jax.tree.leaves(pulled_back, is_leaf=is_lane_value)

        return jax.tree.unflatten(treedef, lane_while_loop(passed, pull_back_one, leaves, lanes))

    def pull_back_value(
        self, mask: Array, back: KernelBackwardState, cts: Any, step: Any, clock: LaneScalars
    ) -> tuple[KernelBackwardState, Any]:
        """Pull back the cotangent of the value at one time."""
        index = jnp.maximum(back.saves_left.vector(self.block.lanes) - 1, 0)
        cotangents = [
            self.block.load_row(ref, index, ct.shape[2:], ref.dtype)
            for ref, ct in zip(self.values, self.backward.ct_values, strict=True)
        ]

        def pull_back(
            rows: PyTree, shared: PyTree, span: Span, back: KernelBackwardState, cts: Any,
            step: Any, clock: Array, at: Array, cotangents: list[Array],
        ) -> tuple[KernelBackwardState, Any]:  # fmt: skip
            def values(own: PyTree, diff_shared: PyTree, step: Any) -> list[Array]:
                read = step_reader(*eqx.combine(own, diff_shared, rows, shared))
                y, y1, dense = step
                last = at == span.t1
                t, h = clock
                return self.backward.with_cotangent(read(at, last, t, h, y, y1, dense))

            _, pull = jax.vjp(values, *self.diff(rows, shared), step)
            so_far = back.per_trajectory, back.shared, cts
            own, shared, cts = tree_add(so_far, tuple(pull(cotangents)))
            left = back.saves_left - 1
            return back._replace(saves_left=left, per_trajectory=own, shared=shared), cts

        run = lower_to_lanes(pull_back, self.block.lanes, mask)
        time = self.time(back.saves_left)
        return run(self.rows, self.shared, self.span, back, cts, step, clock, time, cotangents)


def _of_one_trajectory(arrays: PyTree) -> PyTree:
    """The shapes of one trajectory's part of `arrays`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), arrays)
