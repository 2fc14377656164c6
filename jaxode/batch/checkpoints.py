"""Checkpoints of a batch's forward run, for the discrete backward pass.

The row of an iteration holds every lane's step. There are rows for one segment of iterations; each
segment begins with a snapshot of the lanes, from which its rows are recomputed. A run of a single
segment, which is usual with few steps, needs no recomputation. The number of snapshots does not
grow with the largest number of steps: in a long run they are thinned.
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
from ..integrate.schedule import CheckpointSchedule, empty_schedule, find_row
from ..integrate.xla_loops import fused
from . import queue
from .forward import BatchRun, Iteration, LaneState
from .queue import LaneTile, QueueState

# Bytes of the rows of one segment, but at least so many rows, if there may be as many segments.
SEGMENT_BYTES, SEGMENT_ROWS = 2**20, 128
MAX_SNAPSHOTS = 16


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


Kept = tuple[Snapshot, CheckpointSchedule | None]


class BatchTrace(NamedTuple):
    """The rows of the last segment, their number, and snapshots of all segments.

    `ends`: the last state and solver state of each trajectory, where the rows hold no states.
    `schedule`: of which segments there are snapshots, where these are thinned.
    """

    rows: IterationRow
    count: Array
    snapshots: Snapshot
    segments: Array
    ends: Any = ()
    schedule: CheckpointSchedule | None = None


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
    thins: bool = eqx.field(static=True, default=False)

    @classmethod
    def create(
        cls, ensemble: Ensemble, tile: LaneTile, saves_states: bool, memory: int | str | None = None
    ) -> "BatchCheckpointer":
        """Choose the segment length from `SEGMENT_BYTES`, or as `memory` says.

        A segment has at least as many rows as the square root of the largest number of iterations,
        up to `SEGMENT_ROWS`. `memory`: the number of snapshots, or a string for a row of every
        iteration.
        """
        known = isinstance(ensemble.count, int)  # else a symbol, under `jax.export`
        fills = ensemble.count // tile.width + 2
        if known:
            fills = -(-ensemble.count // tile.width) + (tile.width < ensemble.count)
        iterations = ensemble.config.method.max_steps * fills + 1
        if not saves_states:
            return cls(ensemble, tile, iterations, 1, saves_states)
        if not known:  # snapshots are thinned however many iterations there are
            iterations = SEGMENT_ROWS**2 * MAX_SNAPSHOTS
        elif memory is not None:
            length = -(-iterations // memory) if isinstance(memory, int) else iterations
            return cls(ensemble, tile, length, -(-iterations // length), saves_states)
        lane = jax.eval_shape(BatchRun(ensemble, tile).load, jax.ShapeDtypeStruct((), jnp.int32))
        state = lane.integrator
        saved = jax.tree.leaves((state.y, state.solver_state, state.t, state.h))
        size = tile.width * sum(x.size * x.dtype.itemsize for x in saved)
        fewest = min(math.isqrt(iterations) + 1, SEGMENT_ROWS)
        room = SEGMENT_BYTES * min(tile.width, 8) // 8  # clearing it costs as much as short solves
        length = min(iterations, max(room // size, fewest))
        segments = -(-iterations // length)
        thins = segments > MAX_SNAPSHOTS
        return cls(ensemble, tile, length, min(segments, MAX_SNAPSHOTS), saves_states, thins)

    @classmethod
    def from_trace(
        cls, trace: BatchTrace, ensemble: Ensemble, tile: LaneTile
    ) -> "BatchCheckpointer":
        """Return the checkpointer that wrote `trace`."""
        length, segments = trace.rows.t.shape[0], trace.snapshots.next_number.shape[0]
        return cls(ensemble, tile, length, segments, not trace.ends, trace.schedule is not None)

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
            segments, (snapshots, schedule), end = lax.while_loop(
                lambda c: c[2].remaining > 0,
                run_segment,
                (zero, (trace.snapshots, trace.schedule), first),
            )
            saved, (count, rows) = end.record
            ended = queue.tile_result(end)._replace(record=saved)
            return ended, BatchTrace(rows, count, snapshots, segments, schedule=schedule)

        def run_segment(
            carry: tuple[Array, Kept, QueueState],
        ) -> tuple[Array, Kept, QueueState]:
            number, kept, state = carry
            kept = _keep(kept, number, _snapshot(state))
            saved, (_, rows) = state.record
            state = state._replace(record=(saved, (zero, rows)))
            return number + 1, kept, self._run_segment(program, state)

        schedule = empty_schedule(self.max_segments) if self.thins else None
        blank = BatchTrace(rows, zero, snapshots, zero, schedule=schedule)
        ended, trace = fused(run_segments, (queue.tile_result(start), blank))
        ended = ended._replace(record=(ended.record, None))
        if self.saves_states:
            return run.gather_results(ended), trace
        results, ends = ended.results
        return run.gather_results(ended._replace(results=results)), trace._replace(ends=ends)

    def replay_segment(self, trace: BatchTrace, segment: Array) -> tuple[BatchTrace, Array]:
        """Return the trace with the rows of a segment, and their number; it has those of the last.

        The segment after it may be forgotten.
        """
        available = segment == trace.segments - 1
        if self.max_segments == 1:
            return trace, trace.count
        run = BatchRun(self.ensemble, self.tile, saving=False)
        program = run.lane_program(self._write)._replace(result=lambda lane: ())
        if trace.schedule is not None:
            return self._replay_from_last(program, trace, segment, available)
        snapshot = jax.tree.map(lambda b: b[segment], trace.snapshots)
        written = jnp.where(available, self.segment_length, 0).astype(jnp.int32)
        state = self._run_segment(program, _restored(snapshot, written, trace.rows))
        count, rows = state.record[1]
        return trace._replace(rows=rows), jnp.where(available, trace.count, count)

    def _replay_from_last(
        self, program: queue.LaneProgram, trace: BatchTrace, segment: Array, available: Array
    ) -> tuple[BatchTrace, Array]:
        """Run again from the last snapshot before a segment, with snapshots on the way.

        The snapshots of later segments give way to these, evenly spaced.
        """
        assert trace.schedule is not None
        steps, zero = trace.schedule.steps, jnp.int32(0)
        row = jnp.argmax(jnp.where(steps <= segment, steps, -1))
        begin = jnp.where(available, segment + 1, steps[row])
        free = jnp.sum((steps > segment) | (steps < 0), dtype=jnp.int32)
        stride = (segment - begin) // (free + 1) + 1
        start = _restored(jax.tree.map(lambda b: b[row], trace.snapshots), trace.count, trace.rows)

        def run_next(carry: tuple[Array, Array, Snapshot, QueueState]) -> tuple:
            number, steps, snapshots, state = carry
            due = (number > begin) & ((number - begin) % stride == 0)
            row = jnp.argmax((steps > segment) | (steps < 0))
            snapshots = _put_if(due, snapshots, row, _snapshot(state))
            steps = steps.at[row].set(jnp.where(due, number, steps[row]))
            saved, (_, rows) = state.record
            state = state._replace(record=(saved, (zero, rows)))
            return number + 1, steps, snapshots, self._run_segment(program, state)

        carry = begin, steps, trace.snapshots, start
        carry = lax.while_loop(lambda c: c[0] <= segment, run_next, carry)
        _, steps, snapshots, state = carry
        count, rows = state.record[1]
        schedule = trace.schedule._replace(steps=steps)
        return trace._replace(rows=rows, snapshots=snapshots, schedule=schedule), count

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


def _restored(snapshot: Snapshot, count: Array, rows: IterationRow) -> QueueState:
    """The queue of a snapshot, with `count` rows written."""
    record = ((), None), (count, rows)
    zero = jnp.int32(0)
    return QueueState(**snapshot._asdict(), results=(), record=record, num_iterations=zero)


def _keep(kept: Kept, number: Array, snapshot: Snapshot) -> Kept:
    """The snapshots with that before segment `number`, if their schedule has a row for it."""
    snapshots, schedule = kept
    if schedule is None:
        return jax.tree.map(lambda b, v: put_row(b, v, number), snapshots, snapshot), None
    row, due, schedule = find_row(schedule, number)
    return _put_if(due, snapshots, row, snapshot), schedule


def _put_if(due: Array, snapshots: Snapshot, row: Array, snapshot: Snapshot) -> Snapshot:
    return jax.tree.map(
        lambda b, v: put_row(b, jnp.where(due, v, b[row]), row), snapshots, snapshot
    )
