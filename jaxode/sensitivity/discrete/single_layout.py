"""The layout of a backward pass over one trajectory.

The pull-back of a step (`step_pullback`) is written once. What one trajectory and lanes of many
differ in stands in their layouts, `SingleLayout` and `LaneLayout`, which have the same methods.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.ivp import IVP, SolveConfig, direction_of, field_of_step, step_reader
from ...integrate.xla_loops import size_of
from ...problem.field import map_parts
from ...solvers.base import Solver
from ...solvers.linear import WithJacobian


class SingleLayout(eqx.Module):
    """One trajectory: no lanes, no masks, and indices into arrays without a batch axis.

    `diff` holds the differentiated arrays of field, arguments and read-out, `nondiff` the rest of
    the problem.
    """

    diff: PyTree
    nondiff: IVP
    problem: IVP
    config: SolveConfig
    with_times: bool = eqx.field(static=True)

    @classmethod
    def of(cls, perturbed: PyTree, problem: IVP, config: SolveConfig) -> "SingleLayout":
        """The layout for derivatives by the arrays of `problem` that are True in `perturbed`."""
        diff, nondiff = eqx.partition(problem, dataclasses.replace(perturbed, y0=False, ts=False))
        # The times of events depend on all the rest.
        times = bool(perturbed.ts) or bool(perturbed.jumps) or bool(problem.events)
        return cls(diff, nondiff, problem, config, times)

    # The problem and its solver.

    def problem_with(self, diff: PyTree) -> IVP:
        """The problem, with `diff` in the place of its own arrays."""
        return eqx.combine(diff, self.nondiff)

    def each(self, function: Callable, diff: PyTree, *args: Any) -> Any:
        """`function(problem, config, *args)`, with `diff` in the problem."""
        return function(self.problem_with(diff), self.config, *args)

    @property
    def stepper(self) -> Solver:
        """The solver."""
        return self.config.method.stepper

    def field(self, t: Array, diff: PyTree = None) -> Callable[..., Array]:
        """The vector field of a step from `t`, with `diff` in the place of the problem's arrays."""
        problem = self.problem if diff is None else self.problem_with(diff)
        field = field_of_step(problem, self.config, t)

        # The state of a stage enters its slope and its cotangents: computed once, not in each.
        def computed_once(part: Callable) -> Callable:
            def at(t: Array, y: Array, *half: int) -> Array:
                return part(t, lax.optimization_barrier(y), *half)

            return WithJacobian(at, part.jacobian) if isinstance(part, WithJacobian) else at

        return map_parts(computed_once, field)

    def value_at(
        self, diff: PyTree, t: Array, last: Array, clock: tuple[Array, Array], parts: Any
    ) -> PyTree:
        """The value saved at `t` inside a step; `last`: whether `t` is the last saved time."""
        problem = self.problem if diff is None else self.problem_with(diff)
        return step_reader(problem, self.config)(t, last, *clock, *parts)

    # Times.

    @property
    def num_times(self) -> int:
        """How many times are saved at."""
        return self.problem.ts.shape[0]

    @property
    def last_time(self) -> Array:
        """The last time."""
        return self.problem.ts[-1]

    @property
    def direction(self) -> Array:
        """1 forwards in time, -1 backwards."""
        return direction_of(self.problem.ts)

    def saved_time(self, place: Array) -> Array:
        """The saved time number `place`."""
        return self.problem.ts[place]

    def is_first_step(self, index: Array, t: Array) -> Array:
        """Whether the step number `index`, from `t`, is the first."""
        return index == 0

    @property
    def has_jumps(self) -> bool:
        """Whether there are discontinuities on which steps have to end."""
        return self.problem.jumps is not None

    # Arrays of one trajectory, and masks.

    def row(self, array: Array, place: Array) -> Array:
        """Row number `place` of an array of the trajectory."""
        return array[place]

    def all_rows(self, array: Array) -> Array:
        """All rows of an array of the trajectory."""
        return array

    def only(self, mask: Array, x: Array) -> Array:
        """`x` in the lanes of `mask`, zeros in the others: here `x`, as loops end with the mask."""
        return x

    def anywhere(self, mask: Array) -> Array:
        """Whether `mask` holds for any trajectory."""
        return mask

    def active_only(self, tree: PyTree) -> PyTree:
        """`tree` in the active lanes, zeros in the others."""
        return tree

    def active_and(self, mask: Array) -> Array:
        """`mask`, but False for inactive lanes."""
        return mask

    def update(self, new: PyTree, old: PyTree) -> PyTree:
        """`new` in the active lanes, `old` in the others."""
        return new

    def fill(self, mask: Array, args: PyTree) -> tuple["SingleLayout", PyTree]:
        """The layout and `args`, with a lane of `mask` in the place of the others."""
        return self, args

    def nonzero_size(self, h: Array) -> Array:
        """The step's size, for reading values; no lane is inactive here."""
        return h

    def add_time_cotangents(self, times: Array, mask: Array, place: Array, ct: Array) -> Array:
        """The cotangents of saved times, with `ct` added to that of number `place`."""
        return times.at[jnp.where(mask, place, self.num_times)].add(ct, mode="drop")

    def size_of_save_point(self, ct_ys: PyTree, diff: PyTree) -> int:
        """How many numbers the pull-back of one saved value works on."""
        return size_of(ct_ys, self.num_times) + size_of(diff)
