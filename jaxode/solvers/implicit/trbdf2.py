"""The ESDIRK pair TR-BDF2.

Source: M. E. Hosea, L. F. Shampine, Analysis and implementation of TR-BDF2, Appl. Numer. Math. 20
(1996).
"""

import math
from typing import ClassVar

from ..explicit.tableau import hermite_dense
from .esdirk import Esdirk
from .esdirk_tableau import EsdirkTableau, error_weights


def _trbdf2() -> EsdirkTableau:
    r"""The trapezoidal rule up to $(2 - \sqrt 2) h$, then BDF2 to the end of the step.

    The companion grows with the stiffness (it is not A-stable), so Hosea and Shampine filter the
    estimate: they use $(M - h \gamma J)^{-1}$ times it, with the factors of the stages.
    """
    g = 1.0 - math.sqrt(0.5)
    w = math.sqrt(0.125)
    return EsdirkTableau(
        order=2,
        embedded_order=3,
        gamma=g,
        c=(0.0, 2.0 * g, 1.0),
        a=((0.0,), (g, g), (w, w, g)),
        b=(w, w, g),
        error=error_weights((w, w, g), ((1.0 - w) / 3.0, w + 1.0 / 3.0, g / 3.0)),
        dense=hermite_dense((w, w, g)),
        filtered=True,
    )


TRBDF2_TABLEAU = _trbdf2()


class TRBDF2(Esdirk):
    """The 2(3) pair of Bank et al. and Hosea, Shampine, L-stable. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("trbdf2",)
    tableau: ClassVar[EsdirkTableau] = TRBDF2_TABLEAU
