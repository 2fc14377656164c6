r"""Alexander's method of two stages, of order 2.

Source: R. Alexander, Diagonally implicit Runge-Kutta methods for stiff O.D.E.'s, SIAM J. Numer.
Anal. 14 (1977), theorem 5.
"""

import math
from typing import ClassVar

from ..explicit.tableau import hermite_dense
from .esdirk import Esdirk
from .esdirk_tableau import EsdirkTableau, error_weights


def _sdirk2() -> EsdirkTableau:
    r"""$\gamma = 1 - 1 / \sqrt 2$; the first stage, at the start, serves estimate and dense output.

    The companion integrates the slopes of the three stages with order 3, and is of order 2. Its
    difference is a seventh of the error of a linear step, so the estimate is four times that. It
    grows with the stiffness, so it is multiplied by $(I - h \gamma J)^{-1}$.
    """
    g = 1.0 - math.sqrt(0.5)
    b = (0.0, 1.0 - g, g)
    inner = 1.0 / (6.0 * g * (1.0 - g))
    last = 0.5 - g * inner
    return EsdirkTableau(
        order=2,
        embedded_order=2,
        gamma=g,
        c=(0.0, g, 1.0),
        a=((0.0,), (0.0, g), b),
        b=b,
        error=tuple(4.0 * x for x in error_weights(b, (1.0 - inner - last, inner, last))),
        dense=hermite_dense(b),
        filtered=True,
    )


SDIRK2_TABLEAU = _sdirk2()


class SDIRK2(Esdirk):
    """Alexander's method of order 2, L-stable, adaptive. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("sdirk2",)
    tableau: ClassVar[EsdirkTableau] = SDIRK2_TABLEAU
