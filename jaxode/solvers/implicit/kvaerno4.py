r"""The ESDIRK 4(3) pair of Kvaerno.

Source: A. Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first stage, BIT
44 (2004): the pair that advances with the fourth-order stage, whose $\gamma$ differs from that of
the one that advances with the third-order stage.
"""

from typing import ClassVar

from ..explicit.tableau import hermite_dense
from .esdirk import Esdirk
from .esdirk_tableau import EsdirkTableau, error_weights


def _kvaerno4() -> EsdirkTableau:
    r"""The pair 4(3): $\gamma$ is the third root of $24 g^4 - 96 g^3 + 72 g^2 - 16 g + 1$.

    Then the stability function vanishes at infinity.
    """
    g = 0.5728160624821349

    def p(*coefficients: float) -> float:
        """The polynomial in gamma with these coefficients, the highest power first."""
        value = 0.0
        for coefficient in coefficients:
            value = value * g + coefficient
        return value

    square, linear = p(12, -9, 2), p(3, -1)
    third = (
        p(144, -180, 81, -15, 1) * g / p(12, -6, 1) ** 2,
        p(-36, 39, -15, 2) * g / p(12, -6, 1) ** 2,
    )
    fourth = (
        p(-144, 396, -330, 117, -18, 1) / (12 * g**2 * square),
        p(72, -126, 69, -15, 1) / (12 * g**2 * linear),
        p(-6, 6, -1) * p(12, -6, 1) ** 2 / (12 * g**2 * square * linear),
        g,
    )
    b = (
        p(288, -312, 120, -18, 1) / (48 * g**2 * square),
        p(24, -12, 1) / (48 * g**2 * linear),
        -(p(12, -6, 1) ** 3) / (48 * g**2 * linear * square * p(6, -6, 1)),
        p(-24, 36, -12, 1) / p(24, -24, 4),
        g,
    )
    return EsdirkTableau(
        order=4,
        embedded_order=3,
        gamma=g,
        c=(0.0, 2.0 * g, sum(third) + g, 1.0, 1.0),
        a=((0.0,), (g, g), (*third, g), fourth, b),
        b=b,
        error=error_weights(b, (*fourth, 0.0)),
        dense=hermite_dense(b),
    )


KVAERNO4_TABLEAU = _kvaerno4()


class Kvaerno4(Esdirk):
    """Kvaerno's 4(3) pair, L-stable and stiffly accurate. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("kvaerno4",)
    tableau: ClassVar[EsdirkTableau] = KVAERNO4_TABLEAU
