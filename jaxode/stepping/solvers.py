"""The solvers by name: a class apiece, and the registry of names."""

from typing import ClassVar

from .adams import Adams
from .auto import Switching
from .bdf import BDF
from .esdirk import Esdirk
from .explicit import ExplicitRungeKutta
from .irk import Collocation
from .nystrom import Nystrom
from .reversible import AsynchronousLeapfrog, ReversibleHeun
from .rkc import RKC2
from .rosenbrock import Rosenbrock
from .solver import Solver
from .symplectic import Symplectic
from .tableau import ButcherTableau
from .tableaus import esdirk, irk, low_order, nystrom, rosenbrock, symplectic
from .tableaus.dopri5 import DOPRI5
from .tableaus.dopri8 import DOPRI8
from .tableaus.esdirk import EsdirkTableau, ImexTableau
from .tableaus.irk import CollocationTableau
from .tableaus.nystrom import NystromTableau
from .tableaus.rosenbrock import RosenbrockTableau
from .tableaus.symplectic import SymplecticTableau
from .tableaus.tsit5 import TSIT5
from .tableaus.vern7 import VERN7


class Euler(ExplicitRungeKutta):
    """Euler's method, order 1, fixed steps. Dense output: linear."""

    tableau: ClassVar[ButcherTableau] = low_order.EULER


class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule, order 2, fixed steps. Dense output: quadratic."""

    tableau: ClassVar[ButcherTableau] = low_order.MIDPOINT


class Heun(ExplicitRungeKutta):
    """Heun's method, order 2, fixed steps. Dense output: quadratic."""

    tableau: ClassVar[ButcherTableau] = low_order.HEUN


class Ralston(ExplicitRungeKutta):
    """Ralston's method, order 2 with the least error bound, fixed steps. Dense: quadratic."""

    tableau: ClassVar[ButcherTableau] = low_order.RALSTON


class RK4(ExplicitRungeKutta):
    """The classical Runge-Kutta method, order 4, fixed steps. Dense output: cubic Hermite."""

    tableau: ClassVar[ButcherTableau] = low_order.RK4


class RK4ThreeEighths(ExplicitRungeKutta):
    """Kutta's 3/8 rule, order 4, fixed steps. Dense output: cubic Hermite."""

    tableau: ClassVar[ButcherTableau] = low_order.RK4_38


class HeunEuler(ExplicitRungeKutta):
    """The Heun-Euler pair 2(1), adaptive. Dense output: quadratic."""

    tableau: ClassVar[ButcherTableau] = low_order.HEUN_EULER


class Fehlberg2(ExplicitRungeKutta):
    """Fehlberg's pair 2(1), adaptive. Dense output: quadratic."""

    tableau: ClassVar[ButcherTableau] = low_order.FEHLBERG2


class Bosh3(ExplicitRungeKutta):
    """The 3(2) pair of Bogacki and Shampine, adaptive. Dense output: cubic Hermite."""

    tableau: ClassVar[ButcherTableau] = low_order.BOSH3


class Tsit5(ExplicitRungeKutta):
    """Tsitouras' 5(4) pair, adaptive: the default. Dense output: quartic."""

    tableau: ClassVar[ButcherTableau] = TSIT5


class Dopri5(ExplicitRungeKutta):
    """The 5(4) pair of Dormand and Prince, adaptive. Dense output: quartic."""

    tableau: ClassVar[ButcherTableau] = DOPRI5


class Dopri8(ExplicitRungeKutta):
    """DOP853, the 8(5,3) pair of Dormand and Prince, adaptive. Dense output: order 7."""

    tableau: ClassVar[ButcherTableau] = DOPRI8


class Vern7(ExplicitRungeKutta):
    """Verner's efficient 7(6) pair, adaptive. Dense output: order 6, and 7 to within 3e-4."""

    tableau: ClassVar[ButcherTableau] = VERN7


class Rosenbrock23(Rosenbrock):
    """The 2(3) pair of Shampine and Reichelt, L-stable, for loose tolerances. Dense: order 2."""

    tableau: ClassVar[RosenbrockTableau] = rosenbrock.ROSENBROCK23


class Rodas4(Rosenbrock):
    """The 4(3) pair of Hairer and Wanner, stiffly accurate. Dense output: order 3."""

    tableau: ClassVar[RosenbrockTableau] = rosenbrock.RODAS4


class Rodas5P(Rosenbrock):
    """Steinebach's 5(4) pair, stiffly accurate: the default for stiff problems. Dense: order 4."""

    tableau: ClassVar[RosenbrockTableau] = rosenbrock.RODAS5P


class Auto(Switching):
    """Tsit5 until its steps are bound by stability, then Rodas5P, and back. Dense output: quartic.

    For a problem of which it is not known whether it is stiff.
    """

    explicit: ClassVar[ExplicitRungeKutta] = Tsit5()
    stiff: ClassVar[Rosenbrock] = Rodas5P()
    reach: ClassVar[float] = 3.5068


class SemiImplicitEuler(Symplectic):
    """The symplectic Euler method, a kick and a drift, order 1. Dense output: cubic Hermite."""

    tableau: ClassVar[SymplecticTableau] = symplectic.SEMI_IMPLICIT_EULER


class StormerVerlet(Symplectic):
    """The velocity form of Stormer and Verlet's method, order 2. Dense output: cubic Hermite."""

    tableau: ClassVar[SymplecticTableau] = symplectic.STORMER_VERLET


