"""Trajectories on their way back: lanes that hold their cotangents, and what has come of them."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch.queue import LaneTile, first_true
from ...integrate.ensemble import Ensemble
from ...integrate.xla_loops import host_controls_loops
from ..batch_cotangents import replace_in_problem


class LaneCotangents(NamedTuple):
    """The cotangents of a trajectory on its way back, and its own part of the problem.

    `saves_left` counts the saved times whose cotangents are yet to come in, `events` those in the log;
    `t` and `t1` are the cotangents of the time that the walk is at and of the last one, `fresh`
    tells that its last step has not come. `place` is the state and carry that steps back have led
    to, where they are not stored.
    """

    y: Array
    solver_state: Any
    per_trajectory: PyTree
    saves_left: Array
    events: Any
    t: Any
    t1: Any
    fresh: Array
    rows: PyTree
    place: Any


class BatchBackwardState(NamedTuple):
    """Lanes, the trajectories in them, what is summed, and what is known by trajectory.

    `times`: cotangents of the times that values were saved at.
    """

    numbers: Array
    lanes: LaneCotangents
    shared: PyTree
    results: LaneCotangents
    times: Any


class LaneExchange(eqx.Module):
    """How trajectories get into the lanes of a backward pass, and out of them.

    - `per_trajectory`, `shared`: the arrays that are differentiated. `good`: which trajectories went well.
    - `end`: cotangents of the last states. `solver_state`: zeros like one trajectory's solver carry.
    - `places`: the last state and carry of each trajectory, where they are not stored.
    - `events`: how many each had.
    """

    per_trajectory: PyTree
    shared: PyTree
    ensemble: Ensemble
    tile: LaneTile
    good: Array
    end: Array
    solver_state: PyTree
    with_times: bool = eqx.field(static=True)
    places: PyTree = ()
    events: Any = ()

    def blank(self) -> BatchBackwardState:
        """Blank lanes, and results as of trajectories that take no step."""
        count, width = self.ensemble.count, self.tile.width
        ts = self.ensemble.all_times
        loaded = jax.eval_shape(self.load, jax.ShapeDtypeStruct((), jnp.int32))
        # A last row takes what blank lanes write.
        results = jax.tree.map(
            lambda x: jnp.zeros((count + 1, *x.shape), x.dtype), loaded._replace(rows=None)
        )
        end, place = jax.tree.map(
            lambda x: jnp.concatenate([x, jnp.zeros_like(x[:1])]), (self.end, self.places)
        )
        results = results._replace(
            y=end,
            place=place,
            saves_left=jnp.full_like(results.saves_left, ts.shape[-1]),
        )
        return BatchBackwardState(
            jnp.full((width,), count, jnp.int32),
            self.tile.zeros(loaded),
            jax.tree.map(jnp.zeros_like, self.shared),
            results,
            jnp.zeros((count, ts.shape[-1]), ts.dtype) if self.with_times else (),
        )

    def load(self, number: Array) -> LaneCotangents:
        """A trajectory at its last time."""

        def take(x: Array) -> Array:
            return lax.dynamic_index_in_dim(x, number, keepdims=False)

        rows = jax.tree.map(
            take, replace_in_problem(self.ensemble.per_trajectory, y0=None, ts=None)
        )
        ts = self.ensemble.all_times
        zero = jnp.zeros((), ts.dtype) if self.with_times else ()
        return LaneCotangents(
            take(self.end),
            self.solver_state,
            jax.tree.map(lambda x: jnp.zeros_like(x[0]), self.per_trajectory),
            jnp.int32(ts.shape[-1]),
            jax.tree.map(take, self.events),
            zero,
            zero,
            jnp.asarray(True),
            rows,
            jax.tree.map(take, self.places),
        )

    def exchange(self, back: BatchBackwardState, numbers: Array) -> BatchBackwardState:
        """Write the trajectories whose first step is behind us, and load those of `numbers`."""
        known = jnp.concatenate([self.good, jnp.zeros((1,), bool)])

        def due(back: BatchBackwardState) -> Array:
            return (numbers != back.numbers) & known[numbers]

        def all_lanes(mask: Array, back: BatchBackwardState) -> BatchBackwardState:
            results = self.tile.put(
                back.results, mask, (back.numbers,), back.lanes._replace(rows=None)
            )
            loaded = jax.vmap(self.load, out_axes=-1)(jnp.minimum(numbers, self.ensemble.count - 1))
            lanes = jax.tree.map(lambda a, b: jnp.where(mask, a, b), loaded, back.lanes)
            new = jnp.where(mask, numbers, back.numbers)
            return back._replace(numbers=new, lanes=lanes, results=results)

        def one_lane(lane: Array, back: BatchBackwardState) -> BatchBackwardState:
            only = jnp.arange(self.tile.width) == lane
            kept = back.lanes._replace(rows=None)
            results = self.tile.put(back.results, only, (back.numbers,), kept)
            lanes = self.tile.with_lane(back.lanes, lane, self.load(numbers[lane]))
            new = jnp.where(only, numbers, back.numbers)
            return back._replace(numbers=new, lanes=lanes, results=results)

        if host_controls_loops():
            return all_lanes(due(back), back)
        if self.tile.wide:
            step, found, look = all_lanes, jnp.any, due
        else:
            step, look = one_lane, lambda back: first_true(due(back))
            found = lambda lane: lane < self.tile.width  # noqa: E731

        def again(state: tuple[Any, BatchBackwardState]) -> tuple[Any, BatchBackwardState]:
            back = step(*state)
            return look(back), back

        return lax.while_loop(lambda s: found(s[0]), again, (look(back), back))[1]

    def results(self, back: BatchBackwardState) -> LaneCotangents:
        """What is known of every trajectory, with those that are in the lanes at the end."""
        lanes = back.lanes._replace(rows=None)
        return jax.tree.map(
            lambda b, v: b.at[back.numbers].set(v)[:-1], back.results, self.tile.lanes_first(lanes)
        )

    def with_moving(self, shared: PyTree, own: PyTree, rows: PyTree) -> tuple[Ensemble, PyTree]:
        """The ensemble and rows, with differentiated arrays in the place of its own."""
        ensemble = Ensemble(self.ensemble.per_trajectory, eqx.combine(shared, self.ensemble.shared))
        return ensemble, eqx.combine(own, rows)

    def own_of(self, rows: PyTree) -> PyTree:
        """What is differentiated of the lanes' own rows."""
        known = jax.tree.map(
            lambda x: x is not None, self.per_trajectory, is_leaf=lambda x: x is None
        )
        return eqx.filter(rows, known)
