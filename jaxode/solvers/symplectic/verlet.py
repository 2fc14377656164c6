"""The symplectic Euler and Stormer-Verlet methods.

Source: E. Hairer, C. Lubich, G. Wanner, Geometric Numerical Integration (2006), sections I.1 and
VI.3.
"""

from typing import ClassVar

from .splitting import Symplectic
from .splitting_tableau import SymplecticTableau

SEMI_IMPLICIT_EULER_TABLEAU = SymplecticTableau(order=1, drift=(0.0, 1.0), kick=(1.0, 0.0))

STORMER_VERLET_TABLEAU = SymplecticTableau(order=2, drift=(0.0, 1.0), kick=(0.5, 0.5))


class SemiImplicitEuler(Symplectic):
    """The symplectic Euler method, a kick and a drift, order 1. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("semi_implicit_euler",)
    tableau: ClassVar[SymplecticTableau] = SEMI_IMPLICIT_EULER_TABLEAU


class StormerVerlet(Symplectic):
    """The velocity form of Stormer and Verlet's method, order 2. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("stormer_verlet", "leapfrog", "velocity_verlet")
    tableau: ClassVar[SymplecticTableau] = STORMER_VERLET_TABLEAU
