"""The ESDIRK 3(2) pair of Kvaerno.

Source: A. Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first stage, BIT
44 (2004).
"""

from typing import ClassVar

from ..explicit.tableau import hermite_dense
from .esdirk import Esdirk
from .esdirk_tableau import EsdirkTableau, error_weights


def _kvaerno3() -> EsdirkTableau:
    r"""The pair 3(2): $\gamma$ is the middle root of $6 g^3 - 18 g^2 + 9 g - 1$."""
    g = 0.43586652150845900
    row = ((6.0 * g - 4.0 * g * g - 1.0) / (4.0 * g), (1.0 - 2.0 * g) / (4.0 * g), g)
    b = (
        (6.0 * g - 1.0) / (12.0 * g),
        1.0 / (12.0 * g * (1.0 - 2.0 * g)),
        (6.0 * g - 6.0 * g * g - 1.0) / (6.0 * g - 3.0),
        g,
    )
    return EsdirkTableau(
        order=3,
        embedded_order=2,
        gamma=g,
        c=(0.0, 2.0 * g, 1.0, 1.0),
        a=((0.0,), (g, g), row, b),
        b=b,
        error=error_weights(b, (*row, 0.0)),
        dense=hermite_dense(b),
    )


KVAERNO3_TABLEAU = _kvaerno3()


class Kvaerno3(Esdirk):
    """Kvaerno's 3(2) pair, L-stable and stiffly accurate. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("kvaerno3",)
    tableau: ClassVar[EsdirkTableau] = KVAERNO3_TABLEAU
