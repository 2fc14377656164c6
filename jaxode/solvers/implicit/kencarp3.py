"""The implicit-explicit 3(2) pair of Kennedy and Carpenter.

Source: C. A. Kennedy, M. H. Carpenter, Additive Runge-Kutta schemes for
convection-diffusion-reaction equations, Appl. Numer. Math. 44 (2003), method ARK3(2)4L[2]SA.
"""

from typing import ClassVar

from .esdirk import Esdirk
from .esdirk_tableau import EsdirkTableau, ImexTableau, error_weights

_GAMMA = 1767732205903 / 4055673282236
_KENCARP3 = (
    1471266399579 / 7840856788654, -4482444167858 / 7529755066697,
    11266239266428 / 11593286722821, _GAMMA,
)
_COMPANION = (
    2756255671327 / 12835298489170, -10771552573575 / 22201958757719,
    9247589265047 / 10645013368117, 2193209047091 / 5459859503100,
)

KENCARP3_TABLEAU = ImexTableau(
    implicit=EsdirkTableau(
        order=3,
        embedded_order=2,
        gamma=_GAMMA,
        c=(0.0, 2 * _GAMMA, 3 / 5, 1.0),
        a=(
            (0.0,),
            (_GAMMA, _GAMMA),
            (2746238789719 / 10658868560708, -640167445237 / 6845629431997, _GAMMA),
            _KENCARP3,
        ),
        b=_KENCARP3,
        # The published companion differs from a large linear step by a fifth of its error: the
        # estimate is half as much again.
        error=tuple(1.5 * x for x in error_weights(_KENCARP3, _COMPANION)),
        # the published interpolant, of order 2
        dense=(
            (4655552711362 / 22874653954995, -215264564351 / 13552729205753),
            (-18682724506714 / 9892148508045, 17870216137069 / 13817060693119),
            (34259539580243 / 13192909600954, -28141676662227 / 17317692491321),
            (584795268549 / 6622622206610, 2508943948391 / 7218656332882),
        ),
    ),
    explicit=(
        (2 * _GAMMA,),
        (5535828885825 / 10492691773637, 788022342437 / 10882634858940),
        (
            6485989280629 / 16251701735622, -4246266847089 / 9704473918619,
            10755448449292 / 10357097424841,
        ),
    ),
)


class KenCarp3(Esdirk):
    """The 3(2) pair of Kennedy and Carpenter, implicit-explicit and L-stable. Dense: quadratic.

    Of a field given as `(stiff, other)` it treats the first part implicitly and the second one
    explicitly; a single field implicitly.
    """

    names: ClassVar[tuple[str, ...]] = ("kencarp3",)
    tableau: ClassVar[ImexTableau] = KENCARP3_TABLEAU
    imex: ClassVar[bool] = True
