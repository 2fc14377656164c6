"""Yoshida's symplectic compositions of order 4 and 6.

Source: H. Yoshida, Construction of higher order symplectic integrators, Phys. Lett. A 150 (1990).
"""

import math
from typing import ClassVar

from .splitting import Symplectic
from .splitting_tableau import SymplecticTableau, strang_composition


def _yoshida4() -> SymplecticTableau:
    """The triple jump: three evaluations of the force."""
    outer = 1.0 / (2.0 - math.cbrt(2.0))
    drift, kick = strang_composition((outer, 1.0 - 2.0 * outer, outer))
    return SymplecticTableau(order=4, drift=drift, kick=kick)


def _yoshida6() -> SymplecticTableau:
    """Solution A: seven evaluations of the force."""
    outer = (0.7845136104775573, 0.23557321335935813, -1.177679984178871)
    drift, kick = strang_composition((*outer, 1.3151863206839112, *outer[::-1]))
    return SymplecticTableau(order=6, drift=drift, kick=kick)


YOSHIDA4_TABLEAU = _yoshida4()

YOSHIDA6_TABLEAU = _yoshida6()


class Yoshida4(Symplectic):
    """Yoshida's triple jump, order 4, three forces a step. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("yoshida4",)
    tableau: ClassVar[SymplecticTableau] = YOSHIDA4_TABLEAU


class Yoshida6(Symplectic):
    """Yoshida's solution A, order 6, seven forces a step. Dense output: order 5."""

    names: ClassVar[tuple[str, ...]] = ("yoshida6",)
    tableau: ClassVar[SymplecticTableau] = YOSHIDA6_TABLEAU
