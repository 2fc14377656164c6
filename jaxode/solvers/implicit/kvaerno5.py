"""The ESDIRK 5(4) pair of Kvaerno.

Source: A. Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first stage, BIT
44 (2004).
"""

from typing import ClassVar

from .esdirk import Esdirk
from .esdirk_tableau import EsdirkTableau, error_weights

_KVAERNO5_LOW = (
    0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, 0.26,
)

_KVAERNO5 = (
    0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403,
    0.06962479448202728, 0.26,
)

# An unpublished interpolant of order 4: quartic, with a continuous slope and no weight on the
# second stage. The coefficients that the order conditions leave free minimise the residual of
# order 5.
_KVAERNO5_DENSE4 = (
    (1.0, -2.1386040292287545, 1.8235981055631205, -0.5483965645579632),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 0.41741895120628153, -1.0547142542740982, 0.5823262151024329),
    (0.0, -2.897581371186475, 5.6304176732401086, -2.774022569336844),
    (0.0, 3.613827049835065, -4.707921903709474, 1.724027902864573),
    (0.0, 0.5779590946289359, -0.8774190113297626, 0.369084711182854),
    (0.0, 0.42698030474494697, -0.8139606094898939, 0.6469803047449469),
)

KVAERNO5_TABLEAU = EsdirkTableau(
    order=5,
    embedded_order=4,
    gamma=0.26,
    c=(0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
    a=(
        (0.0,),
        (0.26, 0.26),
        (0.13, 0.84033320996790809, 0.26),
        (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, 0.26),
        (
            0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998,
            0.26,
        ),
        _KVAERNO5_LOW,
        _KVAERNO5,
    ),
    b=_KVAERNO5,
    error=error_weights(_KVAERNO5, (*_KVAERNO5_LOW, 0.0)),
    dense=_KVAERNO5_DENSE4,
)


class Kvaerno5(Esdirk):
    """Kvaerno's 5(4) pair, L-stable and stiffly accurate. Dense output: quartic.

    A stage lies after the end of the step. Where the field is not finite there, after the end of
    the solve, its value at the end takes that place, and always at a discontinuity; the error
    estimate sees the difference. That is tried beforehand; the trial is not counted.
    """

    names: ClassVar[tuple[str, ...]] = ("kvaerno5",)
    looks_ahead: ClassVar[bool] = True
    tableau: ClassVar[EsdirkTableau] = KVAERNO5_TABLEAU
