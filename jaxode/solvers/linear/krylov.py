"""Matrix-free systems of any size: Krylov iterations on Jacobian-vector products."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.errors import OptionError, unknown_name
from ...problem.field import Field
from ...problem.validation import check_counts, check_positive, shown_value
from .base import Linearisation, LinearSolver, Solve, linearised
from .dense import matvec

Preconditioner = Callable[[Array, Array, Array], Callable[[Array], Array]]


class JacobianOperator(eqx.Module):
    """A Jacobian as the function `x -> J x`, and the `(t, y)` at which it was taken."""

    matvec: Callable[[Array], Array]
    t: Array
    y: Array


class Krylov(LinearSolver):
    """Linear solver for large systems: iterations on Jacobian-vector products, without a matrix.

    - `method`: "bicgstab", "gmres", or "cg" where `shift M - J` is symmetric and positive definite,
      as for diffusion: by far the cheapest there.
    - `rtol`: how far the residual falls, relative to the right-hand side. A Rosenbrock step loses
      its order where this is not well below the tolerance of the solve.
    - `max_steps`: the most iterations; a step whose system is not solved within them is rejected.
    - `restart`: the dimension of the Krylov space at which GMRES restarts.
    - `preconditioner`: `(t, y, shift)` to a linear function that is close to the inverse of
      `shift M - J` at the vector `y`; by default there is none.

    **Raises:** `OptionError` for an unknown method, an `rtol` that is not positive, counts that are
    none, or a `preconditioner` that is no function.

    Source: Saad, Iterative Methods for Sparse Linear Systems (2003), as lineax has them.
    """

    method: str = eqx.field(static=True, default="bicgstab")
    rtol: float = eqx.field(static=True, default=1e-8)
    max_steps: int = eqx.field(static=True, default=500)
    restart: int = eqx.field(static=True, default=30)
    preconditioner: Preconditioner | None = eqx.field(static=True, default=None)
    iterative: ClassVar[bool] = True

    def __check_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in _METHODS:
            raise unknown_name("Krylov method", str(self.method), _METHODS)
        check_positive("rtol of Krylov", self.rtol, none=False)
        check_counts("Krylov", max_steps=self.max_steps, restart=self.restart)
        if self.preconditioner is not None and not callable(self.preconditioner):
            raise OptionError(
                "preconditioner of Krylov must be a function (t, y, shift) or None, got "
                f"{shown_value(self.preconditioner)}"
            )

    def jacobian(self, field: Field, t: Array, y: Array, h: Array | None = None) -> Linearisation:
        slope, change, matvec = linearised(field, t, y, h)
        return Linearisation(slope, change, JacobianOperator(matvec, t, y))

    def system(self, jacobian: JacobianOperator, shift: Array, mass: Array | None) -> Solve:
        # In units of the shift, the products of the iteration neither overflow nor vanish.
        size = 1 / jnp.where(shift == 0, 1, shift)
        weight = jnp.where(shift == 0, 0, jnp.ones_like(shift))
        solve = self._weighted_system(jacobian, weight, size, mass)
        return lambda b: solve(size * b)

    def scaled_system(self, jacobian: JacobianOperator, size: Array, mass: Array | None) -> Solve:
        return self._weighted_system(jacobian, jnp.ones_like(size), size, mass)

    def _weighted_system(
        self, jacobian: JacobianOperator, weight: Array, size: Array, mass: Array | None
    ) -> Solve:
        """The map `b -> x` with `(weight M - size J) x = b`."""

        def weighted_matvec(x: Array) -> Array:
            mass_times_x = x if mass is None else matvec(_by_columns(mass, x), x)
            return weight * mass_times_x - size * jacobian.matvec(x)

        preconditioner = identity
        if self.preconditioner is not None:
            shifted = self.preconditioner(jacobian.t, jacobian.y, weight / size)
            preconditioner = lambda x: shifted(x / size)  # noqa: E731

        def solve(matvec: Solve, b: Array) -> Array:
            return self.iterate(matvec, preconditioner, b)

        def solve_transposed(matvec: Solve, b: Array) -> Array:
            return self.iterate(matvec, lambda x: jax.linear_transpose(preconditioner, x)(x)[0], b)

        return lambda b: lax.custom_linear_solve(weighted_matvec, b, solve, solve_transposed)

    def transposed(self) -> "Krylov":
        # The preconditioner is a function of the state, which the transposed system does not have.
        return dataclasses.replace(self, preconditioner=None)

    def iterate(self, matvec: Solve, preconditioner: Solve, b: Array) -> Array:
        """The solution of `matvec(x) = b`; NaN if the iteration does not converge."""
        import lineax  # loaded when needed: it takes a while

        like = jax.eval_shape(lambda: b)
        tags = lineax.positive_semidefinite_tag if self.method == "cg" else ()
        options = {"preconditioner": lineax.FunctionLinearOperator(preconditioner, like, tags)}
        operator = lineax.FunctionLinearOperator(matvec, like, tags)

        # lineax scales a residual component by component: so b is scaled to size one.
        size = jnp.max(jnp.abs(b))
        divisor = jnp.where(size > 0, size, 1)
        b = jnp.where(size > 0, b / divisor, 1)

        def look_again(state: tuple[Array, Array]) -> tuple[Array, Array]:
            x = state[1]
            # Below rounding no residual falls, whatever is asked for.
            allowed = max(self.rtol, 10 * float(jnp.finfo(b.dtype).eps))
            if self.method == "bicgstab":  # lineax divides zero by zero where it becomes exact
                x = _guarded_bicgstab(matvec, preconditioner, b, allowed, self.max_steps)
            solved = jnp.max(jnp.abs(matvec(x) - b)) <= allowed
            return jnp.ones_like(state[0]), jnp.where(solved, x, jnp.nan)

        solution = lineax.linear_solve(
            operator, b, _lineax_solver(self), options=options, throw=False
        )
        solved = solution.result == lineax.RESULTS.successful
        start = solved, solution.value
        return size * lax.while_loop(lambda state: ~state[0], look_again, start)[1]


_METHODS = ("gmres", "bicgstab", "cg")


def _lineax_solver(krylov: Krylov) -> Any:
    import lineax

    options = {"rtol": krylov.rtol, "atol": krylov.rtol, "max_steps": krylov.max_steps}
    if krylov.method == "gmres":
        return lineax.GMRES(**options, restart=krylov.restart)
    return {"bicgstab": lineax.BiCGStab, "cg": lineax.CG}[krylov.method](**options)


def _guarded_bicgstab(
    matvec: Solve, preconditioner: Solve, b: Array, allowed: float, max_steps: int
) -> Array:
    """The last iterate of BiCGStab for `matvec(x) = b`, which may become exact within a step.

    Source: van der Vorst, Bi-CGSTAB, SIAM J. Sci. Stat. Comput. 13 (1992).
    """

    def ratio(a: Array, c: Array) -> Array:
        return jnp.where(c == 0, 0, a / jnp.where(c == 0, 1, c))

    def unfinished(state: tuple) -> Array:
        _, r, _, rho, count = state
        return (jnp.max(jnp.abs(r)) > allowed) & (rho != 0) & (count < max_steps)

    def iterate(state: tuple) -> tuple:
        x, r, p, rho, count = state
        move = preconditioner(p)
        v = matvec(move)
        alpha = ratio(rho, jnp.sum(b * v))
        half = r - alpha * v
        correction = preconditioner(half)
        t = matvec(correction)
        omega = ratio(jnp.sum(half * t), jnp.sum(t * t))
        x, r = x + alpha * move + omega * correction, half - omega * t
        rho1 = jnp.sum(b * r)
        p = r + ratio(rho1, rho) * ratio(alpha, omega) * (p - omega * v)
        return x, r, p, rho1, count + 1

    start = jnp.zeros_like(b), b, b, jnp.sum(b * b), jnp.int32(0)
    return lax.while_loop(unfinished, iterate, start)[0]


def identity(x: Array) -> Array:
    """The identity, as the default preconditioner."""
    return x


def _by_columns(mass: Array, x: Array) -> Array:
    return mass.T.astype(x.dtype).reshape(mass.shape + (1,) * (x.ndim - 1))
