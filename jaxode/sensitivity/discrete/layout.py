"""The trajectories over whose steps one iteration of a backward pass goes: one, or lanes of many.

The pull-back of a step is written once, for both. `StepLayout` has what they differ in.
"""

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
from ...integrate.ivp import (
    IVP,
    SolveConfig,
    field_of_step,
    next_discontinuity_of,
    step_reader,
)
from ...integrate.save import StepRecord
from ...integrate.step import select
from ...integrate.xla_loops import num_elements
from ...problem.field import Field, map_parts
from ...solvers.base import Solver
from ...solvers.linear import WithJacobian
from ..batch_cotangents import replace_in_problem


class StepLayout(eqx.Module):
    """One trajectory, or lanes of many, of which the `active` ones are pulled back over a step.

    - `tile`: None for one trajectory, of which all is in the `shared` part of `ensemble`. With a
      tile the last axis of every array is its lanes.
    - `shared`, `per_trajectory`: the differentiated arrays of `ensemble`.
    - `rows`: the lanes' own parts of the problem. `number`: the trajectory in each lane, the last
      one where there is none. `active`: of which lanes a step is pulled back.
    """

    ensemble: Ensemble
    tile: LaneTile | None
    shared: PyTree
    per_trajectory: PyTree
    with_times: bool = eqx.field(static=True)
    rows: PyTree
    number: Any = None
    active: Any = None

    @classmethod
    def single(cls, perturbed: PyTree, problem: IVP, config: SolveConfig) -> "StepLayout":
        """One trajectory, differentiated by the arrays of `problem` that `perturbed` marks."""
        shared, blank = (problem, config), eqx.filter((problem, config), False)
        diff = eqx.filter(problem, dataclasses.replace(perturbed, y0=False, ts=False)), blank[1]
        # The times of events depend on all the rest.
        times = bool(perturbed.ts) or bool(perturbed.jumps) or bool(problem.events)
        return cls(Ensemble(blank, shared), None, diff, blank, times, blank)

    # The problems and their solver.

    @property
    def problem(self) -> IVP:
        """The problem; of lanes the part that all share, with the events and the read-out."""
        return self.ensemble.shared[0]

    @property
    def config(self) -> SolveConfig:
        """The configuration; of lanes for what is static in it."""
        return self.ensemble.config

    @property
    def diff(self) -> tuple[PyTree, PyTree]:
        """The differentiated arrays: those that all share, and each lane's own.

        A vjp by them sums the cotangents of the former over the lanes.
        """
        return self.shared, like_differentiated(self.rows, self.per_trajectory)

    def each(self, function: Callable, diff: PyTree, *args: Any) -> Any:
        """`function(problem, config, *args)` of each trajectory, with `diff` in its problem."""
        shared, own = diff

        def of_trajectory(own: PyTree, rows: PyTree, *args: Any) -> Any:
            return function(*eqx.combine(own, rows, shared, self.ensemble.shared), *args)

        if self.tile is None:
            return of_trajectory(own, self.rows, *args)
        return jax.vmap(of_trajectory, in_axes=-1, out_axes=-1)(own, self.rows, *args)

    @property
    def stepper(self) -> Solver:
        """The solver, with what it has for each lane."""
        if self.tile is None:
            return self.config.method.stepper
        return method_in_lanes(self.ensemble, self.rows).stepper

    def field(self, t: Array, diff: PyTree = None) -> Field:
        """The vector field of a step from `t`, with `diff` in the problems."""
        diff = self.diff if diff is None else diff
        if self.tile is None:
            return _states_computed_once(self.each(field_of_step, diff, t))
        ensemble, rows = self._with_diff(diff)
        run = BatchRun(ensemble, self.tile)
        field, has_jumps = run.field(rows), self.ensemble.has_jumps
        if not has_jumps and not self.config.method.solver.looks_ahead:
            return field
        ahead = one_sided_field if has_jumps else run.looking_ahead
        return ahead(field, t, self.next_discontinuity(diff, t))

    def next_discontinuity(self, diff: PyTree, t: Array) -> Array:
        """The time on which a step from `t` has to end."""
        return self.each(lambda problem, _, t: next_discontinuity_of(problem, t), diff, t)

    def value_at(
        self, diff: PyTree, t: Array, last: Array, clock: tuple[Array, Array], parts: Any
    ) -> PyTree:
        """The value saved at `t` inside a step; `last`: whether `t` is the last saved time."""
        diff = self.diff if diff is None else diff
        if self.tile is None:
            return self.each(step_reader, diff)(t, last, *clock, *parts)
        (t0, h), (y, y1, dense) = clock, parts
        step = StepRecord(t0, h, t0, h, y, y1, dense, (), self.number, self.active)
        return values_in_lanes(*self._with_diff(diff), t, last, step)

    def _with_diff(self, diff: PyTree) -> tuple[Ensemble, PyTree]:
        shared, own = diff
        shared = eqx.combine(shared, self.ensemble.shared)
        return Ensemble(self.ensemble.per_trajectory, shared), eqx.combine(own, self.rows)

    # The saved times.

    @property
    def num_times(self) -> int:
        """The number of times at which each trajectory is saved."""
        return self.ensemble.all_times.shape[-1]

    def saved_time(self, place: Array | int) -> Array:
        """The saved time number `place` of each trajectory, or of all."""
        ts = self.ensemble.all_times
        return ts[place] if ts.ndim == 1 else ts[self.number, place]

    @property
    def direction(self) -> Array:
        """1 forwards in time, -1 backwards."""
        return jnp.sign(self.saved_time(-1) - self.saved_time(0))

    def is_read_after(self, time: Array, t: Array, again: Array | None = None) -> Array:
        """Whether what was saved at `time` was read in the step from `t`, or in one after it.

        `again`: a step of no length began there before.
        """
        ahead = self.direction * (time - t)
        if not self.config.saves_after_jumps:
            return ahead > 0
        jumps = self.each(lambda problem, _, t: jnp.any(problem.jumps == t), self.diff, t)
        if again is not None:
            jumps = jumps & ~again
        return (ahead > 0) | ((ahead == 0) & jumps)

    def add_time_cotangents(self, times: Array, mask: Array, place: Array, ct: Array) -> Array:
        """`times`, with the cotangent `ct` at number `place` of the trajectories of `mask`."""
        if self.tile is None:
            return times.at[jnp.where(mask, place, self.num_times)].add(ct, mode="drop")
        put = self.tile.put if mask.ndim == 1 else self.tile.put_many
        return put(times, mask, (self.number, place), ct)

    def save_point_size(self, ct_ys: PyTree, diff: PyTree) -> int:
        """The number of array elements in the pull-back of one saved value of every lane."""
        width = 1 if self.tile is None else self.tile.width
        count = 1 if self.tile is None else self.ensemble.count
        values = width * num_elements(ct_ys, count * self.num_times)
        return values if diff is None else values + num_elements(diff)

    # Rows of the trajectories, and masks over lanes.

    def row(self, array: Array, place: Array) -> Array:
        """Row number `place` of the trajectory, or of each lane's in an array of all."""
        if self.tile is None:
            return array[place]
        return jnp.moveaxis(array[self.number, place], 0, -1)

    def active_and(self, mask: Array) -> Array:
        """`mask`, but False in inactive lanes."""
        return mask if self.active is None else self.active & mask

    def active_only(self, tree: PyTree) -> PyTree:
        """`tree`, but zeros in inactive lanes."""
        return tree if self.active is None else select(self.active, tree, tree_zeros(tree))

    def update(self, new: PyTree, old: PyTree) -> PyTree:
        """`new`, but `old` in inactive lanes."""
        return new if self.active is None else select(self.active, new, old)

    def fill(self, mask: Array, args: PyTree) -> tuple["StepLayout", PyTree]:
        """The layout and `args`, with a lane of `mask` in the place of the other lanes.

        Their cotangents are zero, but zero times NaN is NaN, in every sum over lanes.
        """
        if self.tile is None:
            return self, args
        source = jnp.argmax(mask)

        def fill_lanes(x: Array) -> Array:
            other = lax.dynamic_index_in_dim(x, source, x.ndim - 1)
            return jnp.where(mask, x, other)

        rows, args = jax.tree.map(fill_lanes, (self.rows, args))
        return dataclasses.replace(self, rows=rows), args


