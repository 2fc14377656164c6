r"""What the adjoint takes up at saved times, and what becomes of it there.

The cotangent $c$ of a state at a saved time moves the adjoint of $M \dot y = f$ by $M^{-T} c$.
Where $M$ is singular, a part of $c$ is that of algebraic unknowns, which depend on the parameters
at that time alone: a kick $v$ in the null space of $M^T$, of no length in time, whose gradient is
$v^T f_\theta$. Then $M^T \Delta a = c + f_y^T v$ has a solution.

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
    """The jumps of all trajectories, shape `(trajectories, times, ...)`; `kicks` None without any.

    `lanes`: whether trajectories, and times, are to be taken at once.
    """

    ensemble: Ensemble
    mass: MassMatrix | None
    ys: Array
    a: Array
    kicks: Array | None
    lanes: bool = eqx.field(static=True)

    @classmethod
    def of(
        cls, ensemble: Ensemble, mass: MassMatrix | None, ys: Array, ct_ys: Array, lanes: bool
    ) -> "CotangentJumps":
        """The jumps that the cotangents of the saved states make."""
        if mass is None:
            return cls(ensemble, mass, ys, ct_ys, None, lanes)
        algebraic = mass.algebraic
        if algebraic is None:
            a = jax.vmap(jax.vmap(mass.under))(ct_ys)
            return cls(ensemble, mass, ys, a, None, lanes)

        def one(field: Callable, t: Array, y: Array, c: Array) -> tuple[Array, Array]:
            _, pull = jax.vjp(lambda y: field(t, y), y)
            kick = algebraic_correction(lambda y: field(t, y), algebraic, y)(c)
            return mass.under(c + pull(kick)[0]), kick

        a, kicks = _at_saved_times(ensemble, lanes, one, ys, ct_ys)
        return cls(ensemble, mass, ys, a, kicks, lanes)

    def start(self, a: Array) -> Array:
        """Cotangents of the first states, from the adjoints there."""
        return a if self.mass is None else jax.vmap(self.mass.times)(a)

    def times(self, a: Array) -> Array:
        """Cotangents of each trajectory's times; `a` are the adjoints at the first ones."""

        def moved(field: Callable, t: Array, y: Array, a: Array, jump_map: Any) -> Array:
            slope, slope_t = jax.jvp(lambda t: field(t, y), (t,), (jnp.ones_like(t),))
            total = jnp.sum(a * slope)
            if jump_map is not None:
                total = total + jnp.sum(jump_map * slope_t)
            return total.real.astype(t.dtype)

        parts = self.a.at[:, 0].set(-a)
        kicks = None if self.kicks is None else self.kicks.at[:, 0].set(0)
        return _at_saved_times(self.ensemble, self.lanes, moved, self.ys, parts, kicks)

    def parameters(self, own: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        """What the kicks add to the cotangents of parameters, each trajectory's own and shared."""
        if self.kicks is None:
            return jax.tree.map(jnp.zeros_like, (own, shared))

        def slopes(own: PyTree, shared: PyTree) -> Array:
            ensemble = Ensemble(
                (
                    eqx.combine(own, self.ensemble.per_trajectory[0]),
                    self.ensemble.per_trajectory[1],
                ),
                eqx.combine(shared, self.ensemble.shared),
            )
            return _at_saved_times(ensemble, self.lanes, lambda field, t, y: field(t, y), self.ys)

        _, pull = jax.vjp(slopes, own, shared)
        return pull(self.kicks.at[:, 0].set(0))


def _at_saved_times(ensemble: Ensemble, lanes: bool, function: Callable, *arrays: Any) -> Any:
    """`function(field, t, *rows)` at all saved times of all trajectories, `arrays` its rows."""

    def over(one: Callable, *rows: Any) -> Any:
        return jax.vmap(one)(*rows) if lanes else lax.map(lambda row: one(*row), rows)

    def trajectory(rows: PyTree, *arrays: Any) -> Any:
        field = packed_field(*ensemble.one(replace_in_problem(rows, y0=None, ts=None)))
        return over(lambda t, *at: function(field, t, *at), ensemble.ts(rows), *arrays)

    return over(trajectory, ensemble.per_trajectory, *arrays)