class Yoshida4(Symplectic):
    """Yoshida's triple jump, order 4, three forces a step. Dense output: cubic Hermite."""

    tableau: ClassVar[SymplecticTableau] = symplectic.YOSHIDA4


class Yoshida6(Symplectic):
    """Yoshida's solution A, order 6, seven forces a step. Dense output: order 5."""

    tableau: ClassVar[SymplecticTableau] = symplectic.YOSHIDA6


class McLachlan4(Symplectic):
    """McLachlan's method of order 4 with small errors, five forces a step. Dense: cubic Hermite."""

    tableau: ClassVar[SymplecticTableau] = symplectic.MCLACHLAN4


class Nystrom4(Nystrom):
    """Nystrom's method of order 4, fixed steps. Dense output: quintic through both ends."""

    tableau: ClassVar[NystromTableau] = nystrom.NYSTROM4


class DPRKN6(Nystrom):
    """The 6(4) pair RKN6(4)6FD of Dormand and Prince, adaptive. Dense output: order 6."""

    tableau: ClassVar[NystromTableau] = nystrom.DPRKN6


class Trapezoid(Esdirk):
    """The implicit trapezoidal rule, order 2, fixed steps. Dense output: quadratic."""

    tableau: ClassVar[EsdirkTableau] = esdirk.TRAPEZOID


class TRBDF2(Esdirk):
    """The 2(3) pair of Bank et al. and Hosea, Shampine, L-stable. Dense output: cubic Hermite."""

    tableau: ClassVar[EsdirkTableau] = esdirk.TRBDF2


class Kvaerno3(Esdirk):
    """Kvaerno's 3(2) pair, L-stable and stiffly accurate. Dense output: cubic Hermite."""

    tableau: ClassVar[EsdirkTableau] = esdirk.KVAERNO3


class Kvaerno5(Esdirk):
    """Kvaerno's 5(4) pair, L-stable and stiffly accurate. Dense output: quartic."""

    tableau: ClassVar[EsdirkTableau] = esdirk.KVAERNO5


class KenCarp4(Esdirk):
    """The 4(3) pair of Kennedy and Carpenter, implicit-explicit and L-stable. Dense: cubic.

    Of a field given as `(stiff, other)` it treats the first part implicitly and the second one
    explicitly; a single field implicitly.
    """

    tableau: ClassVar[ImexTableau] = esdirk.KENCARP4
    splits: ClassVar[bool] = True


class ImplicitEuler(Collocation):
    """The implicit Euler method, order 1, L-stable, adaptive. Dense output: linear."""

    tableau: ClassVar[CollocationTableau] = irk.IMPLICIT_EULER


class ImplicitMidpoint(Collocation):
    """The implicit midpoint rule, order 2, symplectic, fixed steps. Dense output: linear."""

    tableau: ClassVar[CollocationTableau] = irk.IMPLICIT_MIDPOINT


class GaussLegendre4(Collocation):
    """Gauss collocation with two stages, order 4, symplectic, fixed steps. Dense: quartic."""

    tableau: ClassVar[CollocationTableau] = irk.GAUSS_LEGENDRE4


class GaussLegendre6(Collocation):
    """Gauss collocation with three stages, order 6, symplectic, fixed steps. Dense: order 5."""

    tableau: ClassVar[CollocationTableau] = irk.GAUSS_LEGENDRE6


class RadauIIA5(Collocation):
    """Radau collocation with three stages, order 5, L-stable, adaptive. Dense output: quartic."""

    tableau: ClassVar[CollocationTableau] = irk.RADAU_IIA5


# The first name of a solver is its own; the others are what others say, among them torchdiffeq,
# torchdyn and SciPy.
SOLVERS: dict[str, type[Solver]] = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "ralston": Ralston,
    "rk4": RK4,
    "rk4_38": RK4ThreeEighths,
    "heun_euler": HeunEuler,
    "fehlberg2": Fehlberg2,
    "bosh3": Bosh3,
    "tsit5": Tsit5,
    "dopri5": Dopri5,
    "dopri8": Dopri8,
    "vern7": Vern7,
    "rosenbrock23": Rosenbrock23,
    "rodas4": Rodas4,
    "rodas5p": Rodas5P,
    "bdf": BDF,
    "adams": Adams,
    "ndf": BDF,
    "auto": Auto,
    "semi_implicit_euler": SemiImplicitEuler,
    "stormer_verlet": StormerVerlet,
    "yoshida4": Yoshida4,
    "yoshida6": Yoshida6,
    "mclachlan4": McLachlan4,
    "nystrom4": Nystrom4,
    "dprkn6": DPRKN6,
    "rkc2": RKC2,
    "reversible_heun": ReversibleHeun,
    "asynchronous_leapfrog": AsynchronousLeapfrog,
    "leapfrog": StormerVerlet,
    "velocity_verlet": StormerVerlet,
    "trapezoid": Trapezoid,
    "trbdf2": TRBDF2,
    "kvaerno3": Kvaerno3,
    "kvaerno5": Kvaerno5,
    "kencarp4": KenCarp4,
    "implicit_euler": ImplicitEuler,
    "implicit_midpoint": ImplicitMidpoint,
    "gauss_legendre4": GaussLegendre4,
    "gauss_legendre6": GaussLegendre6,
    "radau_iia5": RadauIIA5,
    "heun2": Heun,
    "adaptive_heun": HeunEuler,
    "rk23": Bosh3,
    "rk45": Dopri5,
    "dop853": Dopri8,
    "gl4": GaussLegendre4,
    "gl6": GaussLegendre6,
    "radau": RadauIIA5,
    "radau5": RadauIIA5,
}