def differentiated(perturbed: PyTree, ensemble: Ensemble) -> tuple[PyTree, PyTree]:
    """The differentiated arrays: each trajectory's own but for `y0` and `ts`, and shared ones."""
    own = eqx.filter(
        ensemble.per_trajectory, replace_in_problem(perturbed.per_trajectory, y0=False, ts=False)
    )
    return own, eqx.filter(ensemble.shared, replace_in_problem(perturbed.shared, ts=False))


def like_differentiated(tree: PyTree, arrays: PyTree) -> PyTree:
    """The leaves of `tree` in the places of the differentiated `arrays`, None in the others."""
    flags = jax.tree.map(lambda x: x is not None, arrays, is_leaf=lambda x: x is None)
    return eqx.filter(tree, flags)


def tree_add(a: PyTree, b: PyTree) -> PyTree:
    """The sum of two pytrees."""
    return jax.tree.map(jnp.add, a, b)


def tree_zeros(tree: PyTree) -> PyTree:
    """Zeros like a pytree."""
    return jax.tree.map(jnp.zeros_like, tree)


def _states_computed_once(field: Field) -> Field:
    """The field, with a barrier: the state of a stage enters its slope and its cotangents."""

    def with_barrier(part: Callable) -> Callable:
        def at(t: Array, y: Array, *half: int) -> Array:
            return part(t, lax.optimization_barrier(y), *half)

        return WithJacobian(at, part.jacobian) if isinstance(part, WithJacobian) else at

    return map_parts(with_barrier, field)
