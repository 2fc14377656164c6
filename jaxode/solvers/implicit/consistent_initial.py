"""Consistent initial states of differential-algebraic equations of index 1."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.field import Field
from ...problem.roots import root_of
from ..linear import solver_of
from ..step_size import Tolerance

_MAX_ITERATIONS = 50


class Algebraic(NamedTuple):
    """The null spaces of a singular mass matrix: orthonormal columns, shape `(n, m)` each.

    `M y' = f` implies `equations^T f(t, y) = 0`, and does not determine the derivative along
    `unknowns`.
    """

    equations: Array
    unknowns: Array


def algebraic_part(mass: Any) -> Algebraic | None:
    """The algebraic part of a concrete mass matrix `(n, n)`; None if it is regular."""
    left, sizes, right = np.linalg.svd(np.asarray(mass, float))
    null = sizes <= sizes.max(initial=0.0) * len(sizes) * np.finfo(float).eps
    if not null.any():
        return None
    return Algebraic(jnp.asarray(left[:, null]), jnp.asarray(right[null].T))


def consistent_state(
    algebraic: Algebraic, field: Field, t: Array, y: Array, tolerance: Tolerance
) -> tuple[Array, Array]:
    """The state near `y` that satisfies the algebraic equations, and whether one was found.

    Newton's iteration changes `y`, one packed state, along the algebraic unknowns alone. The result
    is differentiable by the implicit function theorem.
    """
    equations, unknowns = (x.astype(y.dtype) for x in algebraic)

    def state(z: Array) -> Array:
        return y + (unknowns @ z).reshape(y.shape)

    def residual(z: Array) -> Array:
        return equations.T @ field(t, state(z)).reshape(-1)

    def newton_increment(z: Array) -> Array:
        value, linear = jax.linearize(residual, z)
        columns = jax.vmap(linear)(jnp.eye(z.size, dtype=z.dtype))
        return -solver_of(columns)(value)

    def newton() -> tuple[Array, None]:
        def unfinished(loop: tuple[Array, Array, Array]) -> Array:
            count, _, dz = loop
            increment = (unknowns @ dz).reshape(y.shape)
            small = (tolerance.scaled_norm(increment, y) <= 1e-6) | jnp.all(dz == 0)
            return (count < _MAX_ITERATIONS) & ~small

        def iterate(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            count, z, _ = loop
            dz = newton_increment(z)
            return count + 1, z + dz, dz

        start = jnp.int32(0), zero, jnp.full_like(zero, jnp.inf)
        count, z, _ = lax.while_loop(unfinished, iterate, start)
        z = jnp.where(count < _MAX_ITERATIONS, z + newton_increment(z), jnp.nan)
        return z, None

    def linear_solve(linear: Any, b: Array) -> Array:
        columns = jax.vmap(linear)(jnp.eye(b.size, dtype=b.dtype))
        return solver_of(columns)(b)

    zero = jnp.zeros((unknowns.shape[1],), y.dtype)
    z, _ = root_of(residual, zero, newton, linear_solve)
    converged = jnp.all(jnp.isfinite(z))
    return jnp.where(converged, state(z), y), converged
