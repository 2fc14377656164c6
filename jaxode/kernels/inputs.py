"""Inputs of a batch's kernels: problem data, spans and times; and the trace of its steps."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..integrate.ensemble import Ensemble
from ..integrate.ivp import IVP, SolveConfig, packed_field
from ..problem.field import Field, Split
from ..solvers.explicit.stage_loop import LoopedField
from ..solvers.linear import WithJacobian
from .blocks import pad_to_blocks
from .lowering.block_arrays import stored_as_blocks


class Span(NamedTuple):
    """The first and last time of a trajectory; `moves` is false where all its times are equal."""

    t0: Array
    t1: Array
    moves: Array

    @property
    def direction(self) -> Array:
        """The sign of the integration: 1 forwards in time, -1 backwards."""
        return jnp.sign(self.t1 - self.t0)


class KernelTrace(NamedTuple):
    """The accepted steps of a kernel's forward run, for the backward pass.

    `clock`: times and step sizes, shape `(rows, 2, trajectories)`. `y`: the states before the
    steps. `solver_state`: the solver's there, where it cannot be initialised from `y` alone.
    """

    clock: Array
    y: Array
    solver_state: tuple[Array, ...] = ()

    @classmethod
    def of(cls, arrays: Sequence[Any]) -> "KernelTrace":
        """Group arrays, or references to them, into a trace."""
        return cls(arrays[0], arrays[1], tuple(arrays[2:]))


def trajectory_shapes(ensemble: Ensemble) -> tuple[IVP, SolveConfig]:
    """Return the problem of one trajectory, shapes in place of its own arrays."""
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), ensemble.per_trajectory
    )
    return ensemble.problem_of(rows)


def stored_solver_state(ensemble: Ensemble) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return the shapes of the solver state that a trace stores; none of stateless solvers."""

    def initial_solver_state(problem: IVP, config: SolveConfig) -> Any:
        solver = config.method.stepper
        return solver.init(packed_field(problem, config), problem.ts[0], problem.y0)

    if ensemble.config.method.solver.stateless:
        return ()
    shapes = eqx.filter_eval_shape(initial_solver_state, *trajectory_shapes(ensemble))
    return tuple(jax.tree.leaves(shapes))


def kernel_inputs(ensemble: Ensemble, lanes: int) -> tuple[PyTree, PyTree, Array]:
    """Return `(per_trajectory, span or None)`, `(shared, span or None)`, and the table of times.

    Both parts of the problem come without their times. The span stands with the part that holds
    the times.
    """
    per_trajectory, shared = (
        (dataclasses.replace(part[0], ts=None), part[1])
        for part in (ensemble.per_trajectory, ensemble.shared)
    )
    ts = ensemble.all_times
    span = Span(ts[..., 0], ts[..., -1], jnp.any(ts != ts[..., :1], axis=-1))
    if ts.ndim == 1:
        return (per_trajectory, None), (shared, span), ts
    return (per_trajectory, span), (shared, None), pad_to_blocks(ts.T, lanes)


def kernel_field(
    ensemble: Ensemble, diff: tuple[PyTree, ...], nondiff: tuple[PyTree, ...]
) -> Field:
    """Return the packed field of the problem whose parts are `diff` and `nondiff`.

    A network's field is called in a loop over the stages: unrolled, its program takes too long to
    compile. Derivatives are taken by `diff` alone.
    """
    field = _field_of_parts(*diff, *nondiff)
    shapes = [x.shape for x in jax.tree.leaves(ensemble.shared) if eqx.is_array(x)]
    looped = ensemble.config.method.stepper.loops_over_stages
    if not looped or isinstance(field, Split | WithJacobian) or not any(stored_as_blocks(shapes)):
        return field
    return LoopedField(_field_of_parts, diff, nondiff)


def _field_of_parts(*parts: PyTree) -> Field:
    return packed_field(*eqx.combine(*parts))
