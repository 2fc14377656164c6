"""Methods of order one to four.

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), tables II.1.1,
II.1.2 and section II.4, unless a method names its own.
"""

from typing import ClassVar

from .runge_kutta import ExplicitRungeKutta
from .tableau import ButcherTableau, hermite_dense, linear_dense, quadratic_dense

EULER_TABLEAU = ButcherTableau(order=1, c=(0.0,), a=(), b=(1.0,), dense=linear_dense((1.0,)))

MIDPOINT_TABLEAU = ButcherTableau(
    order=2, c=(0.0, 0.5), a=((0.5,),), b=(0.0, 1.0), dense=quadratic_dense((0.0, 1.0))
)

HEUN_TABLEAU = ButcherTableau(
    order=2, c=(0.0, 1.0), a=((1.0,),), b=(0.5, 0.5), dense=quadratic_dense((0.5, 0.5))
)

# A. Ralston, Runge-Kutta methods with minimum error bounds, Math. Comp. 16 (1962).
RALSTON_TABLEAU = ButcherTableau(
    order=2, c=(0.0, 2 / 3), a=((2 / 3,),), b=(0.25, 0.75), dense=quadratic_dense((0.25, 0.75))
)

# The fourth stage is the slope at the end of the step.
_HEUN3 = (0.25, 0.0, 0.75)
HEUN3_TABLEAU = ButcherTableau(
    order=3,
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((1 / 3,), (0.0, 2 / 3), _HEUN3),
    b=_HEUN3,
    dense=hermite_dense((*_HEUN3, 0.0)),
)

# The fifth stage of the two methods of order four is the slope at the end of the step.
_CLASSIC = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
RK4_TABLEAU = ButcherTableau(
    order=4,
    c=(0.0, 0.5, 0.5, 1.0, 1.0),
    a=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0), _CLASSIC),
    b=_CLASSIC,
    dense=hermite_dense((*_CLASSIC, 0.0)),
)

_THREE_EIGHTHS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
RK4_38_TABLEAU = ButcherTableau(
    order=4,
    c=(0.0, 1 / 3, 2 / 3, 1.0, 1.0),
    a=((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0), _THREE_EIGHTHS),
    b=_THREE_EIGHTHS,
    dense=hermite_dense((*_THREE_EIGHTHS, 0.0)),
)

HEUN_EULER_TABLEAU = ButcherTableau(
    order=2,
    embedded_order=1,
    c=(0.0, 1.0),
    a=((1.0,),),
    b=(0.5, 0.5),
    error=(-0.5, 0.5),
    dense=quadratic_dense((0.5, 0.5)),
)

# E. Fehlberg, Low-order classical Runge-Kutta formulas with stepsize control, NASA TR R-315
# (1969), table II: the second-order solution of the pair of orders 2 and 1. Their difference is a
# ninth to a fiftieth of the error where steps are long. The estimate is twice the difference from
# Simpson's weights, which is one to two times the error.
_FEHLBERG = (1 / 512, 255 / 256, 1 / 512)
_TWICE = 2 * (1 / 512 - 1 / 6)
FEHLBERG2_TABLEAU = ButcherTableau(
    order=2,
    embedded_order=2,
    c=(0.0, 0.5, 1.0),
    a=((0.5,), (1 / 256, 255 / 256)),
    b=_FEHLBERG,
    error=(_TWICE, -2 * _TWICE, _TWICE),
    dense=quadratic_dense(_FEHLBERG),
)

# P. Bogacki, L. F. Shampine, A 3(2) pair of Runge-Kutta formulas, Appl. Math. Lett. 2 (1989).
_BOSH3 = (2 / 9, 1 / 3, 4 / 9, 0.0)
BOSH3_TABLEAU = ButcherTableau(
    order=3,
    embedded_order=2,
    c=(0.0, 0.5, 0.75, 1.0),
    a=((0.5,), (0.0, 0.75), (2 / 9, 1 / 3, 4 / 9)),
    b=_BOSH3,
    error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    dense=hermite_dense(_BOSH3),
)


class Euler(ExplicitRungeKutta):
    """Euler's method, order 1, fixed steps. Dense output: linear."""

    names: ClassVar[tuple[str, ...]] = ("euler",)
    tableau: ClassVar[ButcherTableau] = EULER_TABLEAU


class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule, order 2, fixed steps. Dense output: quadratic."""

    names: ClassVar[tuple[str, ...]] = ("midpoint",)
    tableau: ClassVar[ButcherTableau] = MIDPOINT_TABLEAU


class Heun(ExplicitRungeKutta):
    """Heun's method, order 2, fixed steps. Dense output: quadratic."""

    names: ClassVar[tuple[str, ...]] = ("heun", "heun2")
    tableau: ClassVar[ButcherTableau] = HEUN_TABLEAU


class Ralston(ExplicitRungeKutta):
    """Ralston's method, order 2 with the least error bound, fixed steps. Dense: quadratic."""

    names: ClassVar[tuple[str, ...]] = ("ralston",)
    tableau: ClassVar[ButcherTableau] = RALSTON_TABLEAU


class Heun3(ExplicitRungeKutta):
    """Heun's method of order 3, fixed steps. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("heun3",)
    tableau: ClassVar[ButcherTableau] = HEUN3_TABLEAU


class RK4(ExplicitRungeKutta):
    """The classical Runge-Kutta method, order 4, fixed steps. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("rk4",)
    tableau: ClassVar[ButcherTableau] = RK4_TABLEAU


class RK4ThreeEighths(ExplicitRungeKutta):
    """Kutta's 3/8 rule, order 4, fixed steps. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("rk4_38",)
    tableau: ClassVar[ButcherTableau] = RK4_38_TABLEAU


class HeunEuler(ExplicitRungeKutta):
    """The Heun-Euler pair 2(1), adaptive. Dense output: quadratic."""

    names: ClassVar[tuple[str, ...]] = ("heun_euler", "adaptive_heun")
    tableau: ClassVar[ButcherTableau] = HEUN_EULER_TABLEAU


class Fehlberg2(ExplicitRungeKutta):
    """Fehlberg's method of order 2, adaptive, with an estimate that bounds its error.

    Dense output: quadratic.
    """

    names: ClassVar[tuple[str, ...]] = ("fehlberg2",)
    tableau: ClassVar[ButcherTableau] = FEHLBERG2_TABLEAU


class Bosh3(ExplicitRungeKutta):
    """The 3(2) pair of Bogacki and Shampine, adaptive. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("bosh3", "rk23")
    tableau: ClassVar[ButcherTableau] = BOSH3_TABLEAU
