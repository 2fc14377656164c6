"""Linear algebra of implicit steps, for one trajectory and for lanes."""

from .banded import Banded as Banded
from .dense import INLINE as INLINE
from .dense import INLINE_LANES as INLINE_LANES
from .dense import Dense as Dense
from .dense import first_axis_sum as first_axis_sum
from .dense import inverse_of as inverse_of
from .dense import product as product
from .dense import solver_of as solver_of
from .dense import transposed_product as transposed_product
from .doubled import doubled as doubled
from .krylov import Krylov as Krylov
from .linear_solver import Direct as Direct
from .linear_solver import Linearised as Linearised
from .linear_solver import LinearSolver as LinearSolver
from .linear_solver import WithJacobian as WithJacobian
from .sparse import Sparse as Sparse
from .sparse import sparsity as sparsity
