"""The forward run of a batch in one kernel, every trajectory in one lane from start to end."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..integrate.ensemble import Ensemble, TileResult, result_of
from ..integrate.forward import Result
from ..integrate.ivp import IVP, SolveConfig, packed_field, step_reader
from ..integrate.step import initialise
from .blocks import Block, KernelInputs, call_kernel, from_columns
from .forward_block import KernelBlock, trajectory_result
from .inputs import KernelTrace, Span, kernel_inputs, stored_solver_state, trajectory_shapes
from .lowering.lane_loops import lane_while_loop
from .lowering.lane_scalars import Element, LaneScalars, is_lane_value


class KernelRun(eqx.Module):
    """The forward run of an ensemble in blocks of `lanes`; `trace_rows`: steps traced per lane."""

    ensemble: Ensemble
    lanes: int = eqx.field(static=True)
    trace_rows: int = eqx.field(static=True, default=0)

    @property
    def saves_times(self) -> bool:
        """Tell whether values at times between the first and the last are saved."""
        return self.ensemble.config.save == "ts"

    @property
    def value_shapes(self) -> PyTree:
        """The shapes of the values saved at one time of one trajectory."""
        if not self.saves_times:
            return ()
        return eqx.filter_eval_shape(self._first_values, *trajectory_shapes(self.ensemble))

    def run(self) -> tuple[Result, KernelTrace | None]:
        """Return the result, and the trace where there are rows for one."""
        count, number = self.ensemble.count, self.ensemble.all_times.shape[-1]
        ends = eqx.filter_eval_shape(self._trajectory_result, *trajectory_shapes(self.ensemble))
        values, shapes = self.value_shapes, self._outputs(ends)
        per_trajectory, shared, times = kernel_inputs(self.ensemble, self.lanes)
        inputs = KernelInputs(per_trajectory, shared, (times,))
        outputs = call_kernel(self.body, inputs, shapes, count, self.lanes)

        (y1, t, counts), outputs = outputs[:3], outputs[3:]
        y1 = from_columns(y1, count, ends[0].shape)
        counts = from_columns(counts, count, ends[2].shape)
        leaves, treedef = jax.tree.flatten(values)
        saved = [
            jnp.moveaxis(x[..., :count], -1, 0).reshape(count, number, *like.shape)
            for x, like in zip(outputs, leaves, strict=False)
        ]
        # A block takes as many iterations as the longest of its lanes has steps.
        steps = jnp.pad(counts[:, 1], (0, self._padded - count), mode="edge")
        iterations = jnp.sum(jnp.max(steps.reshape(-1, self.lanes), axis=1))
        record = (jax.tree.unflatten(treedef, saved), None), None
        ended = TileResult((y1, t[0, :count], counts), record, iterations)
        result = result_of(self.ensemble, ended, self.lanes, self.ensemble.config.save)
        return result, KernelTrace.of(outputs[len(leaves) :]) if self.trace_rows else None

    def body(
        self,
        block: Block,
        per_trajectory: tuple[PyTree, Span | None],
        shared: tuple[PyTree, Span | None],
        tables: tuple[Any, ...],
        outputs: tuple[Any, ...],
    ) -> None:
        """Run the trajectories of one block, and write their results to `outputs`."""
        rows, span = per_trajectory[0], per_trajectory[1] or shared[1]
        lanes = KernelBlock(self.ensemble, block, rows, shared[0], span, tables[0])
        values = outputs[3:]
        trace = outputs[3 + len(jax.tree.leaves(self.value_shapes)) :]
        leaves, treedef = jax.tree.flatten(lanes.initial_state(), is_leaf=is_lane_value)

        def unfinished(state: list[LaneScalars]) -> Element:
            return lanes.under_way(jax.tree.unflatten(treedef, state)[0])

        def advance(mask: Array, state: list[LaneScalars]) -> list[LaneScalars]:
            integrator, cursor = jax.tree.unflatten(treedef, state)
            after, step = lanes.attempt_step(integrator, cursor)
            accept = mask & step.accept.vector(self.lanes)
            if self.trace_rows:
                lanes.write_trace(KernelTrace.of(trace), accept, step)
            if self.saves_times:
                cursor = lanes.write_reached(values, accept, cursor, step)
            return jax.tree.leaves((after, cursor), is_leaf=is_lane_value)

        end = lane_while_loop(unfinished, advance, leaves, self.lanes)
        integrator, cursor = jax.tree.unflatten(treedef, end)
        for ref, x in zip(outputs[:3], lanes.results(integrator, cursor), strict=True):
            block.store(ref, x)
        if self.saves_times:
            lanes.write_first_and_missing(values, cursor)

    @property
    def _padded(self) -> int:
        """The number of trajectories padded to whole blocks."""
        return -(-self.ensemble.count // self.lanes) * self.lanes

    def _outputs(self, ends: PyTree) -> list[jax.ShapeDtypeStruct]:
        """Return the shapes of the kernel's outputs: results, saved values, trace."""
        times = self.ensemble.all_times
        y0 = trajectory_shapes(self.ensemble)[0].y0
        clock = jax.ShapeDtypeStruct((2,), times.dtype)
        traced = clock, y0, *stored_solver_state(self.ensemble)
        tables = [(times.shape[-1], x) for x in jax.tree.leaves(self.value_shapes)]
        tables += [(self.trace_rows, x) for x in traced if self.trace_rows]
        return [
            *(
                jax.ShapeDtypeStruct((max(x.size, 1), self._padded), x.dtype)
                for x in jax.tree.leaves(ends)
            ),
            *(
                jax.ShapeDtypeStruct((length, max(x.size, 1), self._padded), x.dtype)
                for length, x in tables
            ),
        ]

    def _first_values(self, problem: IVP, config: SolveConfig) -> PyTree:
        return step_reader(problem, config).fn(problem.ts[0], problem.y0)

    def _trajectory_result(self, problem: IVP, config: SolveConfig) -> tuple[Array, Array, Array]:
        ts, field = problem.ts, packed_field(problem, config)
        integrator = initialise(config.method, field, problem.y0, ts[0], ts[-1])
        span = Span(ts[0], ts[-1], jnp.asarray(True))
        return trajectory_result(integrator, span, None, ts.shape[0])
