"""Linear algebra of implicit steps, for one trajectory and for lanes."""

from ...problem.field import WithJacobian as WithJacobian
from .augmented import doubled as doubled
from .banded import Banded as Banded
from .base import Direct as Direct
from .base import Linearised as Linearised
from .base import LinearSolver as LinearSolver
from .dense import INLINE as INLINE
from .dense import INLINE_LANES as INLINE_LANES
from .dense import Dense as Dense
from .dense import first_axis_sum as first_axis_sum
from .dense import inverse_of as inverse_of
from .dense import product as product
from .dense import solver_of as solver_of
from .dense import transposed_product as transposed_product
from .krylov import Krylov as Krylov
from .sparse import Sparse as Sparse
from .sparse import sparsity as sparsity
