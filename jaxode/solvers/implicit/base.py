"""Base class of implicit solvers: Jacobians, mass matrices, and their linear systems."""

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

from ...problem.errors import OptionError
from ...problem.field import Field
from ...problem.state import Packing, is_traced
from ...problem.status import Status
from ...problem.validation import real_array
from .. import dense_output
from ..base import Solver
from ..linear import (
    Dense,
    Direct,
    Linearisation,
    LinearSolver,
    WithJacobian,
    check_linear_solver,
    first_axis_sum,
    matvec,
)


class Implicit(Solver):
    """Base class of solvers whose steps solve systems `(shift M - J) x = b`.

    - `jac`: the Jacobian of the field, `(t, y, args)` or `(t, y)` to `(n, n)` with `df_i / dy_j` in
      row `i`; by default it comes from forward-mode differentiation. A state of other shape than
      `(n,)` is flattened and concatenated, leaf by leaf. Complex for a complex state, whose field
      has to be holomorphic then; else real, of the real and imaginary parts, `(2n, 2n)`.
    - `mass`: the constant matrix `M` of `M y' = f(t, y)`, shape `(n, n)`; the identity by default.
      It may be singular, if the algebraic equations determine their unknowns (index 1), and complex
      for a complex state.
    - `linear_solver`: the structure of the Jacobian and the way to solve its systems: `Dense()`,
      `Banded(lower, upper)`, `Sparse(pattern)` or `Krylov()`.

    Within a step, a state is a vector `(n,)`, or `(n, lanes)`.
    """

    implicit: ClassVar[bool] = True
    takes_mass: ClassVar[bool] = True

    jac: Callable[..., Array] | None = eqx.field(default=None, kw_only=True, static=True)
    mass: ArrayLike | None = eqx.field(default=None, kw_only=True)
    linear_solver: LinearSolver = eqx.field(default=Dense(), kw_only=True)

    def __check_init__(self) -> None:
        check_linear_solver(self.linear_solver)
        if self.jac is not None and not callable(self.jac):
            name = type(self).__name__
            raise OptionError(f"jac of {name} must be a function (t, y, args), got {self.jac!r}")

    def check(self, packing: Packing) -> None:
        """Refuse a state or an option that the solver cannot step.

        **Raises:** `OptionError` for a mass matrix or a pattern of the wrong shape or that is not
        finite.
        """
        name, shape = type(self).__name__, (packing.size,) * 2
        self.linear_solver.check(packing.size)
        if self.mass is None:
            return
        real_array(f"mass of {name}", self.mass)
        if np.shape(self.mass) != shape:
            raise OptionError(
                f"mass of {name} has shape {np.shape(self.mass)} where a state of {packing.size} "
                f"components needs {shape}"
            )
        if not is_traced(self.mass) and not np.all(np.isfinite(np.asarray(self.mass))):
            raise OptionError(f"mass of {name} must be finite, got {self.mass!r}")

    def why_no_kernel(self) -> str | None:
        return (
            f"{type(self).__name__} iterates: of the implicit solvers those of Rosenbrock's kind "
            'have kernels, such as "rosenbrock23" and "rodas5p"'
        )

    def linearise(self, field: Field, t: Array, y: Array, h: Array | None = None) -> Linearisation:
        """The linearisation of the field at `(t, y)`, for a step of size `h` or for none."""
        return self.linear_solver.jacobian(field, t, y, h)

    def system(self, jacobian: Any, shift: Array) -> Callable[[Array], Array]:
        """The map `b -> x` with `(shift M - J) x = b`, factorised once; `shift` per lane."""
        mass = None if self.mass is None else jnp.asarray(self.mass)
        return self.linear_solver.system(jacobian, shift, mass)

    def factorise(self, jacobian: Any, shift: Array) -> Any:
        """The factors of `shift M - J`, of a direct linear solver."""
        assert isinstance(self.linear_solver, Direct)
        mass = None if self.mass is None else jnp.asarray(self.mass)
        return self.linear_solver.factorise(jacobian, shift, mass)

    def scaled_system(self, jacobian: Any, size: Array) -> Callable[[Array], Array]:
        """The map `b -> x` with `(M - size J) x = b`, factorised once; `size` may be zero."""
        size = jnp.where(size == 0, jnp.finfo(size.dtype).eps ** 2, size)
        mass = None if self.mass is None else jnp.asarray(self.mass)
        return self.linear_solver.scaled_system(jacobian, size, mass)

    def mass_times(self, x: Array) -> Array:
        """The product `M x`."""
        if self.mass is None:
            return x
        mass = jnp.asarray(self.mass, x.dtype).T
        return matvec(mass.reshape(mass.shape + (1,) * (x.ndim - 1)), x)

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return dense_output.evaluate(theta, y, dense)

    def failure_status(self, jacobian: Any, result: Array) -> Array:
        """The `Status` of a step: a failure if its Jacobian or its solution is not finite."""
        result_finite = all_finite(result, result.shape[1:])
        jacobian_finite = all_finite(jacobian, result.shape[1:])
        failure = Status.NOT_CONVERGED if self.linear_solver.iterative else Status.SINGULAR
        status = jnp.where(result_finite, Status.SUCCESS, failure)
        return jnp.where(jacobian_finite, status, Status.BAD_JACOBIAN).astype(jnp.int32)


def all_finite(tree: Any, lanes: tuple[int, ...]) -> Array:
    """Per lane, whether all arrays of `tree` are finite; `lanes` is the shape of the last axes."""

    def array_finite(x: Array) -> Array:
        x = lax.stop_gradient(x)
        x = first_axis_sum(x) if lanes and x.ndim > 2 else x
        return jnp.isfinite(jnp.sum(x.reshape(-1, *lanes), 0))

    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return functools.reduce(operator.and_, map(array_finite, arrays), jnp.full(lanes, True))


def flattened_field(field: Field, like: Array) -> Field:
    """The field as a function of vectors: the state of one trajectory, shaped like `like`, flat."""

    def flat(t: Array, y: Array) -> Array:
        return field(t, y.reshape(like.shape)).reshape(y.shape)

    if not isinstance(field, WithJacobian):
        return flat
    return WithJacobian(flat, lambda t, y: field.jacobian(t, y.reshape(like.shape)))


def without_gradient(jacobian: Any) -> Any:
    """The Jacobian with `stop_gradient` applied to its arrays."""
    arrays, rest = eqx.partition(jacobian, eqx.is_array)
    return eqx.combine(lax.stop_gradient(arrays), rest)


def weighted_sum(row: Any, slopes: Array) -> Array:
    """The sum of `row * slopes` over the first axis; term by term, which is faster in lanes."""
    row = jnp.asarray(row, jnp.finfo(slopes.dtype).dtype)
    return functools.reduce(operator.add, [row[i] * slope for i, slope in enumerate(slopes)])


def padded_rows(rows: Sequence[tuple[float, ...]], dtype: Any) -> Array:
    """The coefficient rows of the stages from the second on, padded with zeros to one length."""
    return jnp.array([row + (0.0,) * (len(rows) + 1 - len(row)) for row in rows], dtype)
