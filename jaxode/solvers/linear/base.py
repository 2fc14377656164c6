"""What implicit solvers ask of linear algebra: Jacobians, and systems `(shift M - J) x = b`.

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

from ...problem.field import Field

Solve = Callable[[Array], Array]


class Linearisation(NamedTuple):
    """A field around `(t, y)`: its value, its derivative by `t`, and its Jacobian.

    The Jacobian is what the linear solver made of it: arrays whose last axes are those of `t`.
    """

    slope: Array
    slope_t: Array
    jacobian: Any


class LinearSolver(eqx.Module):
    """How Jacobians are made and the systems of implicit steps solved."""

    iterative: ClassVar[bool] = False  # a system can be left unsolved though it is not singular

    @abc.abstractmethod
    def jacobian(self, field: Field, t: Array, y: Array) -> Linearisation:
        """The field around `(t, y)`."""

    @abc.abstractmethod
    def system(self, jacobian: Any, shift: Array, mass: Array | None) -> Solve:
        """`b -> x` with `(shift M - J) x = b`, factorised once, differentiable.

        A singular matrix gives values that are not finite.
        """

    def check(self, size: int) -> None:
        """**Raises:** `OptionError` if it does not suit a state of `size` components."""

    @abc.abstractmethod
    def transposed(self) -> "LinearSolver":
        """The one for transposes of such Jacobians."""


class Direct(LinearSolver):
    """A linear solver whose factors are arrays, which serve for as many systems as one likes."""

    @abc.abstractmethod
    def factorise(self, jacobian: Any, shift: Array, mass: Array | None) -> Any:
        """The factors of `shift M - J`: floating arrays whose last axes are those of `shift`."""

    @abc.abstractmethod
    def solve(self, factors: Any, b: Array) -> Array:
        """The solution for the right-hand side `b`; the factors are not differentiated."""


def jacobian_vector_products(field: Field, t: Array, y: Array, seeds: np.ndarray) -> Linearisation:
    """The field around `(t, y)`, with the products of its Jacobian and the rows of `seeds`."""
    slope, linear = jax.linearize(field, t, y)
    rows = jnp.asarray(seeds, y.dtype).reshape(seeds.shape + (1,) * t.ndim) * jnp.ones_like(y)
    slope_t = linear(jnp.ones_like(t), jnp.zeros_like(y))
    return Linearisation(slope, slope_t, jax.vmap(lambda e: linear(jnp.zeros_like(t), e))(rows))
