"""The layout of a backward pass over lanes of many trajectories."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch.forward import BatchRun
from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble, method_in_lanes, values_in_lanes
from ...integrate.events.discontinuities import one_sided_field
from ...integrate.ivp import IVP, SolveConfig, direction_of, next_discontinuity_of
from ...integrate.save import StepRecord
from ...integrate.step import select
from ...integrate.xla_loops import size_of
from ...solvers.base import Solver


class LaneLayout(eqx.Module):
    """Lanes of many trajectories, of which those that are `active` are pulled back over a step.

    The last axis of every array is the lanes. The differentiated arrays are a pair: those that all
    trajectories share, whose cotangent is summed over the lanes inside each vjp, and those that
    each has for itself.

    - `per_trajectory`, `shared`: the differentiated arrays of the ensemble.
    - `rows`: the lanes' own parts of the problem. `number`: the trajectory in each lane, the last
      one where there is none.
    """

    ensemble: Ensemble
    tile: LaneTile
    per_trajectory: PyTree
    shared: PyTree
    rows: PyTree
    number: Array
    active: Array
    with_times: bool = eqx.field(static=True)

    # The problems and their solver.

    @property
    def problem(self) -> IVP:
        """The problem, for what is alike in all trajectories: events and the read-out."""
        return self.ensemble.shared[0]

    @property
    def config(self) -> SolveConfig:
        """The configuration, for what is static in it."""
        return self.ensemble.config

    @property
    def diff(self) -> tuple[PyTree, PyTree]:
        """The differentiated arrays: the shared ones, and each lane's own."""
        return self.shared, diff_rows(self.per_trajectory, self.rows)

    def each(self, function: Callable, diff: PyTree, *args: Any) -> Any:
        """`function(problem, config, *args)` of every lane, with `diff` in the problems."""
        shared, own = diff

        def of_lane(own: PyTree, rows: PyTree, *args: Any) -> Any:
            ensemble, rows = ensemble_with(self.ensemble, shared, own, rows)
            return function(*ensemble.one(rows), *args)

        return jax.vmap(of_lane, in_axes=-1, out_axes=-1)(own, self.rows, *args)

    @property
    def stepper(self) -> Solver:
        """The solver, with what it has for each lane."""
        return method_in_lanes(self.ensemble, self.rows).stepper

    def field(self, t: Array, diff: PyTree) -> Callable[..., Array]:
        """The vector field on lanes of steps from `t`, with `diff` in the problems."""
        ensemble, rows = ensemble_with(self.ensemble, *diff, self.rows)
        field = BatchRun(ensemble, self.tile).field(rows)
        if not self.has_jumps:
            return field
        stop = self.each(lambda problem, _, t: next_discontinuity_of(problem, t), diff, t)
        return one_sided_field(field, t, stop)

    def value_at(
        self, diff: PyTree, t: Array, last: Array, clock: tuple[Array, Array], parts: Any
    ) -> PyTree:
        """The values saved at `t` inside the lanes' steps; `last`: which are the last saved times."""
        ensemble, rows = self.ensemble, self.rows
        if diff is not None:
            ensemble, rows = ensemble_with(ensemble, *diff, rows)
        t_step, h = clock
        step = StepRecord(t_step, h, t_step, h, *parts, (), self.number, self.active)
        return values_in_lanes(ensemble, rows, t, last, step)

    # Times.

    @property
    def num_times(self) -> int:
        """How many times each trajectory is saved at."""
        return self.ensemble.all_times.shape[-1]

    @property
    def last_time(self) -> Array:
        """The last time of each lane, or of all."""
        ts = self.ensemble.all_times
        return ts[-1] if ts.ndim == 1 else ts[self.number, -1]

    @property
    def direction(self) -> Array:
        """1 forwards in time, -1 backwards; of each lane or of all."""
        ts = self.ensemble.all_times
        if ts.ndim == 1:
            return direction_of(ts)
        return jnp.sign(ts[self.number, -1] - ts[self.number, 0])

    def saved_time(self, place: Array) -> Array:
        """The saved times number `place`."""
        ts = self.ensemble.all_times
        return ts[place] if ts.ndim == 1 else ts[self.number, place]

    def is_first_step(self, index: Any, t: Array) -> Array:
        """In which lanes the step from `t` is the first; `index` may not have been recorded."""
        ts = self.ensemble.all_times
        return t == (ts[0] if ts.ndim == 1 else ts[self.number, 0])

    @property
    def has_jumps(self) -> bool:
        """Whether there are discontinuities on which steps have to end."""
        return self.ensemble.jumps

    # Arrays of all trajectories, and masks.

    def row(self, array: Array, place: Array) -> Array:
        """Row number `place` of each lane's trajectory in an array of all, the lanes last."""
        return jnp.moveaxis(array[self.number, place], 0, -1)

    def all_rows(self, array: Array) -> Array:
        """All rows of each lane's trajectory in an array of all, the lanes first."""
        return array[self.number]

    def only(self, mask: Array, x: Array) -> Array:
        """`x` in the lanes of `mask`, zeros in the others."""
        return jnp.where(mask, x, 0)

    def anywhere(self, mask: Array) -> Array:
        """Whether `mask` holds in any lane."""
        return jnp.any(mask)

    def active_only(self, tree: PyTree) -> PyTree:
        """`tree` in the active lanes, zeros in the others."""
        return select(self.active, tree, jax.tree.map(jnp.zeros_like, tree))

    def active_and(self, mask: Array) -> Array:
        """`mask`, but False in inactive lanes."""
        return self.active & mask

    def update(self, new: PyTree, old: PyTree) -> PyTree:
        """`new` in the active lanes, `old` in the others."""
        return select(self.active, new, old)

    def fill(self, mask: Array, args: PyTree) -> tuple["LaneLayout", PyTree]:
        """The layout and `args`, with a lane of `mask` in the place of the others.

        Their cotangents are zero, but zero times NaN is NaN, in every sum over lanes.
        """
        source = jnp.argmax(mask)

        def fill_lanes(x: Array) -> Array:
            other = lax.dynamic_index_in_dim(x, source, x.ndim - 1)
            return jnp.where(mask, x, other)

        rows, args = jax.tree.map(fill_lanes, (self.rows, args))
        return dataclasses.replace(self, rows=rows), args

    def nonzero_size(self, h: Array) -> Array:
        """The steps' sizes, for reading values; those read in inactive lanes are not used."""
        return jnp.where(self.active, h, 1)

    def add_time_cotangents(self, times: Array, mask: Array, place: Array, ct: Array) -> Array:
        """The cotangents of saved times, with `ct` at number `place` of the lanes of `mask`."""
        put = self.tile.put if mask.ndim == 1 else self.tile.put_many
        return put(times, mask, (self.number, place), ct)

    def size_of_save_point(self, ct_ys: PyTree, diff: PyTree) -> int:
        """How many numbers the pull-back of one saved value of every lane works on."""
        size = size_of(ct_ys, self.ensemble.count * self.num_times)
        if diff is None:
            return size * self.tile.width
        return (size + size_of(diff[1]) // self.tile.width) * self.tile.width + size_of(diff[0])


def ensemble_with(
    ensemble: Ensemble, shared: PyTree, own: PyTree, rows: PyTree
) -> tuple[Ensemble, PyTree]:
    """The ensemble and rows of it, with differentiated arrays in the place of their own."""
    return Ensemble(ensemble.per_trajectory, eqx.combine(shared, ensemble.shared)), eqx.combine(
        own, rows
    )


def diff_rows(per_trajectory: PyTree, rows: PyTree) -> PyTree:
    """The arrays of `rows` that are differentiated, as those of all trajectories tell."""
    flags = jax.tree.map(lambda x: x is not None, per_trajectory, is_leaf=lambda x: x is None)
    return eqx.filter(rows, flags)
