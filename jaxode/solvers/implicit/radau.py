"""Radau IIA collocation of order 1, 3 and 5.

Source: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), sections IV.5 and
IV.8, and the authors' code radau5.f.
"""

import math
from typing import ClassVar

from .collocation import Collocation
from .collocation_tableau import CollocationTableau, collocation_tableau


def _radau5() -> CollocationTableau:
    r"""Three stages, the last at the end of the step.

    $A^{-1}$ has the eigenvalues of $x^3 - 9 x^2 + 36 x - 60$. They are
    $3 + \sqrt[3] 9 - \sqrt[3] 3$ = 3.637834252744496 and
    $2.681082873627752 \pm 3.050430199247411 i$. The error estimate is that of radau5.f, where
    $-Q_{i1}$ are written $(-13 - 7 \sqrt 6, -13 + 7 \sqrt 6, -1) / 3$.
    """
    r = math.sqrt(6.0)
    last = ((16.0 - r) / 36.0, (16.0 + r) / 36.0, 1.0 / 9.0)
    return collocation_tableau(
        order=5,
        c=((4.0 - r) / 10.0, (4.0 + r) / 10.0, 1.0),
        A=(
            ((88.0 - 7.0 * r) / 360.0, (296.0 - 169.0 * r) / 1800.0, (3.0 * r - 2.0) / 225.0),
            ((296.0 + 169.0 * r) / 1800.0, (88.0 + 7.0 * r) / 360.0, -(3.0 * r + 2.0) / 225.0),
            last,
        ),
        b=last,
        gamma0=1.0 / (3.0 + math.cbrt(9.0) - math.cbrt(3.0)),
        adaptive=True,
    )


IMPLICIT_EULER_TABLEAU = collocation_tableau(
    order=1, c=(1.0,), A=((1.0,),), b=(1.0,), gamma0=1.0, adaptive=True
)

# $A^{-1}$ has the eigenvalues $2 \pm i \sqrt 2$, of modulus $\sqrt 6$: there is no real one, so
# $\gamma_0 = 1 / \sqrt 6$ is a choice of scale, and the filter needs its own factorisation.
RADAU_IIA3_TABLEAU = collocation_tableau(
    order=3,
    c=(1 / 3, 1.0),
    A=((5 / 12, -1 / 12), (0.75, 0.25)),
    b=(0.75, 0.25),
    gamma0=1.0 / math.sqrt(6.0),
    adaptive=True,
)

RADAU_IIA5_TABLEAU = _radau5()


class ImplicitEuler(Collocation):
    """The implicit Euler method, order 1, L-stable, adaptive. Dense output: linear."""

    names: ClassVar[tuple[str, ...]] = ("implicit_euler",)
    tableau: ClassVar[CollocationTableau] = IMPLICIT_EULER_TABLEAU


class RadauIIA3(Collocation):
    """Radau collocation with two stages, order 3, L-stable, adaptive. Dense output: cubic."""

    names: ClassVar[tuple[str, ...]] = ("radau_iia3", "radau3", "radauiia3")
    tableau: ClassVar[CollocationTableau] = RADAU_IIA3_TABLEAU


class RadauIIA5(Collocation):
    """Radau collocation with three stages, order 5, L-stable, adaptive. Dense output: quartic."""

    names: ClassVar[tuple[str, ...]] = ("radau_iia5", "radau", "radau5", "radauiia5")
    tableau: ClassVar[CollocationTableau] = RADAU_IIA5_TABLEAU
