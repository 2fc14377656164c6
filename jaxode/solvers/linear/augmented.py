"""Linear solvers for the augmented system of the adjoint equation."""

import dataclasses
from typing import Any

import numpy as np

from .banded import Banded
from .base import LinearSolver
from .krylov import Krylov
from .sparse import Sparse


def augmented_solver(solver: LinearSolver, size: int) -> LinearSolver:
    r"""The linear solver for the augmented system: a state of `size` components and its adjoint.

    With the Jacobian $J$ that `solver` is for, the Jacobian of the augmented system is
    $[[J, 0], [H, -J^T]]$, where $H$, the sum of second derivatives over the components of the
    field, has at most the pattern of $J^T J$.
    """
    from scipy import sparse  # loaded when it is needed: SciPy takes a while

    if isinstance(solver, Krylov):
        # The augmented matrix is never symmetric, and the preconditioner is for states alone.
        method = "gmres" if solver.method == "cg" else solver.method
        return dataclasses.replace(solver, preconditioner=None, method=method)
    if isinstance(solver, Banded):
        diagonals = range(-solver.lower, solver.upper + 1)
        return _augmented_pattern(sparse.csr_array(sum(np.eye(size, k=d) for d in diagonals)))
    if isinstance(solver, Sparse):
        return _augmented_pattern(sparse.csr_array(solver.pattern, dtype=float))
    return solver


def _augmented_pattern(pattern: Any) -> Sparse:
    from scipy import sparse

    # Second derivatives couple the components that occur in one equation.
    second = pattern.T @ pattern
    return Sparse(sparse.block_array([[pattern, None], [second, pattern.T]], format="csr") != 0)
