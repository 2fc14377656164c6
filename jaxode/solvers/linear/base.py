"""Base classes of linear solvers: Jacobians, and systems `(shift M - J) x = b`.

A state is a vector `(n,)`, or `(n, lanes)`; `t` and `shift` are scalars, or `(lanes,)`.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...problem.errors import OptionError
from ...problem.field import Field
from ...problem.validation import shown_value

Solve = Callable[[Array], Array]


class Linearisation(NamedTuple):
    """The linearisation of a field at `(t, y)`: its value, change over a step, and Jacobian.

    `change`, the derivative by `t` times the size of the step, is None without a step. The Jacobian
    has the linear solver's own form: arrays whose last axes are those of `t`.
    """

    slope: Array
    change: Array | None
    jacobian: Any


class LinearSolver(eqx.Module):
    """Base class of linear solvers: Jacobians, and the systems of implicit steps."""

    iterative: ClassVar[bool] = False  # may fail to converge though the system is not singular
    has_pattern: ClassVar[bool] = False  # is for Jacobians of one size and sparsity pattern

    @abc.abstractmethod
    def jacobian(self, field: Field, t: Array, y: Array, h: Array | None = None) -> Linearisation:
        """The linearisation of the field at `(t, y)`, for a step of size `h` or for none."""

    @abc.abstractmethod
    def system(self, jacobian: Any, shift: Array, mass: Array | None) -> Solve:
        """The map `b -> x` with `(shift M - J) x = b`, factorised once, differentiable.

        A singular matrix gives values that are not finite.
        """

    def scaled_system(self, jacobian: Any, size: Array, mass: Array | None) -> Solve:
        """The map `b -> x` with `(M - size J) x = b`, whatever the unit of time, as `system`."""
        scaled = jax.tree.map(lambda x: size * x, jacobian)
        return self.system(scaled, jnp.ones_like(size), mass)

    def check(self, size: int) -> None:
        """Check the size of the state. **Raises:** `OptionError` if it does not fit the solver."""

    @abc.abstractmethod
    def transposed(self) -> "LinearSolver":
        """The linear solver for the transposes of such Jacobians."""


def check_linear_solver(value: Any) -> LinearSolver:
    """Return a linear solver. **Raises:** `OptionError` for anything else."""
    if not isinstance(value, LinearSolver):
        raise OptionError(
            "linear_solver must be an object such as jo.Dense(), jo.Banded(lower, upper), "
            f"jo.Sparse(pattern) or jo.Krylov(), got {shown_value(value)}"
        )
    return value


class Direct(LinearSolver):
    """Base class of direct linear solvers, whose factors are arrays and can be reused."""

    @abc.abstractmethod
    def factorise(self, jacobian: Any, shift: Array, mass: Array | None) -> Any:
        """The factors of `shift M - J`: floating arrays whose last axes are those of `shift`."""

    @abc.abstractmethod
    def solve(self, factors: Any, b: Array) -> Array:
        """The solution for the right-hand side `b`; it has no derivative by the factors."""


def slope_and_change(
    field: Field, t: Array, y: Array, h: Array | None
) -> tuple[Array, Array | None]:
    """The value of the field, and its change over the step; see `Linearisation`.

    The derivative by `t` itself, or its cotangent, may overflow where the change does not.
    """
    if h is None:
        return field(t, y), None
    return jax.jvp(lambda t: field(t, y), (t,), (h,))


def linearised(
    field: Field, t: Array, y: Array, h: Array | None
) -> tuple[Array, Array | None, Solve]:
    """The value of the field, its change over the step, and the product with its Jacobian.

    Without a step nothing is differentiated by `t`: that derivative may not exist.
    """
    if h is None:
        slope, product = jax.linearize(lambda y: field(t, y), y)
        return slope, None, product
    slope, linear = jax.linearize(field, t, y)
    change = linear(h, jnp.zeros_like(y))
    return slope, change, lambda x: linear(jnp.zeros_like(t), x)


def jacobian_vector_products(
    field: Field, t: Array, y: Array, h: Array | None, seeds: np.ndarray
) -> Linearisation:
    """The linearisation at `(t, y)`, its Jacobian as products with the rows of `seeds`."""
    slope, change, product = linearised(field, t, y, h)
    rows = jnp.asarray(seeds, y.dtype).reshape(seeds.shape + (1,) * t.ndim) * jnp.ones_like(y)
    return Linearisation(slope, change, jax.vmap(product)(rows))
