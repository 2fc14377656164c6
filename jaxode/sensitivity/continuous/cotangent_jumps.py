r"""Jumps of the adjoint at saved times, by the cotangents of the states saved there.

The cotangent $c$ of a state at a saved time changes the adjoint of $M \dot y = f$ by $M^{-T} c$.
If $M$ is singular, a part of $c$ belongs to algebraic unknowns, which depend on the parameters at
that time alone: an impulse $v$ in the null space of $M^T$ whose gradient is $v^T f_\theta$. With it
$M^T \Delta a = c + f_y^T v$ has a solution.

Source: Cao, Li, Petzold, Serban, Adjoint sensitivity analysis for differential-algebraic equations,
SIAM J. Sci. Comput. 24 (2003).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.ensemble import Ensemble
from ...integrate.ivp import packed_field
from ..batch_cotangents import replace_in_problem
from .adjoint_equation import algebraic_correction
from .backward_solver import MassMatrix


class CotangentJumps(eqx.Module):
    """The jumps of the adjoints of all trajectories at all saved times.

    - `ys`: states at the saved times; `a`: jumps of the adjoint; `impulses`: those of algebraic
      unknowns, None without any. Shapes `(trajectories, times, ...)`.
    - `vectorised`: trajectories and times are mapped by `vmap`, else by a loop.
    """

    ensemble: Ensemble
    mass: MassMatrix | None
    ys: Array
    a: Array
    impulses: Array | None
    vectorised: bool = eqx.field(static=True)

    @classmethod
    def of(
        cls, ensemble: Ensemble, mass: MassMatrix | None, ys: Array, ct_ys: Array, vectorised: bool
    ) -> "CotangentJumps":
        """Return the jumps that follow from the cotangents `ct_ys` of the saved states."""
        if mass is None:
            return cls(ensemble, mass, ys, ct_ys, None, vectorised)
        algebraic = mass.algebraic
        if algebraic is None:
            a = jax.vmap(jax.vmap(mass.solve_transposed))(ct_ys)
            return cls(ensemble, mass, ys, a, None, vectorised)

        def jump_and_impulse(field: Callable, t: Array, y: Array, c: Array) -> tuple[Array, Array]:
            _, pull = jax.vjp(lambda y: field(t, y), y)
            impulse = algebraic_correction(lambda y: field(t, y), algebraic, y)(c)
            return mass.solve_transposed(c + pull(impulse)[0]), impulse

        a, impulses = _map_saved_times(ensemble, vectorised, jump_and_impulse, ys, ct_ys)
        return cls(ensemble, mass, ys, a, impulses, vectorised)

    def state_cotangents(self, a: Array) -> Array:
        """Return the cotangents of the initial states, from the adjoints `a` there."""
        return a if self.mass is None else jax.vmap(self.mass.multiply_transposed)(a)

    def time_cotangents(self, a: Array) -> Array:
        """Return the cotangents of each trajectory's times, from the adjoints `a` at the first."""

        def time_cotangent(
            field: Callable, t: Array, y: Array, jump: Array, impulse: Array | None
        ) -> Array:
            slope, slope_t = jax.jvp(lambda t: field(t, y), (t,), (jnp.ones_like(t),))
            total = jnp.sum(jump * slope)
            if impulse is not None:
                total = total + jnp.sum(impulse * slope_t)
            return total.real.astype(t.dtype)

        jumps = self.a.at[:, 0].set(-a)
        impulses = None if self.impulses is None else self.impulses.at[:, 0].set(0)
        return _map_saved_times(
            self.ensemble, self.vectorised, time_cotangent, self.ys, jumps, impulses
        )

    def parameter_cotangents(self, own: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        """Return what the impulses add to the cotangents of parameters, each own and shared."""
        if self.impulses is None:
            return jax.tree.map(jnp.zeros_like, (own, shared))

        def slopes(own: PyTree, shared: PyTree) -> Array:
            problem, config = self.ensemble.per_trajectory
            ensemble = Ensemble(
                (eqx.combine(own, problem), config), eqx.combine(shared, self.ensemble.shared)
            )
            return _map_saved_times(
                ensemble, self.vectorised, lambda field, t, y: field(t, y), self.ys
            )

        _, pull = jax.vjp(slopes, own, shared)
        return pull(self.impulses.at[:, 0].set(0))


def _map_saved_times(ensemble: Ensemble, vectorised: bool, function: Callable, *arrays: Any) -> Any:
    """Apply `function(field, t, *rows)` at every saved time of every trajectory.

    `arrays` have shape `(trajectories, times, ...)`, and `rows` are their parts.
    """

    def map_rows(function: Callable, *rows: Any) -> Any:
        return jax.vmap(function)(*rows) if vectorised else lax.map(lambda r: function(*r), rows)

    def trajectory(rows: PyTree, *arrays: Any) -> Any:
        field = packed_field(*ensemble.problem_of(replace_in_problem(rows, y0=None, ts=None)))
        return map_rows(lambda t, *at: function(field, t, *at), ensemble.ts(rows), *arrays)

    return map_rows(trajectory, ensemble.per_trajectory, *arrays)
