"""Lanes of a backward pass: how trajectories get in and out, and what has come of each."""

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
from ..reached import Reached
from .cotangents import BackwardState


class BackwardLane(NamedTuple):
    """A trajectory in its lane of the backward pass.

    - `back`: its cotangents; of `diff` those of its own arrays, `times` is left out.
      `before_last`: whether its last step has not been pulled back.
    - `after`: the state and solver state that steps back have led to; `()` where states are stored.
    - `rows`: its own part of the problem. `reached`: how far it came. Neither is in results.
    """

    back: BackwardState
    before_last: Array
    after: Any
    rows: PyTree = None
    reached: Reached | None = None

    def as_result(self) -> "BackwardLane":
        """The lane without what its results do not hold."""
        return self._replace(rows=None, reached=None)


class BatchBackwardState(NamedTuple):
    """The state of the backward pass of a batch, between two iterations.

    - `numbers`: the trajectories in the lanes, their count where there is none.
    - `shared`: cotangents of the arrays that all share. `results`: lanes as they ended, by
      trajectory. `times`: cotangents of the times that values were saved at, by trajectory.
    """

    numbers: Array
    lanes: BackwardLane
    shared: PyTree
    results: BackwardLane
    times: Any

    def gather(self) -> BackwardState:
        """The lanes' cotangents, with those that are not in lanes."""
        back = self.lanes.back
        return back._replace(diff=(self.shared, back.diff), times=self.times)

    def scatter(self, back: BackwardState) -> "BatchBackwardState":
        """This state, with what a step has come to in the lanes and in what is not in them."""
        shared, own = back.diff
        lanes = self.lanes._replace(back=back._replace(diff=own, times=None))
        return self._replace(lanes=lanes, shared=shared, times=back.times)


class LaneExchange(eqx.Module):
    """The exchange of trajectories between the lanes of a backward pass and the results.

    - `per_trajectory`, `shared`: the differentiated arrays. `reached`: how far each solve came.
    - `end`: cotangents of the last states. `solver_state`: zeros like that of one trajectory.
    - `end_states`: the last state and solver state of each trajectory, where states are not stored.
    - `num_events`: how many events each had.
    """

    per_trajectory: PyTree
    shared: PyTree
    ensemble: Ensemble
    tile: LaneTile
    reached: Reached
    end: Array
    solver_state: PyTree
    with_times: bool = eqx.field(static=True)
    end_states: PyTree = ()
    num_events: Any = ()

    def blank(self) -> BatchBackwardState:
        """Blank lanes, and results of trajectories without a step."""
        count, width = self.ensemble.count, self.tile.width
        ts = self.ensemble.all_times
        loaded = jax.eval_shape(self.load, jax.ShapeDtypeStruct((), jnp.int32))
        # A last row takes what blank lanes write.
        results = jax.tree.map(
            lambda x: jnp.zeros((count + 1, *x.shape), x.dtype), loaded.as_result()
        )
        end, after, saves_left = jax.tree.map(
            lambda x: jnp.concatenate([x, jnp.zeros_like(x[:1])]),
            (self.end, self.end_states, self.reached.num_saves),
        )
        ended = results.back._replace(y=end, saves_left=saves_left)
        before_last = jnp.ones_like(results.before_last)
        results = results._replace(back=ended, before_last=before_last, after=after)
        return BatchBackwardState(
            jnp.full((width,), count, jnp.int32),
            self.tile.zeros(loaded),
            jax.tree.map(jnp.zeros_like, self.shared),
            results,
            jnp.zeros((count, ts.shape[-1]), ts.dtype) if self.with_times else None,
        )

    def load(self, number: Array) -> BackwardLane:
        """A trajectory at its last time."""

        def take(x: Array) -> Array:
            return lax.dynamic_index_in_dim(x, number, keepdims=False)

        rows = jax.tree.map(
            take, replace_in_problem(self.ensemble.per_trajectory, y0=None, ts=None)
        )
        ts = self.ensemble.all_times
        zero = jnp.zeros((), ts.dtype) if self.with_times else None
        back = BackwardState(
            y=take(self.end),
            solver_state=self.solver_state,
            diff=jax.tree.map(lambda x: jnp.zeros_like(x[0]), self.per_trajectory),
            t=zero,
            t1=zero,
            times=None,
            saves_left=take(self.reached.num_saves),
            events_left=jax.tree.map(take, self.num_events),
        )
        after, reached = jax.tree.map(take, (self.end_states, self.reached))
        return BackwardLane(back, jnp.asarray(True), after, rows, reached)

    def exchange(self, back: BatchBackwardState, numbers: Array) -> BatchBackwardState:
        """Write the trajectories whose first step is pulled back, and load those of `numbers`."""
        loadable = jnp.concatenate([self.reached.wanted, jnp.zeros((1,), bool)])

        def due(back: BatchBackwardState) -> Array:
            return (numbers != back.numbers) & loadable[numbers]

        def exchange_all(mask: Array, back: BatchBackwardState) -> BatchBackwardState:
            ended = back.lanes.as_result()
            results = self.tile.put(back.results, mask, (back.numbers,), ended)
            loaded = jax.vmap(self.load, out_axes=-1)(jnp.minimum(numbers, self.ensemble.count - 1))
            lanes = jax.tree.map(lambda a, b: jnp.where(mask, a, b), loaded, back.lanes)
            new = jnp.where(mask, numbers, back.numbers)
            return back._replace(numbers=new, lanes=lanes, results=results)

        def exchange_one(lane: Array, back: BatchBackwardState) -> BatchBackwardState:
            only = jnp.arange(self.tile.width, dtype=jnp.int32) == lane
            ended = back.lanes.as_result()
            results = self.tile.put(back.results, only, (back.numbers,), ended)
            lanes = self.tile.with_lane(back.lanes, lane, self.load(numbers[lane]))
            new = jnp.where(only, numbers, back.numbers)
            return back._replace(numbers=new, lanes=lanes, results=results)

        if host_controls_loops():
            return exchange_all(due(back), back)
        if self.tile.wide:
            step, is_due, find_due = exchange_all, jnp.any, due
        else:
            step, find_due = exchange_one, lambda back: first_true(due(back))
            is_due = lambda lane: lane < self.tile.width  # noqa: E731

        def exchange_due(state: tuple[Any, BatchBackwardState]) -> tuple[Any, BatchBackwardState]:
            back = step(*state)
            return find_due(back), back

        return lax.while_loop(lambda s: is_due(s[0]), exchange_due, (find_due(back), back))[1]

    def results(self, back: BatchBackwardState) -> BackwardLane:
        """The results of all trajectories, with those that are in the lanes at the end."""
        lanes = back.lanes.as_result()
        return jax.tree.map(
            lambda b, v: b.at[back.numbers].set(v)[:-1], back.results, self.tile.lanes_first(lanes)
        )
