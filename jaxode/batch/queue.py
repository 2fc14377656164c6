"""Lanes and their queue: trajectories that step together, each replaced when it ends.

Inside a tile the last axis of every array is its lanes. A finished lane writes its result and
takes the next trajectory, so no lane waits for another. On a CPU that happens lane by lane, with
slices, which XLA keeps inside the loop's one native function; a *wide* tile, for accelerators and
for fields with matrix products, does it for all its lanes at once.
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
    """The shape of a tile: how many lanes, and whether it is wide."""

    width: int = eqx.field(static=True)
    wide: bool = eqx.field(static=True)

    def map(self, function: Callable) -> Callable:
        """`function` of one lane, over all lanes."""
        return jax.vmap(function, in_axes=-1, out_axes=-1)

    def lane(self, tree: PyTree, index: Array) -> PyTree:
        """One lane of every array."""

        def take(x: Array) -> Array:
            return lax.dynamic_index_in_dim(x, index, x.ndim - 1, keepdims=False)

        return jax.tree.map(take, tree)

    def with_lane(self, tree: PyTree, index: Array, values: PyTree) -> PyTree:
        """`tree` with `values` as one of its lanes."""

        def put(x: Array, value: Array) -> Array:
            return lax.dynamic_update_index_in_dim(x, value, index, x.ndim - 1)

        return jax.tree.map(put, tree, values)

    def rows(self, tree: PyTree) -> PyTree:
        """The same with the axis of lanes first."""
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), tree)

    def zeros(self, shapes: PyTree) -> PyTree:
        """Zeros for all lanes, given the shapes of one."""
        return jax.tree.map(lambda x: jnp.zeros((*x.shape, self.width), x.dtype), shapes)

    def put(self, buffers: PyTree, mask: Array, index: tuple[Array, ...], values: PyTree) -> PyTree:
        """`buffers[index] = values` in every lane of `mask`.

        `index` holds vectors of one number per lane; `values` have their lanes last.
        """
        if self.wide:
            drop = jnp.where(mask, index[0], jnp.iinfo(jnp.int32).max)
            return jax.tree.map(
                lambda b, v: b.at[(drop, *index[1:])].set(v.astype(b.dtype), mode="drop"),
                buffers,
                self.rows(values),
            )

        def one(state: tuple[Array, Array, PyTree]) -> tuple[Array, Array, PyTree]:
            lane, left, buffers = state
            where = [i[lane] for i in index]
            buffers = jax.tree.map(
                lambda b, v: _put_at(b, where, v), buffers, self.lane(values, lane)
            )
            left = left & (jnp.arange(self.width) != lane)
            return first_true(left), left, buffers

        start = first_true(mask), mask, buffers
        return lax.while_loop(lambda s: s[0] < self.width, one, start)[2]

    def put_many(
        self, buffers: PyTree, mask: Array, index: tuple[Array, ...], values: PyTree
    ) -> PyTree:
        """The same of a wide tile for many places of each lane, an axis before that of lanes.

        `values` have it first, and their lanes last.
        """
        drop = jnp.where(mask, index[0], jnp.iinfo(jnp.int32).max)

        def set_at(buffer: Array, value: Array) -> Array:
            rows = jnp.moveaxis(value, -1, 1).astype(buffer.dtype)
            return buffer.at[(drop, *index[1:])].set(rows, mode="drop")

        return jax.tree.map(set_at, buffers, values)


def first_true(mask: Array) -> Array:
    """The first index where `mask` holds, else its length; int32."""
    size = mask.shape[0]
    return jnp.min(jnp.where(mask, jnp.arange(size, dtype=jnp.int32), size))


def _put_at(buffer: Array, index: list[Array], value: Array) -> Array:
    start = [*index, *[jnp.int32(0)] * value.ndim]
    update = value.reshape((1,) * len(index) + value.shape).astype(buffer.dtype)
    return lax.dynamic_update_slice(buffer, update, start)


class LaneProgram(NamedTuple):
    """What lanes do; `load` and `result` are told of one trajectory.

    - `count`: how many trajectories.
    - `idle(lanes)`: blank lanes, made such that they are over.
    - `load(number)`: the trajectory at its start, a pytree of arrays.
    - `over(lanes)`: in which lanes nothing is left to do.
    - `result(lane)`: what is kept of it at its end.
    - `advance(numbers, lanes, record)`: one step of all lanes of the tile; `numbers` says which
      trajectory is in a lane, `count` where there is none.
    - `meter(before, now, count)`: told how many trajectories are done after each refill.
    """

    count: int
    idle: Callable[[PyTree], PyTree]
    load: Callable[[Array], PyTree]
    over: Callable[[PyTree], Array]
    result: Callable[[PyTree], PyTree]
    advance: Callable[[Array, PyTree, Any], tuple[PyTree, Any]]
    meter: Callable[[Array, Array, int], None] | None = None


class QueueState(NamedTuple):
    """Where a tile is: the queue, its lanes, results by trajectory, records, turns taken."""

    queue: Array  # the next trajectory to load
    left: Array  # trajectories whose results are not written, and blank lanes
    numbers: Array
    lanes: PyTree
    results: PyTree
    record: Any
    num_iterations: Array


def lane_shapes(work: LaneProgram) -> PyTree:
    """The shapes of one lane."""
    return jax.eval_shape(work.load, jax.ShapeDtypeStruct((), jnp.int32))


def start(work: LaneProgram, tile: LaneTile, record: Any, shapes: PyTree) -> QueueState:
    """The tile before its first turn, with lanes of `shapes`.

    Its lanes are blank and over, and bear the numbers that they will load first: so the loop has
    no special case for its beginning, and what a blank lane writes is overwritten.
    """
    results = jax.tree.map(
        lambda x: jnp.zeros((work.count, *x.shape), x.dtype), jax.eval_shape(work.result, shapes)
    )
    zero = jnp.zeros((), jnp.int32)
    numbers = jnp.arange(tile.width, dtype=jnp.int32)
    left = jnp.int32(work.count + tile.width)
    return QueueState(zero, left, numbers, work.idle(tile.zeros(shapes)), results, record, zero)


def run_until(
    work: LaneProgram,
    tile: LaneTile,
    state: QueueState,
    room: Callable[[QueueState], Array | bool] = lambda _: True,
) -> QueueState:
    """Refill and step the lanes, until nothing is left or there is no `room` for a turn."""

    total = work.count + tile.width

    def unfinished(state: QueueState) -> Array:
        return (state.left > 0) & room(state)

    def free(state: QueueState) -> Array:
        return work.over(state.lanes) & (state.numbers < work.count)

    def step(state: QueueState) -> QueueState:
        lanes, record = work.advance(state.numbers, state.lanes, state.record)
        return state._replace(lanes=lanes, record=record, num_iterations=state.num_iterations + 1)

    def phase(state: QueueState) -> QueueState:
        before, state = state.left, _refill(work, tile, free, state)
        if work.meter is not None:
            done = [jnp.minimum(total - left, work.count) for left in (before, state.left)]
            work.meter(done[0], done[1], work.count)
        return lax.while_loop(lambda s: unfinished(s) & ~jnp.any(free(s)), step, state)

    def turn(state: QueueState) -> QueueState:
        state = _refill_all(work, tile, free(state), state)
        over = free(state)  # what was over at its start waits for the next turn
        numbers = jnp.where(over, work.count, state.numbers)
        lanes, record = work.advance(numbers, state.lanes, state.record)
        lanes = jax.tree.map(lambda a, b: jnp.where(over, a, b), state.lanes, lanes)
        return state._replace(lanes=lanes, record=record, num_iterations=state.num_iterations + 1)

    # A meter calls the host in any case, and once a phase is enough for it.
    every_turn = host_controls_loops() and work.meter is None
    return lax.while_loop(unfinished, turn if every_turn else phase, state)


def run(work: LaneProgram, tile: LaneTile, record: Any) -> TileResult:
    """Every trajectory from start to end."""

    shapes = lane_shapes(work)

    def whole(state: TileResult) -> TileResult:
        first = start(work, tile, state.record, shapes)._replace(results=state.results)
        return ended(run_until(work, tile, first))

    return fused(whole, ended(start(work, tile, record, shapes)))


def ended(state: QueueState) -> TileResult:
    """What a tile leaves behind."""
    return TileResult(state.results, state.record, state.num_iterations)


def _refill(
    work: LaneProgram, tile: LaneTile, free: Callable[[QueueState], Array], state: QueueState
) -> QueueState:
    """Replace every trajectory that is over by one from the queue, while there are any."""
    refill = _refill_all if tile.wide else _refill_one

    def look(state: QueueState) -> Any:
        if tile.wide:
            return free(state)
        # Blank lanes first: what they write stands where a result of no step may be already.
        lane, loaded = jnp.arange(tile.width), work.count + tile.width - state.left
        return first_true(free(state) & ((lane >= loaded) | (loaded >= tile.width)))

    def found(carry: tuple[Any, QueueState]) -> Array:
        return jnp.any(carry[0]) if tile.wide else carry[0] < tile.width

    def again(carry: tuple[Any, QueueState]) -> tuple[Any, QueueState]:
        state = refill(work, tile, *carry)
        return look(state), state

    return lax.while_loop(found, again, (look(state), state))[1]


def _refill_one(work: LaneProgram, tile: LaneTile, lane: Array, state: QueueState) -> QueueState:
    """Write the result of a free lane and load the next trajectory into it."""
    kept = work.result(tile.lane(state.lanes, lane))
    results = jax.tree.map(lambda b, v: _put_at(b, [state.numbers[lane]], v), state.results, kept)
    loaded = work.load(jnp.minimum(state.queue, work.count - 1))
    return state._replace(
        queue=jnp.minimum(state.queue + 1, work.count),
        left=state.left - 1,
        numbers=lax.dynamic_update_index_in_dim(state.numbers, state.queue, lane, 0),
        lanes=tile.with_lane(state.lanes, lane, loaded),
        results=results,
    )


def _refill_all(work: LaneProgram, tile: LaneTile, free: Array, state: QueueState) -> QueueState:
    """Write the results of all free lanes and load the next trajectories into them."""
    results = tile.put(state.results, free, (state.numbers,), tile.map(work.result)(state.lanes))
    place = jnp.cumsum(free, dtype=jnp.int32)
    number = jnp.minimum(state.queue + place - 1, work.count)
    loaded = jax.vmap(work.load, out_axes=-1)(jnp.minimum(number, work.count - 1))
    return state._replace(
        queue=jnp.minimum(state.queue + place[-1], work.count),
        left=state.left - place[-1],
        numbers=jnp.where(free, number, state.numbers),
        lanes=jax.tree.map(lambda a, b: jnp.where(free, a, b), loaded, state.lanes),
        results=results,
    )
