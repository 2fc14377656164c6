"""The Rosenbrock 2(3) pair of Shampine and Reichelt.

Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997).
"""

import math
from typing import ClassVar

from ..step_size import PID, Controller
from .rosenbrock import Rosenbrock
from .rosenbrock_tableau import RosenbrockTableau


def _rosenbrock23() -> RosenbrockTableau:
    r"""The pair 2(3) of Shampine and Reichelt, transformed from its classical form.

    With $g = 1 / (2 + \sqrt 2)$ and $e = 6 + \sqrt 2$ its classical coefficients are
    $\alpha_{21} = 1/2$, $\alpha_{32} = 1$, $\gamma_{21} = -g$, $\gamma_{31} = (e - 2) g$,
    $\gamma_{32} = -e g$, $b = (0, 1, 0)$, $\hat b = (1, 4, 1) / 6$. Then $h k_1 = U_1 / g$,
    $h k_2 = (U_1 + U_2) / g$ and $h k_3 = (2 U_1 + e U_2 + U_3) / g$. The third stage evaluates f
    at $(t + h, y_1)$, which is the first evaluation of the next step.
    """
    r, e = 2.0 + math.sqrt(2.0), 6.0 + math.sqrt(2.0)
    return RosenbrockTableau(
        order=2,
        embedded_order=3,
        gamma=1.0 / r,
        c=(0.0, 0.5, 1.0),
        d=(1.0 / r, 0.0, -1.0 / r),
        a=((0.5 * r,), (r, r)),
        C=((-r,), (-2.0 * r, -e * r)),
        m=(r, r, 0.0),
        error=(-r / 6.0, (2.0 - e) * r / 6.0, -r / 6.0),
        # 1 - 2 g = sqrt 2 - 1 = 1 / (1 + sqrt 2), and 2 g r = 2
        dense=((r, 0.0), (-2.0 * (r - 1.0), r * (r - 1.0)), (0.0, 0.0)),
    )


ROSENBROCK23_TABLEAU = _rosenbrock23()


class Rosenbrock23(Rosenbrock):
    """The 2(3) pair of Shampine and Reichelt, L-stable, for loose tolerances. Dense: order 2."""

    names: ClassVar[tuple[str, ...]] = ("rosenbrock23",)
    tableau: ClassVar[RosenbrockTableau] = ROSENBROCK23_TABLEAU

    def default_controller(self) -> Controller:
        # Its estimate is as large as its error, which adds up over many steps: so they are shorter.
        return PID(pcoeff=0.4, icoeff=0.3, factor_max_first=1e4)
