"""What implicit solvers share: Jacobians, mass matrices, and the systems made of them."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import ArrayLike

from ...problem.errors import OptionError, StateError
from ...problem.field import Field
from ...problem.state import Packing, is_traced
from ...problem.status import Status
from ..base import Solver
from ..linear import (
    Dense,
    Direct,
    Linearisation,
    LinearSolver,
    WithJacobian,
    first_axis_sum,
    matvec,
)


class Implicit(Solver):
    """A solver of systems `(shift M - J) x = b`.

    - `jac`: the Jacobian of the field, `(t, y, args)` to `(n, n)` with `df_i / dy_j` in row `i`;
      by default it is made by forward-mode differentiation. A state of other shape than `(n,)`
      is laid end to end, leaf by leaf.
    - `mass`: the constant matrix `M` of `M y' = f(t, y)`, shape `(n, n)`; the identity by default.
      It may be singular, if the algebraic equations determine their unknowns (index 1).
    - `linear_solver`: what the Jacobian looks like, and so how its systems are solved: `Dense()`,
      `Banded(lower, upper)`, `Sparse(pattern)` or `Krylov()`.

    Inside, a state is a vector `(n,)`, or `(n, lanes)`.
    """

    implicit: ClassVar[bool] = True
    takes_mass: ClassVar[bool] = True

    jac: Callable[..., Array] | None = eqx.field(default=None, kw_only=True, static=True)
    mass: ArrayLike | None = eqx.field(default=None, kw_only=True)
    linear_solver: LinearSolver = eqx.field(default=Dense(), kw_only=True)

    def check(self, packing: Packing) -> None:
        """Refuse what it cannot step.

        **Raises:** `StateError` for a complex state; `OptionError` for a mass matrix or a pattern
        of the wrong shape, or a `jac` that is no function.
        """
        name, shape = type(self).__name__, (packing.size,) * 2
        refuse_complex(name, packing)
        self.linear_solver.check(packing.size)
        if self.jac is not None and not callable(self.jac):
            raise OptionError(f"jac of {name} must be a function (t, y, args), got {self.jac!r}")
        if self.mass is None:
            return
        if np.shape(self.mass) != shape:
            raise OptionError(
                f"mass of {name} has shape {np.shape(self.mass)} where a state of {packing.size} "
                f"components needs {shape}"
            )
        if not is_traced(self.mass) and not np.all(np.isfinite(np.asarray(self.mass, float))):
            raise OptionError(f"mass of {name} must be finite, got {self.mass!r}")

    def why_no_kernel(self) -> str | None:
        return (
            f"{type(self).__name__} iterates: of the implicit solvers those of Rosenbrock's kind "
            'have kernels, such as "rosenbrock23" and "rodas5p"'
        )

    def linearise(self, field: Field, t: Array, y: Array) -> Linearisation:
        """The field around `(t, y)`."""
        return self.linear_solver.jacobian(field, t, y)

    def system(self, jacobian: Any, shift: Array) -> Callable[[Array], Array]:
        """`b -> x` with `(shift M - J) x = b`, factorised once; `shift` per lane."""
        mass = None if self.mass is None else jnp.asarray(self.mass)
        return self.linear_solver.system(jacobian, shift, mass)

    def factorise(self, jacobian: Any, shift: Array) -> Any:
        """The factors of `shift M - J`, of a direct linear solver."""
        assert isinstance(self.linear_solver, Direct)
        mass = None if self.mass is None else jnp.asarray(self.mass)
        return self.linear_solver.factorise(jacobian, shift, mass)

    def scaled_system(self, jacobian: Any, size: Array) -> Callable[[Array], Array]:
        """`b -> x` with `(M - size J) x = b`, factorised once; `size` per lane, zero too."""
        size = jnp.where(size == 0, jnp.finfo(size.dtype).eps ** 2, size)
        solve = self.system(jacobian, 1 / size)
        return lambda b: solve(b / size)

    def mass_times(self, x: Array) -> Array:
        """`M x`."""
        if self.mass is None:
            return x
        mass = jnp.asarray(self.mass, x.dtype).T
        return matvec(mass.reshape(mass.shape + (1,) * (x.ndim - 1)), x)

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return by_powers(theta, y, dense)

    def failure_status(self, jacobian: Any, result: Array) -> Array:
        """The status of a step: a Jacobian or a solution that is not finite is a failure."""
        known = all_finite(result, result.shape[1:])
        good = all_finite(jacobian, result.shape[1:])
        reason = Status.NOT_CONVERGED if self.linear_solver.iterative else Status.SINGULAR
        status = jnp.where(known, Status.SUCCESS, reason)
        return jnp.where(good, status, Status.BAD_JACOBIAN).astype(jnp.int32)


def all_finite(tree: Any, lanes: tuple[int, ...]) -> Array:
    """Whether all arrays of `tree` are finite, for each of the `lanes` that are their last axes."""

    def one(x: Array) -> Array:
        x = lax.stop_gradient(x)
        x = first_axis_sum(x) if lanes and x.ndim > 2 else x
        return jnp.isfinite(jnp.sum(x.reshape(-1, *lanes), 0))

    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return functools.reduce(operator.and_, map(one, arrays), jnp.full(lanes, True))


def refuse_complex(name: str, packing: Packing) -> None:
    """**Raises:** `StateError` for a complex state, which has no Jacobian of its own size."""
    if np.issubdtype(packing.dtype, np.complexfloating):
        raise StateError(
            f"{name} takes real states: give the real and imaginary parts as two arrays"
        )


def flattened_field(field: Field, like: Array) -> Field:
    """The field on vectors, the axes of one trajectory's state laid end to end."""

    def flat(t: Array, y: Array) -> Array:
        return field(t, y.reshape(like.shape)).reshape(y.shape)

    if not isinstance(field, WithJacobian):
        return flat
    return WithJacobian(flat, lambda t, y: field.jacobian(t, y.reshape(like.shape)))


def by_powers(theta: Array, y: Array, dense: tuple[Array, ...]) -> Array:
    """`y` and the polynomial in `theta` without constant whose coefficients are `dense`."""
    theta = theta.astype(jnp.finfo(y.dtype).dtype)
    return y + theta * functools.reduce(lambda total, part: total * theta + part, dense[::-1])


def without_gradient(jacobian: Any) -> Any:
    """The same, but nothing is differentiated by its arrays."""
    arrays, rest = eqx.partition(jacobian, eqx.is_array)
    return eqx.combine(lax.stop_gradient(arrays), rest)


def weighted_sum(row: Any, slopes: Array) -> Array:
    """The sum of `row * slopes`, over the first axis; term by term, as lanes want it."""
    row = jnp.asarray(row, jnp.finfo(slopes.dtype).dtype)
    return functools.reduce(operator.add, [row[i] * slope for i, slope in enumerate(slopes)])


def padded_rows(rows: Sequence[tuple[float, ...]], dtype: Any) -> Array:
    """Row `i` holds the figures of stage `i + 1`, then zeros: a square without its first row."""
    return jnp.array([row + (0.0,) * (len(rows) + 1 - len(row)) for row in rows], dtype)
