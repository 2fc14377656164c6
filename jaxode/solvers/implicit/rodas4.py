"""The Rosenbrock method Rodas4 of Hairer and Wanner.

Source: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), section VI.4, and
the authors' code rodas.f.
"""

from typing import ClassVar

from .rosenbrock import Rosenbrock
from .rosenbrock_tableau import RosenbrockTableau, dense_rows_of

_RODAS4 = (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895)

RODAS4_TABLEAU = RosenbrockTableau(
    order=4,
    embedded_order=3,
    gamma=0.25,
    c=(0.0, 0.386, 0.21, 0.63, 1.0, 1.0),
    d=(0.25, -0.1043, 0.1035, -0.0362, 0.0, 0.0),
    a=(
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        _RODAS4,
        (*_RODAS4, 1.0),
    ),
    C=(
        (-5.6688,),
        (-2.430093356833875, -0.2063599157091915),
        (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
        (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.7089089320616),
        (
            8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136,
            -6.058818238834054,
        ),
    ),
    m=(*_RODAS4, 1.0, 1.0),
    error=(0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    dense=dense_rows_of(
        (*_RODAS4, 1.0, 1.0),
        (
            10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823,
            1.025137723295662, 0.0,
        ),
        (
            -0.6762803392801253, 6.087714651680015, 16.43084320892478, 24.76722511418386,
            -6.594389125716872, 0.0,
        ),
    ),
)


class Rodas4(Rosenbrock):
    """The 4(3) pair of Hairer and Wanner, stiffly accurate. Dense output: order 3."""

    names: ClassVar[tuple[str, ...]] = ("rodas4",)
    tableau: ClassVar[RosenbrockTableau] = RODAS4_TABLEAU
