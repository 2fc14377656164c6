"""Gauss collocation of order 2, 4 and 6.

Source: E. Hairer, C. Lubich, G. Wanner, Geometric Numerical Integration (2006), section II.1.
"""

import math
from typing import ClassVar

from .collocation import Collocation
from .collocation_tableau import CollocationTableau, collocation_tableau


def _gauss4() -> CollocationTableau:
    r"""Two stages. $A^{-1}$ has the eigenvalues $3 \pm i \sqrt 3$, of modulus $\sqrt{12}$.

    There is no real eigenvalue: $\gamma_0 = 1 / \sqrt{12}$ is a choice of scale, and the filter
    needs its own factorisation.
    """
    r = math.sqrt(3.0)
    return collocation_tableau(
        order=4,
        c=(0.5 - r / 6.0, 0.5 + r / 6.0),
        A=((0.25, 0.25 - r / 6.0), (0.25 + r / 6.0, 0.25)),
        b=(0.5, 0.5),
        gamma0=1.0 / math.sqrt(12.0),
    )


def _gauss6() -> CollocationTableau:
    r"""Three stages. $A^{-1}$ has the eigenvalues of $x^3 - 12 x^2 + 60 x - 120$.

    They are 4.644370709252172 and $3.677814645373914 \pm 3.508761919567443 i$.
    """
    r = math.sqrt(15.0)
    a, b = 5.0 / 36.0, 2.0 / 9.0
    # x = 4 + w with w^3 + 12 w - 8 = 0
    w = math.cbrt(4.0 + math.sqrt(80.0)) - math.cbrt(math.sqrt(80.0) - 4.0)
    return collocation_tableau(
        order=6,
        c=(0.5 - r / 10.0, 0.5, 0.5 + r / 10.0),
        A=(
            (a, b - r / 15.0, a - r / 30.0),
            (a + r / 24.0, b, a - r / 24.0),
            (a + r / 30.0, b + r / 15.0, a),
        ),
        b=(5.0 / 18.0, 4.0 / 9.0, 5.0 / 18.0),
        gamma0=1.0 / (4.0 + w),
    )


IMPLICIT_MIDPOINT_TABLEAU = collocation_tableau(
    order=2, c=(0.5,), A=((0.5,),), b=(1.0,), gamma0=0.5
)

GAUSS_LEGENDRE4_TABLEAU = _gauss4()


GAUSS_LEGENDRE6_TABLEAU = _gauss6()


class ImplicitMidpoint(Collocation):
    """The implicit midpoint rule, order 2, symplectic, fixed steps. Dense output: linear."""

    names: ClassVar[tuple[str, ...]] = ("implicit_midpoint",)
    tableau: ClassVar[CollocationTableau] = IMPLICIT_MIDPOINT_TABLEAU


class GaussLegendre4(Collocation):
    """Gauss collocation with two stages, order 4, symplectic, fixed steps. Dense: quartic."""

    names: ClassVar[tuple[str, ...]] = ("gauss_legendre4", "gl4")
    tableau: ClassVar[CollocationTableau] = GAUSS_LEGENDRE4_TABLEAU


class GaussLegendre6(Collocation):
    """Gauss collocation with three stages, order 6, symplectic, fixed steps. Dense: order 5."""

    names: ClassVar[tuple[str, ...]] = ("gauss_legendre6", "gl6")
    tableau: ClassVar[CollocationTableau] = GAUSS_LEGENDRE6_TABLEAU
