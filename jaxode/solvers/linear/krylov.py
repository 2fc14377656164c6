"""Systems of any size without a matrix: Krylov iterations on products with the Jacobian."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jax import Array, lax

from ...problem.errors import OptionError, unknown_name
from ...problem.field import Field
from .base import Linearisation, LinearSolver, Solve
from .dense import matvec

Preconditioner = Callable[[Array, Array, Array], Callable[[Array], Array]]


class Products(eqx.Module):
    """A Jacobian as the function that multiplies by it, and where it was taken."""

    times: Callable[[Array], Array]
    t: Array
    y: Array


class Krylov(LinearSolver):
    """An iteration on products with the Jacobian, which is never formed: for large systems.

    - `method`: "bicgstab", "gmres", or "cg" where `shift M - J` is symmetric and positive definite,
      as of diffusion: by far the cheapest there.
    - `rtol`: how far the residual falls, relative to the right-hand side. A Rosenbrock step loses
      its order where this is not well below the tolerance of the solve.
    - `max_steps`: the most iterations; a step whose system is not solved within them is rejected.
    - `restart`: the directions that GMRES keeps.
    - `preconditioner`: `(t, y, shift)` to a linear function that is close to the inverse of
      `shift M - J` at the vector `y`; by default there is none.

    **Raises:** `OptionError` for an unknown method or an `rtol` that is not positive.

    Source: Saad, Iterative Methods for Sparse Linear Systems (2003), as lineax has them.
    """

    method: str = eqx.field(static=True, default="bicgstab")
    rtol: float = eqx.field(static=True, default=1e-8)
    max_steps: int = eqx.field(static=True, default=500)
    restart: int = eqx.field(static=True, default=30)
    preconditioner: Preconditioner | None = eqx.field(static=True, default=None)
    iterative: ClassVar[bool] = True

    def __check_init__(self) -> None:
        if self.method not in _METHODS:
            raise unknown_name("Krylov method", self.method, _METHODS)
        if not self.rtol > 0:
            raise OptionError(f"rtol of Krylov must be positive, got {self.rtol!r}")

    def jacobian(self, field: Field, t: Array, y: Array) -> Linearisation:
        slope, linear = jax.linearize(field, t, y)
        slope_t = linear(jnp.ones_like(t), jnp.zeros_like(y))

        def times(x: Array) -> Array:
            return linear(jnp.zeros_like(t), x)

        return Linearisation(slope, slope_t, Products(times, t, y))

    def system(self, jacobian: Products, shift: Array, mass: Array | None) -> Solve:
        # A lane that takes no step, or as good as none, would spoil the norms of all.
        shift = jnp.where(jnp.abs(shift) < 0.5 * jnp.finfo(shift.dtype).eps ** -2, shift, 1)

        def times(x: Array) -> Array:
            weighted = x if mass is None else matvec(_by_columns(mass, x), x)
            return shift * weighted - jacobian.times(x)

        near = identity
        if self.preconditioner is not None:
            near = self.preconditioner(jacobian.t, jacobian.y, shift)

        def transposed(times: Solve, b: Array) -> Array:
            return self.iterate(times, lambda x: jax.linear_transpose(near, x)(x)[0], b)

        return lambda b: lax.custom_linear_solve(
            times, b, lambda times, b: self.iterate(times, near, b), transposed
        )

    def transposed(self) -> "Krylov":
        # A preconditioner is made for states, at which the transpose is not taken.
        return dataclasses.replace(self, preconditioner=None)

    def iterate(self, times: Solve, near: Solve, b: Array) -> Array:
        """The solution of `times(x) = b`, NaN if it is not found; `near` is about its inverse."""
        like = jax.eval_shape(lambda: b)
        tags = lineax.positive_semidefinite_tag if self.method == "cg" else ()
        options = {"preconditioner": lineax.FunctionLinearOperator(near, like, tags)}
        method = _METHODS[self.method](self)
        operator = lineax.FunctionLinearOperator(times, like, tags)
        # lineax measures a residual component by component: against one where b has size one.
        size = jnp.sqrt(jnp.mean(b * b))
        known = jnp.where(size > 0, size, 1)
        b = jnp.where(size > 0, b / known, 1)
        found = lineax.linear_solve(operator, b, method, options=options, throw=False)
        solved = found.result == lineax.RESULTS.successful
        return size * jnp.where(solved, found.value, jnp.nan)


_METHODS: dict[str, Callable[[Krylov], Any]] = {
    "gmres": lambda k: lineax.GMRES(k.rtol, atol=k.rtol, max_steps=k.max_steps, restart=k.restart),
    "bicgstab": lambda k: lineax.BiCGStab(k.rtol, atol=k.rtol, max_steps=k.max_steps),
    "cg": lambda k: lineax.CG(k.rtol, atol=k.rtol, max_steps=k.max_steps),
}


def identity(x: Array) -> Array:
    """The preconditioner that does nothing."""
    return x


def _by_columns(mass: Array, x: Array) -> Array:
    return mass.T.astype(x.dtype).reshape(mass.shape + (1,) * (x.ndim - 1))
