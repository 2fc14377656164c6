"""SIMD lanes and their queue: trajectories that step together, each replaced when it ends.

Inside a tile the last axis of every array is its lanes. A finished lane writes its result and
loads the next trajectory, so that no lane waits for another. On a CPU, lanes are refilled one by
one, with slices, which XLA fuses into the native function of the loop; a *wide* tile, for
accelerators and for fields with matrix products, refills all its lanes at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.ensemble import TileResult
from ..integrate.xla_loops import fused, host_controls_loops


class LaneTile(eqx.Module):
    """The shape of a tile: its number of lanes, and whether it is wide."""

    width: int = eqx.field(static=True)
    wide: bool = eqx.field(static=True)

    def map(self, function: Callable) -> Callable:
        """Vectorise `function` of one lane over all lanes."""
        return jax.vmap(function, in_axes=-1, out_axes=-1)

    def lane(self, tree: PyTree, index: Array) -> PyTree:
        """Return one lane of every array."""

        def take_lane(x: Array) -> Array:
            return lax.dynamic_index_in_dim(x, index, x.ndim - 1, keepdims=False)

        return jax.tree.map(take_lane, tree)

    def with_lane(self, tree: PyTree, index: Array, values: PyTree) -> PyTree:
        """Return `tree` with one lane replaced by `values`."""

        def set_lane(x: Array, value: Array) -> Array:
            return lax.dynamic_update_index_in_dim(x, value, index, x.ndim - 1)

        return jax.tree.map(set_lane, tree, values)

    def lanes_first(self, tree: PyTree) -> PyTree:
        """Move the axis of lanes of every array to the front."""
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), tree)

    def zeros(self, shapes: PyTree) -> PyTree:
        """Return zeros for all lanes, given the shapes of one lane."""
        return jax.tree.map(lambda x: jnp.zeros((*x.shape, self.width), x.dtype), shapes)

    def put(self, buffers: PyTree, mask: Array, index: tuple[Array, ...], values: PyTree) -> PyTree:
        """Write `buffers[index] = values` for every lane in `mask`.

        `index` holds vectors of one index per lane; the last axis of `values` is the lanes.
        """
        if self.wide:
            row = jnp.where(mask, index[0], jnp.iinfo(jnp.int32).max)
            return jax.tree.map(
                lambda b, v: b.at[(row, *index[1:])].set(v.astype(b.dtype), mode="drop"),
                buffers,
                self.lanes_first(values),
            )

        def put_lane(state: tuple[Array, Array, PyTree]) -> tuple[Array, Array, PyTree]:
            lane, pending, buffers = state
            lane_index = [i[lane] for i in index]
            buffers = jax.tree.map(
                lambda b, v: _write_at(b, lane_index, v), buffers, self.lane(values, lane)
            )
            pending = pending & (jnp.arange(self.width, dtype=jnp.int32) != lane)
            return first_true(pending), pending, buffers

        start = first_true(mask), mask, buffers
        return lax.while_loop(lambda s: s[0] < self.width, put_lane, start)[2]

    def put_many(
        self, buffers: PyTree, mask: Array, index: tuple[Array, ...], values: PyTree
    ) -> PyTree:
        """Write many rows per lane, as `put` writes one, in a wide tile.

        `mask` and `index` have shape `(rows, lanes)`; the first axis of `values` is the rows, the
        last the lanes.
        """
        row = jnp.where(mask, index[0], jnp.iinfo(jnp.int32).max)

        def write_rows(buffer: Array, value: Array) -> Array:
            values = jnp.moveaxis(value, -1, 1).astype(buffer.dtype)
            return buffer.at[(row, *index[1:])].set(values, mode="drop")

        return jax.tree.map(write_rows, buffers, values)


def first_true(mask: Array) -> Array:
    """Return the first index where `mask` holds, else its length; int32."""
    size = mask.shape[0]
    return jnp.min(jnp.where(mask, jnp.arange(size, dtype=jnp.int32), size))


def _write_at(buffer: Array, index: list[Array], value: Array) -> Array:
    start = [*index, *[jnp.int32(0)] * value.ndim]
    update = value.reshape((1,) * len(index) + value.shape).astype(buffer.dtype)
    return lax.dynamic_update_slice(buffer, update, start)


class LaneProgram(NamedTuple):
    """The operations on lanes that the loop over a tile calls.

    - `count`: the number of trajectories.
    - `mark_finished(lanes)`: blank lanes, marked as finished.
    - `load(number)`: a trajectory at its start, a pytree of arrays.
    - `finished(lanes)`: the lanes whose trajectories have ended.
    - `result(lane)`: the result of one lane at its end.
    - `follow(numbers, lanes)`: what has to follow where `waits(lanes)`, before the next step; None
      if nothing ever has.
    - `advance(numbers, lanes, record)`: one step of all lanes of the tile; `numbers` holds the
      index of the trajectory in each lane, `count` where there is none.
    - `progress(before, now, count)`: a callback, given the number of finished trajectories before
      and after each refill.
    """

    count: int
    mark_finished: Callable[[PyTree], PyTree]
    load: Callable[[Array], PyTree]
    finished: Callable[[PyTree], Array]
    result: Callable[[PyTree], PyTree]
    advance: Callable[[Array, PyTree, Any], tuple[PyTree, Any]]
    progress: Callable[[Array, Array, int], None] | None = None
    waits: Callable[[PyTree], Array] | None = None
    follow: Callable[[Array, PyTree], PyTree] | None = None


class QueueState(NamedTuple):
    """The state of the loop over a tile: queue, lanes, results by trajectory, records."""

    next_number: Array  # the index of the next trajectory to load
    remaining: Array  # trajectories whose results are not written, and blank lanes
    numbers: Array  # the index of the trajectory in each lane
    lanes: PyTree
    results: PyTree
    record: Any
    num_iterations: Array


def lane_shapes(program: LaneProgram) -> PyTree:
    """Return the shapes of one lane."""
    return jax.eval_shape(program.load, jax.ShapeDtypeStruct((), jnp.int32))


def occupied_lanes(program: LaneProgram, tile: LaneTile) -> Any:
    """Return the number of lanes that ever hold a trajectory.

    It is less than the width only where the number of trajectories was unknown beforehand.
    """
    if isinstance(program.count, int):
        return min(program.count, tile.width)
    return jnp.minimum(jnp.asarray(program.count, jnp.int32), tile.width)


def initial_queue(program: LaneProgram, tile: LaneTile, record: Any, shapes: PyTree) -> QueueState:
    """Return the tile before its first iteration, with lanes of `shapes`.

    Its lanes are blank and finished, and hold the indices of the trajectories that they load
    first: the loop needs no special case for its start, and results of blank lanes are overwritten.
    """
    results = jax.tree.map(
        lambda x: jnp.zeros((program.count, *x.shape), x.dtype),
        jax.eval_shape(program.result, shapes),
    )
    zero = jnp.zeros((), jnp.int32)
    numbers = jnp.arange(tile.width, dtype=jnp.int32)
    remaining = jnp.asarray(program.count + occupied_lanes(program, tile), jnp.int32)
    lanes = program.mark_finished(tile.zeros(shapes))
    return QueueState(zero, remaining, numbers, lanes, results, record, zero)


def run_until(
    program: LaneProgram,
    tile: LaneTile,
    state: QueueState,
    may_continue: Callable[[QueueState], Array | bool] = lambda _: True,
) -> QueueState:
    """Refill and step the lanes until all trajectories have ended or `may_continue` is false."""
    total = program.count + occupied_lanes(program, tile)

    def unfinished(state: QueueState) -> Array:
        return (state.remaining > 0) & may_continue(state)

    def refillable(state: QueueState) -> Array:
        return program.finished(state.lanes) & (state.numbers < program.count)

    def goes_on(state: QueueState) -> Array:
        undisturbed = unfinished(state) & ~jnp.any(refillable(state))
        if program.waits is None:
            return undisturbed
        waits = program.waits(state.lanes) & (state.numbers < program.count)
        return undisturbed & ~jnp.any(waits)

    def follow(state: QueueState) -> QueueState:
        if program.follow is None:
            return state
        return state._replace(lanes=program.follow(state.numbers, state.lanes))

    def step(state: QueueState) -> QueueState:
        lanes, record = program.advance(state.numbers, state.lanes, state.record)
        return state._replace(lanes=lanes, record=record, num_iterations=state.num_iterations + 1)

    def refill_then_step(state: QueueState) -> QueueState:
        before, state = state.remaining, _refill(program, tile, refillable, follow(state))
        if program.progress is not None:
            done = [jnp.minimum(total - n, program.count) for n in (before, state.remaining)]
            program.progress(done[0], done[1], program.count)
        return lax.while_loop(goes_on, step, state)

    def refill_and_step(state: QueueState) -> QueueState:
        state = follow(state)
        state = _refill_all(program, tile, refillable(state), state)
        finished = refillable(state)  # trajectories that end at their start wait an iteration
        numbers = jnp.where(finished, program.count, state.numbers)
        lanes, record = program.advance(numbers, state.lanes, state.record)
        lanes = jax.tree.map(lambda a, b: jnp.where(finished, a, b), state.lanes, lanes)
        return state._replace(lanes=lanes, record=record, num_iterations=state.num_iterations + 1)

    # A progress callback calls the host anyway, and once per refill suffices for it.
    single_loop = host_controls_loops() and program.progress is None
    return lax.while_loop(unfinished, refill_and_step if single_loop else refill_then_step, state)


def run(program: LaneProgram, tile: LaneTile, record: Any) -> TileResult:
    """Solve every trajectory from start to end."""
    shapes = lane_shapes(program)

    def run_tile(state: TileResult) -> TileResult:
        first = initial_queue(program, tile, state.record, shapes)._replace(results=state.results)
        return tile_result(run_until(program, tile, first))

    return fused(run_tile, tile_result(initial_queue(program, tile, record, shapes)))


def tile_result(state: QueueState) -> TileResult:
    """Return the results, records and number of iterations of a tile."""
    return TileResult(state.results, state.record, state.num_iterations)


def _refill(
    program: LaneProgram,
    tile: LaneTile,
    refillable: Callable[[QueueState], Array],
    state: QueueState,
) -> QueueState:
    """Rerank every finished trajectory by the next one of the queue, while there are any."""
    refill = _refill_all if tile.wide else _refill_one

    def lanes_to_refill(state: QueueState) -> Any:
        if tile.wide:
            return refillable(state)
        # Blank lanes come first, or they would overwrite the result of a solve without steps.
        lane = jnp.arange(tile.width, dtype=jnp.int32)
        occupied = occupied_lanes(program, tile)
        loaded = program.count + occupied - state.remaining
        return first_true(refillable(state) & ((lane >= loaded) | (loaded >= occupied)))

    def any_to_refill(carry: tuple[Any, QueueState]) -> Array:
        return jnp.any(carry[0]) if tile.wide else carry[0] < tile.width

    def refill_next(carry: tuple[Any, QueueState]) -> tuple[Any, QueueState]:
        state = refill(program, tile, *carry)
        return lanes_to_refill(state), state

    return lax.while_loop(any_to_refill, refill_next, (lanes_to_refill(state), state))[1]


def _refill_one(program: LaneProgram, tile: LaneTile, lane: Array, state: QueueState) -> QueueState:
    """Write the result of a finished lane and load the next trajectory into it."""
    result = program.result(tile.lane(state.lanes, lane))
    results = jax.tree.map(
        lambda b, v: _write_at(b, [state.numbers[lane]], v), state.results, result
    )
    loaded = program.load(jnp.minimum(state.next_number, program.count - 1))
    return state._replace(
        next_number=jnp.minimum(state.next_number + 1, program.count),
        remaining=state.remaining - 1,
        numbers=lax.dynamic_update_index_in_dim(state.numbers, state.next_number, lane, 0),
        lanes=tile.with_lane(state.lanes, lane, loaded),
        results=results,
    )


def _refill_all(program: LaneProgram, tile: LaneTile, mask: Array, state: QueueState) -> QueueState:
    """Write the results of the lanes in `mask` and load the next trajectories into them."""
    results = tile.put(state.results, mask, (state.numbers,), tile.map(program.result)(state.lanes))
    rank = jnp.cumsum(mask, dtype=jnp.int32)
    number = jnp.minimum(state.next_number + rank - 1, program.count)
    loaded = jax.vmap(program.load, out_axes=-1)(jnp.minimum(number, program.count - 1))
    return state._replace(
        next_number=jnp.minimum(state.next_number + rank[-1], program.count),
        remaining=state.remaining - rank[-1],
        numbers=jnp.where(mask, number, state.numbers),
        lanes=jax.tree.map(lambda a, b: jnp.where(mask, a, b), loaded, state.lanes),
        results=results,
    )
