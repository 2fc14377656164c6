"""The log of a batch's run, turn by turn, for those who go through it backwards.

A turn's row holds every lane's step. There are rows for one segment of turns; each segment begins
with a snapshot of the lanes, from which its rows can be written again. A run of one segment, the
usual one of a few steps, needs no second writing.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from ..integrate.save import put_row
from ..integrate.xla_loops import fused
from . import queue as tiles
from .forward import BatchRun, Iteration, LaneState
from .queue import LaneTile, QueueState

# Bytes of the rows of one segment, where the root of the number of turns does not ask for more.
SEGMENT_BYTES = 2**20


class IterationRow(NamedTuple):
    """One turn: the trajectory in each lane, and its step; `h` is zero unless it was accepted.

    `index` counts the accepted steps before it, where a save mode or an event asks. `y` and `solver_state`
    are left out where the states are found by steps back.
    """

    numbers: Array
    t: Array
    h: Array
    y: Any
    solver_state: Any
    index: Any


class Snapshot(NamedTuple):
    """The queue and its lanes before a segment."""

    queue: Array
    left: Array
    numbers: Array
    lanes: LaneState


class BatchTrace(NamedTuple):
    """The rows of the last segment, how many of them, and the snapshots of all segments.

    `ends`: the last state and carry of each trajectory, where the rows hold no states.
    """

    rows: IterationRow
    count: Array
    snapshots: Snapshot
    segments: Array
    ends: Any = ()


class BatchCheckpointer(eqx.Module):
    """Writes a log, and writes the rows of a segment again.

    Without `states` there is one segment, and a row holds but numbers, times and step sizes.
    """

    ensemble: Ensemble
    tile: LaneTile
    length: int = eqx.field(static=True)  # rows
    most: int = eqx.field(static=True)  # segments
    states: bool = eqx.field(static=True)

    @classmethod
    def of(
        cls, ensemble: Ensemble, tile: LaneTile, states: bool, memory: int | str | None = None
    ) -> "BatchCheckpointer":
        """With as many rows as fit, at least the root of the most turns there can be.

        `memory`: else as many snapshots, or a row for every turn.
        """
        rounds = -(-ensemble.count // tile.width) + (tile.width < ensemble.count)
        turns = ensemble.config.method.max_steps * rounds + 1
        if not states:
            return cls(ensemble, tile, turns, 1, states)
        if memory is not None:
            length = -(-turns // memory) if isinstance(memory, int) else turns
            return cls(ensemble, tile, length, -(-turns // length), states)
        lane = jax.eval_shape(BatchRun(ensemble, tile).load, jax.ShapeDtypeStruct((), jnp.int32))
        kept = jax.tree.leaves(
            (lane.moving.y, lane.moving.solver_state, lane.moving.t, lane.moving.h)
        )
        size = tile.width * sum(x.size * x.dtype.itemsize for x in kept)
        length = min(turns, max(SEGMENT_BYTES // size, math.isqrt(turns) + 1))
        return cls(ensemble, tile, length, -(-turns // length), states)

    @classmethod
    def like(cls, log: BatchTrace, ensemble: Ensemble, tile: LaneTile) -> "BatchCheckpointer":
        """The one that wrote `log`."""
        length, most = log.rows.t.shape[0], log.snapshots.queue.shape[0]
        return cls(ensemble, tile, length, most, not log.ends)

    def run(self) -> tuple[Result, BatchTrace]:
        """The forward run, with its log."""
        run = BatchRun(self.ensemble, self.tile)
        work, zero = run.work(self._write), jnp.int32(0)
        if not self.states:
            work = work._replace(result=lambda lane: (run.result(lane), lane.moving.solver_state))
        shapes = tiles.lane_shapes(work)
        start = tiles.start(work, self.tile, run.open(), shapes)

        def blank(length: int, tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), tree)

        rows = blank(self.length, self._row_of(start))
        snapshots = blank(self.most, _snapshot(start))

        def whole(
            state: tuple[tiles.TileResult, BatchTrace],
        ) -> tuple[tiles.TileResult, BatchTrace]:
            ended, log = state
            first = tiles.start(work, self.tile, (ended.record, (zero, log.rows)), shapes)
            first = first._replace(results=ended.results)
            begun = zero, log.snapshots, first
            segments, snapshots, end = lax.while_loop(lambda c: c[2].left > 0, segment, begun)
            saved, (count, rows) = end.record
            ended = tiles.ended(end)._replace(record=saved)
            return ended, BatchTrace(rows, count, snapshots, segments)

        def segment(
            carry: tuple[Array, Snapshot, QueueState],
        ) -> tuple[Array, Snapshot, QueueState]:
            number, snapshots, state = carry
            snapshots = jax.tree.map(
                lambda b, v: put_row(b, v, number), snapshots, _snapshot(state)
            )
            saved, (_, rows) = state.record
            return (
                number + 1,
                snapshots,
                self._fill(work, state._replace(record=(saved, (zero, rows)))),
            )

        ended, log = fused(whole, (tiles.ended(start), BatchTrace(rows, zero, snapshots, zero)))
        ended = ended._replace(record=(ended.record, None))
        if self.states:
            return run.close(ended), log
        ends, carries = ended.results
        return run.close(ended._replace(results=ends)), log._replace(ends=(ends[0], carries))

    def again(self, log: BatchTrace, segment: Array) -> tuple[IterationRow, Array]:
        """The rows of a segment and their number; of the last one they are still there."""
        known = segment == log.segments - 1
        if self.most == 1:
            return log.rows, log.count
        run = BatchRun(self.ensemble, self.tile, saving=False)
        work = run.work(self._write)._replace(result=lambda lane: ())
        queue, left, numbers, lanes = jax.tree.map(lambda b: b[segment], log.snapshots)
        written = jnp.where(known, self.length, 0).astype(jnp.int32)
        record = (((), None), (written, log.rows))
        state = QueueState(queue, left, numbers, lanes, (), record, jnp.int32(0))
        state = self._fill(work, state)
        return state.record[1][1], jnp.where(known, log.count, state.record[1][0])

    @property
    def indexed(self) -> bool:
        """Whether the way back asks how many steps were accepted before one."""
        saved = self.ensemble.config.save in ("steps", "dense")
        return saved or bool(self.ensemble.shared[0].events)

    def _fill(self, work: tiles.LaneProgram, state: QueueState) -> QueueState:
        return tiles.run_until(work, self.tile, state, lambda s: s.record[1][0] < self.length)

    def _write(
        self, record: tuple[Array, IterationRow], turn: Iteration
    ) -> tuple[Array, IterationRow]:
        count, rows = record
        row = self._row(turn)
        return count + 1, jax.tree.map(lambda b, v: put_row(b, v, count), rows, row)

    def _row(self, turn: Iteration) -> IterationRow:
        steps = turn.steps
        return IterationRow(
            turn.numbers,
            steps.t,
            jnp.where(steps.accept, steps.h, 0),
            steps.y if self.states else (),
            steps.solver_state if self.states else (),
            steps.index if self.indexed else (),
        )

    def _row_of(self, state: QueueState) -> IterationRow:
        """A row's shapes."""
        moving = state.lanes.moving
        index = moving.num_accepted if self.indexed else ()
        y, carry = (moving.y, moving.solver_state) if self.states else ((), ())
        return IterationRow(state.numbers, moving.t, moving.h, y, carry, index)


def _snapshot(state: QueueState) -> Snapshot:
    lanes = state.lanes._replace(reader=())
    return Snapshot(state.queue, state.left, state.numbers, lanes)
