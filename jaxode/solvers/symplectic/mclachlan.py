"""McLachlan's symplectic composition of order 4.

Source: R. I. McLachlan, On the numerical integration of ordinary differential equations by
symmetric composition methods, SIAM J. Sci. Comput. 16 (1995).
"""

import math
from typing import ClassVar

from .splitting import Symplectic
from .splitting_tableau import SymplecticTableau


def _mclachlan4() -> SymplecticTableau:
    r"""Five evaluations of the force.

    McLachlan's composition of order 4 of a first-order step with its adjoint, of lengths
    $(14 - r) / 108$, $(146 + 5 r) / 540$, $(-23 - 20 r) / 270$, $(10 r - 2) / 135$, $1 / 5$ and
    mirrored, $r = \sqrt{19}$, read as a splitting.
    """
    r = math.sqrt(19.0)
    a = ((14.0 - r) / 108.0, (20.0 - 7.0 * r) / 108.0, (5.0 + 2.0 * r) / 27.0)
    return SymplecticTableau(order=4, drift=(*a, *a[::-1]), kick=(0.4, -0.1, 0.4, -0.1, 0.4, 0.0))


MCLACHLAN4_TABLEAU = _mclachlan4()


class McLachlan4(Symplectic):
    """McLachlan's method of order 4 with small errors, five forces a step. Dense: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("mclachlan4",)
    tableau: ClassVar[SymplecticTableau] = MCLACHLAN4_TABLEAU
