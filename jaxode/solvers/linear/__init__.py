"""Linear solvers of implicit steps, for one trajectory and for many in lanes."""

from ...problem.field import WithJacobian as WithJacobian
from .augmented import augmented_solver as augmented_solver
from .banded import Banded as Banded
from .base import Direct as Direct
from .base import Linearisation as Linearisation
from .base import LinearSolver as LinearSolver
from .base import check_linear_solver as check_linear_solver
from .dense import MAX_INLINE as MAX_INLINE
from .dense import MAX_INLINE_LANES as MAX_INLINE_LANES
from .dense import Dense as Dense
from .dense import first_axis_sum as first_axis_sum
from .dense import gauss_jordan_inverse as gauss_jordan_inverse
from .dense import matvec as matvec
from .dense import solver_of as solver_of
from .dense import transposed_matvec as transposed_matvec
from .krylov import Krylov as Krylov
from .sparse import Sparse as Sparse
from .sparse import sparsity as sparsity
