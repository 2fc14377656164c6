"""What implicit solvers share: Jacobians, mass matrices, and the systems made of them."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import linalg
from ..solution import Status
from .solver import Field, Solver


class Linearised(NamedTuple):
    """A field around `(t, y)`: its value, its derivative by `t`, and its Jacobian by columns."""

    slope: Array
    slope_t: Array
    jacobian: Any


class Implicit(Solver):
    """A solver of systems `(shift M - J) x = b`.

    Inside, a state is a vector `(n,)`, or `(n, lanes)`.
    """

    implicit: ClassVar[bool] = True

    mass: Array | None = eqx.field(default=None, kw_only=True)

    def linearised(self, field: Field, t: Array, y: Array) -> Linearised:
        """The field around `(t, y)`."""
        slope, linear = jax.linearize(field, t, y)
        basis = jnp.eye(y.shape[0], dtype=y.dtype)
        basis = basis.reshape(basis.shape + (1,) * t.ndim) * jnp.ones_like(y)

        def column(e: Array) -> Array:
            return linear(jnp.zeros_like(t), e)

        slope_t = linear(jnp.ones_like(t), jnp.zeros_like(y))
        return Linearised(slope, slope_t, jax.vmap(column)(basis))

    def system(self, jacobian: Any, shift: Array) -> Callable[[Array], Array]:
        """`b -> x` with `(shift M - J) x = b`, factorised once; `shift` per lane."""
        return linalg.solver_of(self.matrix(jacobian, shift))

    def matrix(self, jacobian: Any, shift: Array) -> Array:
        """`shift M - J` by columns; `shift` per lane."""
        n = jacobian.shape[0]
        mass = jnp.eye(n) if self.mass is None else jnp.asarray(self.mass).T
        mass = mass.astype(jacobian.dtype).reshape((n, n) + (1,) * shift.ndim)
        return lax.optimization_barrier(shift * mass - jacobian)

    def mass_times(self, x: Array) -> Array:
        """`M x`."""
        if self.mass is None:
            return x
        mass = jnp.asarray(self.mass, x.dtype).T
        return linalg.product(mass.reshape(mass.shape + (1,) * (x.ndim - 1)), x)

    def trouble_of(self, jacobian: Any, result: Array) -> Array:
        """The status of a step: a Jacobian or a solution that is not finite is a failure."""
        bad = ~jnp.isfinite(jnp.sum(jacobian, (0, 1)))
        singular = ~jnp.isfinite(jnp.sum(result, 0))
        status = jnp.where(singular, Status.SINGULAR, Status.SUCCESS)
        return jnp.where(bad, Status.BAD_JACOBIAN, status).astype(jnp.int32)


def flattened(field: Field, like: Array) -> Field:
    """The field on vectors, the axes of one trajectory's state laid end to end."""

    def flat(t: Array, y: Array) -> Array:
        return field(t, y.reshape(like.shape)).reshape(y.shape)

    return flat
