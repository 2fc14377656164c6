"""Complex states of implicit solvers, which step their real and imaginary parts.

A holomorphic map of n complex components is a real one of 2n, each entry `a + ib` of its matrix
the block `[[a, -b], [b, a]]`. Components of real leaves have one part alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ..problem.calling import taking_args
from ..problem.errors import FieldError, OptionError
from ..problem.state import Packing, is_complex, is_traced
from ..solvers.base import Solver
from ..solvers.implicit.base import Implicit
from ..solvers.linear import Banded, Dense, Krylov, LinearSolver, Sparse
from .options import SENSITIVITIES, find_solver, with_jac


def packing_for(y0: PyTree, solver: Any, sensitivity: Any) -> Packing:
    """The packing of a state: by parts if it is complex, and a solver is implicit.

    **Raises:** `OptionError` for an unknown solver.
    """
    packing = Packing.of(y0)
    if not is_complex(packing.dtype):
        return packing
    if isinstance(sensitivity, str) and sensitivity.lower() in SENSITIVITIES:
        sensitivity = SENSITIVITIES[sensitivity.lower()]()
    backward = getattr(sensitivity, "solver", None)
    solvers = [find_solver(s) for s in (solver, backward) if s is not None]
    return packing.by_parts() if any(s.implicit for s in solvers) else packing


def solver_of_parts(solver: Any, packing: Packing) -> Solver:
    """The solver for states that are packed in parts: its mass, `jac` and linear solver are real.

    **Raises:** `OptionError` for a mass matrix, a band or a pattern that does not fit the state.
    """
    solver = find_solver(solver)
    if not packing.in_parts or not isinstance(solver, Implicit):
        return solver
    count, linear = packing.num_components, solver.linear_solver
    linear.check(count)
    mass, jac = solver.mass, solver.jac
    if mass is not None:
        mass = _real_mass(solver, mass, packing)
    linear = _linear_solver_of_parts(linear, packing)
    solver = dataclasses.replace(solver, mass=mass, linear_solver=linear, jac=None)
    return solver if jac is None else with_jac(solver, _RealJacobian(taking_args(jac), packing))


def real_rows(matrix: Any, packing: Packing) -> Any:
    """The rows of a matrix `(m, n)` of complex components as `(2m, parts)` of real ones."""
    space = jnp if is_traced(matrix) or isinstance(matrix, jax.Array) else np
    a, b = space.real(matrix), space.imag(matrix)
    blocks = space.stack([space.stack([a, -b], -1), space.stack([b, a], -1)], 1)
    rows, columns = matrix.shape
    return blocks.reshape(2 * rows, 2 * columns)[:, _kept_parts(packing)]


def _real_matrix(matrix: Any, packing: Packing) -> Any:
    """A matrix `(n, n)` of complex components as one of their parts."""
    return real_rows(matrix, packing)[_kept_parts(packing)]


def _kept_parts(packing: Packing) -> np.ndarray:
    """The places of the parts that there are, among two of each component."""
    counts = [int(np.prod(shape, dtype=int)) for shape in packing.shapes]
    kinds = [is_complex(dtype) for dtype in packing.dtypes]
    imaginary = np.repeat(kinds, counts)
    return np.flatnonzero(np.stack([np.ones_like(imaginary), imaginary], -1).reshape(-1))


def _real_mass(solver: Implicit, mass: Any, packing: Packing) -> Any:
    count, name = packing.num_components, type(solver).__name__
    mass = mass if is_traced(mass) else np.asarray(mass)
    numbers = np.issubdtype(mass.dtype, np.number)
    if not numbers or np.shape(mass) not in ((count, count), (packing.size, packing.size)):
        raise OptionError(
            f"mass of {name} has shape {np.shape(mass)} where a state of {count} complex "
            f"components needs numbers of shape {(count, count)}"
        )
    return mass if mass.shape[0] != count else _real_matrix(mass, packing)


def _linear_solver_of_parts(linear: LinearSolver, packing: Packing) -> LinearSolver:
    """The linear solver for Jacobians of the parts, where that of the components is known."""
    if isinstance(linear, Banded):
        return Banded(2 * linear.lower + 1, 2 * linear.upper + 1)
    if isinstance(linear, Sparse):
        kept = _kept_parts(packing)
        blocks = np.kron(linear.pattern.toarray(), np.ones((2, 2), bool))
        return Sparse(blocks[kept][:, kept])
    assert isinstance(linear, Dense | Krylov)
    return linear


@dataclasses.dataclass(frozen=True)
class _RealJacobian:
    """The user's Jacobian as that of the parts; it may be one of these already."""

    func: Callable[..., Array]
    packing: Packing

    def __call__(self, t: Array, y: PyTree, args: PyTree) -> Array:
        matrix = jnp.asarray(self.func(t, y, args))
        count, size = self.packing.num_components, self.packing.size
        if matrix.shape == (count, count):
            return _real_matrix(matrix, self.packing)
        if matrix.shape != (size, size) or is_complex(matrix.dtype):
            raise FieldError(
                f"jac(t, y, args) is {matrix.dtype}{list(matrix.shape)} where a state of {count} "
                f"complex components needs an array of shape {(count, count)}"
            )
        return matrix
