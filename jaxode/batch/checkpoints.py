"""Checkpoints of a batch's forward run, for the discrete backward pass.

The row of an iteration holds every lane's step. There are rows for one segment of iterations; each
segment begins with a snapshot of the lanes, from which its rows are recomputed. A run of a single
segment, which is usual with few steps, needs no recomputation.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.ensemble import Ensemble, TileResult
from ..integrate.forward import Result
from ..integrate.save import put_row
from ..integrate.xla_loops import fused
from . import queue
from .forward import BatchRun, Iteration, LaneState
from .queue import LaneTile, QueueState

# Bytes of the rows of one segment, unless the square root of the number of iterations is larger.
SEGMENT_BYTES = 2**20


class IterationRow(NamedTuple):
    """The steps of one iteration: the trajectory in each lane, and its step.

    `h` is zero unless the step was accepted. `index` counts the accepted steps before it, where a
    save mode or an event needs that. `y` and `solver_state` are empty where a reversible solver
    recomputes the states.
    """

    numbers: Array
    t: Array
    h: Array
    y: Any
    solver_state: Any
    index: Any


class Snapshot(NamedTuple):
    """The queue and its lanes before a segment."""

    next_number: Array
    remaining: Array
    numbers: Array
    lanes: LaneState


class BatchTrace(NamedTuple):
    """The rows of the last segment, their number, and the snapshots of all segments.

    `ends`: the last state and solver state of each trajectory, where the rows hold no states.
    """

    rows: IterationRow
    count: Array
    snapshots: Snapshot
    segments: Array
    ends: Any = ()


class BatchCheckpointer(eqx.Module):
    """Traces a batch's run, and recomputes the rows of a segment.

    Without `saves_states` there is a single segment, and a row holds only trajectory indices, times
    and step sizes.
    """

    ensemble: Ensemble
    tile: LaneTile
    segment_length: int = eqx.field(static=True)  # rows
    max_segments: int = eqx.field(static=True)
    saves_states: bool = eqx.field(static=True)

    @classmethod
    def create(
        cls, ensemble: Ensemble, tile: LaneTile, saves_states: bool, memory: int | str | None = None
    ) -> "BatchCheckpointer":
        """Choose the segment length from `SEGMENT_BYTES`, or as `memory` says.

        A segment has at least as many rows as the square root of the largest number of iterations.
        `memory`: the number of snapshots, or a string for a row of every iteration.
        """
        fills = -(-ensemble.count // tile.width) + (tile.width < ensemble.count)
        iterations = ensemble.config.method.max_steps * fills + 1
        if not saves_states:
            return cls(ensemble, tile, iterations, 1, saves_states)
        if memory is not None:
            length = -(-iterations // memory) if isinstance(memory, int) else iterations
            return cls(ensemble, tile, length, -(-iterations // length), saves_states)
        lane = jax.eval_shape(BatchRun(ensemble, tile).load, jax.ShapeDtypeStruct((), jnp.int32))
        state = lane.integrator
        saved = jax.tree.leaves((state.y, state.solver_state, state.t, state.h))
        size = tile.width * sum(x.size * x.dtype.itemsize for x in saved)
        length = min(iterations, max(SEGMENT_BYTES // size, math.isqrt(iterations) + 1))
        return cls(ensemble, tile, length, -(-iterations // length), saves_states)

    @classmethod
    def from_trace(
        cls, trace: BatchTrace, ensemble: Ensemble, tile: LaneTile
    ) -> "BatchCheckpointer":
        """Return the checkpointer that wrote `trace`."""
        length, segments = trace.rows.t.shape[0], trace.snapshots.next_number.shape[0]
        return cls(ensemble, tile, length, segments, not trace.ends)

    def run(self) -> tuple[Result, BatchTrace]:
        """Run forward: the result, and the trace."""
        run = BatchRun(self.ensemble, self.tile)
        program, zero = run.lane_program(self._write), jnp.int32(0)
        if not self.saves_states:
            program = program._replace(
                # The last state of a failed solve too, which is NaN in its result.
                result=lambda lane: (
                    run.result(lane),
                    (lane.integrator.y, lane.integrator.solver_state),
                )
            )
        shapes = queue.lane_shapes(program)
        start = queue.initial_queue(program, self.tile, run.initial_record(), shapes)

        def blank_rows(length: int, tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), tree)

        rows = blank_rows(self.segment_length, self._row_template(start))
        snapshots = blank_rows(self.max_segments, _snapshot(start))

        def run_segments(state: tuple[TileResult, BatchTrace]) -> tuple[TileResult, BatchTrace]:
            ended, trace = state
            record = ended.record, (zero, trace.rows)
            first = queue.initial_queue(program, self.tile, record, shapes)
            first = first._replace(results=ended.results)
            segments, snapshots, end = lax.while_loop(
                lambda c: c[2].remaining > 0, run_segment, (zero, trace.snapshots, first)
            )
            saved, (count, rows) = end.record
            ended = queue.tile_result(end)._replace(record=saved)
            return ended, BatchTrace(rows, count, snapshots, segments)

        def run_segment(
            carry: tuple[Array, Snapshot, QueueState],
        ) -> tuple[Array, Snapshot, QueueState]:
            number, snapshots, state = carry
            snapshots = jax.tree.map(
                lambda b, v: put_row(b, v, number), snapshots, _snapshot(state)
            )
            saved, (_, rows) = state.record
            state = state._replace(record=(saved, (zero, rows)))
            return number + 1, snapshots, self._run_segment(program, state)

        blank = BatchTrace(rows, zero, snapshots, zero)
        ended, trace = fused(run_segments, (queue.tile_result(start), blank))
        ended = ended._replace(record=(ended.record, None))
        if self.saves_states:
            return run.gather_results(ended), trace
        results, ends = ended.results
        return run.gather_results(ended._replace(results=results)), trace._replace(ends=ends)

    def replay_segment(self, trace: BatchTrace, segment: Array) -> tuple[IterationRow, Array]:
        """Return the rows of a segment and their number; those of the last are in the trace."""
        available = segment == trace.segments - 1
        if self.max_segments == 1:
            return trace.rows, trace.count
        run = BatchRun(self.ensemble, self.tile, saving=False)
        program = run.lane_program(self._write)._replace(result=lambda lane: ())
        snapshot = jax.tree.map(lambda b: b[segment], trace.snapshots)
        zero = jnp.int32(0)
        written = jnp.where(available, self.segment_length, 0).astype(jnp.int32)
        record = (((), None), (written, trace.rows))
        state = QueueState(**snapshot._asdict(), results=(), record=record, num_iterations=zero)
        state = self._run_segment(program, state)
        return state.record[1][1], jnp.where(available, trace.count, state.record[1][0])

    @property
    def saves_index(self) -> bool:
        """Tell whether the backward pass needs the number of accepted steps before each."""
        saved = self.ensemble.config.save in ("steps", "dense")
        return saved or bool(self.ensemble.shared[0].events)

    def _run_segment(self, program: queue.LaneProgram, state: QueueState) -> QueueState:
        return queue.run_until(
            program, self.tile, state, lambda s: s.record[1][0] < self.segment_length
        )

    def _write(
        self, record: tuple[Array, IterationRow], iteration: Iteration
    ) -> tuple[Array, IterationRow]:
        count, rows = record
        row = self._row(iteration)
        return count + 1, jax.tree.map(lambda b, v: put_row(b, v, count), rows, row)

    def _row(self, iteration: Iteration) -> IterationRow:
        steps = iteration.steps
        return IterationRow(
            iteration.numbers,
            steps.t,
            jnp.where(steps.accept, steps.h, 0),
            steps.y if self.saves_states else (),
            steps.solver_state if self.saves_states else (),
            steps.index if self.saves_index else (),
        )

    def _row_template(self, state: QueueState) -> IterationRow:
        """Return arrays of the shapes and dtypes of a row."""
        now = state.lanes.integrator
        index = now.num_accepted if self.saves_index else ()
        y, solver_state = (now.y, now.solver_state) if self.saves_states else ((), ())
        return IterationRow(state.numbers, now.t, now.h, y, solver_state, index)


def _snapshot(state: QueueState) -> Snapshot:
    lanes = state.lanes._replace(cursor=())
    return Snapshot(state.next_number, state.remaining, state.numbers, lanes)
