"""The forward run of the trajectories in one block of a kernel's lanes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.ensemble import Ensemble
from ..integrate.forward import times_status
from ..integrate.ivp import IVP, SolveConfig, packed_field, step_reader
from ..integrate.save import SaveCursor, StepRecord, missing_value, reach_of, save_time
from ..integrate.step import (
    IntegratorState,
    attempt_step,
    finalise,
    initialise,
    needs_step,
    step_end,
)
from .blocks import Block
from .inputs import KernelTrace, Span, kernel_field
from .lowering.interpreter import lower_to_lanes
from .lowering.lane_loops import lane_while_loop
from .lowering.lane_scalars import Element, LaneScalars, is_lane_value, select_element


class KernelBlock(NamedTuple):
    """The trajectories in the lanes of one block, and the operations of their forward run.

    `rows`, `shared`: the parts of the problem, without times. `times`: a reference to the times.
    """

    ensemble: Ensemble
    block: Block
    rows: PyTree
    shared: PyTree
    span: Any
    times: Any

    @property
    def saves_times(self) -> bool:
        """Tell whether values at times between the first and the last are saved."""
        return self.ensemble.config.save == "ts"

    @property
    def num_times(self) -> int:
        """The number of save times."""
        return self.ensemble.all_times.shape[-1]

    def lanewise(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Lower `function(problem, config, span, ...)` of one trajectory to the lanes."""

        def with_problem(rows: PyTree, shared: PyTree, span: Span, *args: Any) -> Any:
            return function(*eqx.combine(rows, shared), span, *args)

        def call_in_lanes(*args: Any) -> Any:
            lowered = lower_to_lanes(with_problem, self.block.lanes)
            return lowered(self.rows, self.shared, self.span, *args)

        return call_in_lanes

    def initial_state(self) -> tuple[IntegratorState, Any]:
        """Return the integrator states at the first times, and the save-point cursors."""

        def initial_integrator(problem: IVP, config: SolveConfig, span: Span) -> IntegratorState:
            field = packed_field(problem, config)
            return initialise(config.method, field, problem.y0, span.t0, span.t1)

        cursor: Any = ()
        if self.saves_times:
            count: Any = LaneScalars.constant(1, jnp.int32)
            ordered: Any = LaneScalars.constant(True)
            time: Any = self.save_time(count, self.direction())
            cursor = SaveCursor(count, time, ordered)
        return self.lanewise(initial_integrator)(), cursor

    def direction(self) -> LaneScalars:
        """Return the sign of each lane's span."""
        return self.lanewise(lambda problem, config, span: span.direction)()

    def under_way(self, integrator: IntegratorState) -> Element:
        """Return the mask of lanes that have another step to attempt."""

        def has_next_step(
            problem: IVP, config: SolveConfig, span: Span, integrator: IntegratorState
        ) -> Array:
            return needs_step(config.method, integrator, span.direction, span.t1)

        return self.lanewise(has_next_step)(integrator).item()

    def attempt_step(self, integrator: IntegratorState, cursor: Any) -> tuple[IntegratorState, Any]:
        """Attempt a step of every lane."""

        def attempt(
            problem: IVP, config: SolveConfig, span: Span, integrator: IntegratorState, cursor: Any
        ) -> tuple[IntegratorState, StepRecord]:
            needs_dense: Any = True if self.saves_times else None
            if self.saves_times and config.method.solver.evaluations.dense:
                end = step_end(config.method, integrator, span.direction, span.t1)
                needs_dense = cursor.is_before(end, span.direction)
            field, method = kernel_field(self.ensemble, (), ((problem, config),)), config.method
            after, step = attempt_step(
                method, field, integrator, span.direction, span.t1, lambda _: needs_dense
            )
            return after, step._replace(before=None, residuals=())

        return self.lanewise(attempt)(integrator, cursor)

    def save_time(self, count: LaneScalars, direction: LaneScalars) -> LaneScalars:
        """Return the save time of index `count`; past the last, one that no step reaches."""

        def look_up(index: Array) -> Array:
            return self.block.load_entry(self.times, index)

        index, sign = (x.vector(self.block.lanes) for x in (count, direction))
        time = save_time(look_up, index, self.num_times, sign)
        return LaneScalars.of([time], (), time.dtype)

    def write_reached(self, outputs: Any, accept: Array, cursor: Any, step: Any) -> Any:
        """Write the values at every save time that the accepted steps have reached."""
        lanes = self.block.lanes
        leaves, treedef = jax.tree.flatten(cursor, is_leaf=is_lane_value)
        accepted = step._replace(accept=LaneScalars.of([accept], (), bool))
        reach = lower_to_lanes(reach_of, lanes)(accepted)

        def due(state: list[LaneScalars]) -> Element:
            cursor = jax.tree.unflatten(treedef, state)
            return lower_to_lanes(SaveCursor.is_due, lanes)(cursor, step.direction, reach).item()

        def write_next(mask: Array, state: list[LaneScalars]) -> list[LaneScalars]:
            cursor = jax.tree.unflatten(treedef, state)
            index = cursor.count.vector(lanes)
            values = jax.tree.leaves(self.saved_values(cursor, step), is_leaf=is_lane_value)
            for ref, x in zip(outputs, values, strict=False):
                self.block.store_row(ref, mask, index, x.flat())
            following = self.save_time(_increment(cursor.count), step.direction)
            after = lower_to_lanes(SaveCursor.advance, lanes)(cursor, following, step)
            return jax.tree.leaves(after, is_leaf=is_lane_value)

        return jax.tree.unflatten(treedef, lane_while_loop(due, write_next, leaves, lanes))

    def saved_values(self, cursor: Any, step: Any) -> PyTree:
        """Return the values that are saved at the cursors' times."""

        def read(problem: IVP, config: SolveConfig, span: Span, cursor: Any, step: Any) -> PyTree:
            return step_reader(problem, config).at_cursor(cursor, step, span.t1, self.num_times)

        return self.lanewise(read)(cursor, step)

    def write_trace(self, outputs: KernelTrace, accept: Array, step: Any) -> None:
        """Write the accepted steps to the trace."""
        index = step.index.vector(self.block.lanes)
        self.block.store_row(outputs.clock, accept, index, [step.t.item(), step.h.item()])
        self.block.store_row(outputs.y, accept, index, step.y.flat())
        solver_state = jax.tree.leaves(step.solver_state, is_leaf=is_lane_value)
        for ref, x in zip(outputs.solver_state, solver_state, strict=False):
            self.block.store_row(ref, accept, index, x.flat())

    def results(
        self, integrator: IntegratorState, cursor: Any
    ) -> tuple[LaneScalars, LaneScalars, LaneScalars]:
        """Return last states, times reached, and statuses with counts."""

        def result(
            problem: IVP, config: SolveConfig, span: Span, integrator: IntegratorState, cursor: Any
        ) -> Any:
            return trajectory_result(integrator, span, cursor or None, self.num_times)

        return self.lanewise(result)(integrator, cursor)

    def write_first_and_missing(self, outputs: Any, cursor: Any) -> None:
        """Write the first values at their time, and to the rows of times that were not reached.

        These rows hold missing values, unless their time equals the first.
        """

        def first_values(problem: IVP, config: SolveConfig, span: Span) -> tuple[PyTree, Array]:
            return step_reader(problem, config).fn(span.t0, problem.y0), span.t0

        values, t0 = self.lanewise(first_values)()
        leaves = jax.tree.leaves(values, is_leaf=is_lane_value)
        first = t0.vector(self.block.lanes)

        def write_row(mask: Array, index: Array) -> None:
            same = self.block.load_entry(self.times, index) == first
            for ref, x in zip(outputs, leaves, strict=False):
                missing = missing_value(x.dtype)
                row = [select_element(same, c, missing) for c in x.flat()]
                self.block.store_row(ref, mask, index, row)

        def write_next(index: Array) -> Array:
            write_row(index < self.num_times, jnp.minimum(index, self.num_times - 1))
            return index + 1

        start = jnp.zeros((self.block.lanes,), jnp.int32)
        write_row(start == 0, start)
        written = cursor.count.vector(self.block.lanes)
        lax.while_loop(lambda index: jnp.min(index) < self.num_times, write_next, written)


def trajectory_result(
    integrator: IntegratorState, span: Span, cursor: SaveCursor | None, num_times: int
) -> tuple[Array, Array, Array]:
    """Return a trajectory's last state, the time reached, and its status with its counts."""
    end = finalise(integrator, span.direction * (span.t1 - integrator.t))
    status = end.status
    if cursor is not None:
        missed = cursor.is_incomplete(num_times) & span.moves & (end.t == span.t1)
        status = times_status(status, cursor.ordered, missed)
    optional = jax.tree.leaves((end.extra_evaluations, end.linear_algebra_counts))
    return end.y, end.t, jnp.stack([status, end.num_steps, end.num_accepted, *optional])


def _increment(count: LaneScalars) -> LaneScalars:
    return LaneScalars.of([count.item() + count.dtype.type(1)], (), count.dtype)
