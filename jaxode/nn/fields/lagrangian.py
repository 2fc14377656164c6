"""Fields that follow from a Lagrangian by the Euler-Lagrange equation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.field import call_field
from ...problem.validation import check_positive
from .checks import check_callable, check_shape, gradient, halves


class Lagrangian(eqx.Module):
    """The field of a Lagrangian: for `y = (q, v)`, `q' = v` and `v'` by Euler-Lagrange.

    The accelerations solve `M a = dL/dq + F - (d/dq dL/dv) v - d/dt dL/dv` with `M` the Hessian of
    L by the velocities. Where a network's Hessian is singular they are not finite; for training
    `MechanicalLagrangian` is safer.

    **Arguments:**

    - `lagrangian`: of `(y)`, `(t, y)` or `(t, y, args)`, returns a scalar; twice differentiable
      and not linear in the velocities, so of softplus rather than relu.
    - `force`: generalised forces F without a potential, such as friction or controls; of the same
      arguments, returns shape `(size / 2,)`.

    **Raises:** `FieldError` for functions that cannot be called; called, for a Lagrangian that is
    not scalar, a force of another shape, and a state that is not a vector of even size.

    Source: Cranmer et al., Lagrangian neural networks (2020), arXiv 2003.04630.
    """

    lagrangian: Any
    force: Any

    def __init__(self, lagrangian: Any, force: Any = None) -> None:
        self.lagrangian = check_callable("Lagrangian", "lagrangian", lagrangian)
        self.force = None if force is None else check_callable("Lagrangian", "force", force)

    def __call__(self, t: Array, y: Float[Array, " size"], args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        q, v = halves("Lagrangian", y)
        t = jnp.asarray(t, y.dtype)

        def gradients(t: Array, q: Array, v: Array) -> tuple[Array, Array]:
            state = jnp.concatenate([q, v])
            by_q, by_v = jnp.split(
                gradient("Lagrangian", "lagrangian", self.lagrangian, t, state, args), 2
            )
            return by_q, by_v

        def momentum(t: Array, q: Array, v: Array) -> Array:
            return gradients(t, q, v)[1]

        tangent = (jnp.ones_like(t), v, jnp.zeros_like(v))
        _, momentum_drift = jax.jvp(momentum, (t, q, v), tangent)
        mass = jax.jacfwd(momentum, argnums=2)(t, q, v)
        generalised_forces = (
            gradients(t, q, v)[0]
            - momentum_drift
            + _generalised_force("Lagrangian", self.force, t, y, args)
        )
        return jnp.concatenate([v, jnp.linalg.solve(mass, generalised_forces)])


class MechanicalLagrangian(eqx.Module):
    """The field of `L = v' M(q) v / 2 - V(q)` with a mass matrix that is always positive definite.

    `M = C C'` with a lower triangular `C` whose diagonal is positive: whatever the network
    returns, the accelerations exist.

    **Arguments:**

    - `mass`: of `(q)`, `(t, q)` or `(t, q, args)`, returns the `n (n + 1) / 2` entries of `C` row
      by row for `n` coordinates; those of the diagonal go through softplus.
    - `potential`: V, of the same, returns a scalar.
    - `force`: generalised forces, as of `Lagrangian`, of the whole state.
    - `least`: the lower bound of the diagonal of `C`.

    **Raises:** `FieldError` and `OptionError`, as `Lagrangian`.

    Source: Lutter, Ritter and Peters, Deep Lagrangian networks (2019), arXiv 1907.04490.
    """

    mass: Any
    potential: Any
    force: Any
    least: float = eqx.field(static=True)

    def __init__(
        self, mass: Any, potential: Any, force: Any = None, *, least: float = 1e-2
    ) -> None:
        self.mass = check_callable("MechanicalLagrangian", "mass", mass)
        self.potential = check_callable("MechanicalLagrangian", "potential", potential)
        self.force = (
            None if force is None else check_callable("MechanicalLagrangian", "force", force)
        )
        check_positive("least", least, none=False)
        self.least = float(least)

    def factor(self, t: Array, q: Float[Array, " n"], args: PyTree = None) -> Float[Array, "n n"]:
        """The lower triangular `C` at `q`."""
        n = q.shape[0]
        entries = call_field(self.mass, t, q, args)
        check_shape("MechanicalLagrangian", "mass", entries, (n * (n + 1) // 2,))
        lower = jnp.zeros((n, n), entries.dtype).at[jnp.tril_indices(n)].set(entries)
        diagonal = jax.nn.softplus(jnp.diagonal(lower)) + self.least
        return jnp.tril(lower, -1) + jnp.diag(diagonal)

    def energy(self, t: Array, y: Float[Array, " size"], args: PyTree = None) -> Float[Array, ""]:
        """The kinetic and potential energy, conserved where there is no force and no time."""
        q, v = halves("MechanicalLagrangian", y)
        potential = call_field(self.potential, t, q, args)
        return 0.5 * jnp.sum((self.factor(t, q, args).T @ v) ** 2) + potential

    def __call__(self, t: Array, y: Float[Array, " size"], args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        q, v = halves("MechanicalLagrangian", y)
        t = jnp.asarray(t, y.dtype)

        def momentum(t: Array, q: Array) -> tuple[Array, Array]:
            factor = self.factor(t, q, args)
            return factor @ (factor.T @ v), factor

        def kinetic(q: Array) -> Array:
            return 0.5 * jnp.sum((self.factor(t, q, args).T @ v) ** 2)

        _, momentum_drift, factor = jax.jvp(momentum, (t, q), (jnp.ones_like(t), v), has_aux=True)
        potential_gradient = gradient(
            "MechanicalLagrangian", "potential", self.potential, t, q, args
        )
        generalised_forces = jax.grad(kinetic)(q) - potential_gradient - momentum_drift
        generalised_forces = generalised_forces + _generalised_force(
            "MechanicalLagrangian", self.force, t, y, args
        )
        return jnp.concatenate([v, jax.scipy.linalg.cho_solve((factor, True), generalised_forces)])


def _generalised_force(owner: str, force: Any, t: Array, y: Array, args: PyTree) -> Array:
    shape = (y.shape[0] // 2,)
    if force is None:
        return jnp.zeros(shape, y.dtype)
    value = call_field(force, t, y, args)
    check_shape(owner, "force", value, shape)
    return value
