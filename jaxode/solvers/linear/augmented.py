"""Linear solvers for a state beside its adjoint."""

import dataclasses

import numpy as np
from scipy.sparse import block_array, csr_array

from .banded import Banded
from .base import LinearSolver
from .krylov import Krylov
from .sparse import Sparse


def augmented_solver(solver: LinearSolver, size: int) -> LinearSolver:
    r"""The linear solver for a state of `size` components beside its adjoint.

    With the Jacobian $J$ that `solver` is for, theirs is $[[J, 0], [H, -J^T]]$, where $H$, second
    derivatives summed over the components of the field, is no fuller than $J^T J$.
    """
    if isinstance(solver, Krylov):
        # It is not symmetric, whatever the Jacobian is; and a preconditioner is made for states.
        method = "gmres" if solver.method == "cg" else solver.method
        return dataclasses.replace(solver, preconditioner=None, method=method)
    if isinstance(solver, Banded):
        diagonals = range(-solver.lower, solver.upper + 1)
        return _beside_transpose(csr_array(sum(np.eye(size, k=d) for d in diagonals)))
    if isinstance(solver, Sparse):
        return _beside_transpose(csr_array(solver.pattern, dtype=float))
    return solver


def _beside_transpose(pattern: csr_array) -> Sparse:
    # A column's components are those that some equation has beside each other.
    bent = pattern.T @ pattern
    return Sparse(block_array([[pattern, None], [bent, pattern.T]], format="csr") != 0)
