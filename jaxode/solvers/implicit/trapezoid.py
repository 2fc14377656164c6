"""The implicit trapezoidal rule.

Source: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), section IV.3.
"""

from typing import ClassVar

from .esdirk import Esdirk
from .esdirk_tableau import EsdirkTableau


def _trapezoid() -> EsdirkTableau:
    """The trapezoidal rule, without an embedded method: that would need earlier steps."""
    b = (0.5, 0.5)
    return EsdirkTableau(
        order=2,
        embedded_order=None,
        gamma=0.5,
        c=(0.0, 1.0),
        a=((0.0,), b),
        b=b,
        error=None,
        dense=((1.0, -0.5), (0.0, 0.5)),
    )


TRAPEZOID_TABLEAU = _trapezoid()


class Trapezoid(Esdirk):
    """The implicit trapezoidal rule, order 2, fixed steps. Dense output: quadratic."""

    names: ClassVar[tuple[str, ...]] = ("trapezoid",)
    tableau: ClassVar[EsdirkTableau] = TRAPEZOID_TABLEAU
