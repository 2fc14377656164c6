"""Nystrom's method of order 4.

Source: E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I (1993),
section II.14.
"""

from typing import ClassVar

from .nystrom import Nystrom
from .nystrom_tableau import NystromTableau, quintic_dense

# The fourth stage is f at the end of the step: it serves dense output, and the next step.
NYSTROM4_TABLEAU = NystromTableau(
    order=4,
    c=(0.0, 0.5, 1.0, 1.0),
    a=((1 / 8,), (0.0, 1 / 2), (1 / 6, 1 / 3, 0.0)),
    b=(1 / 6, 1 / 3, 0.0, 0.0),
    bd=(1 / 6, 2 / 3, 1 / 6, 0.0),
    dense=quintic_dense((1 / 6, 1 / 3, 0.0, 0.0), (1 / 6, 2 / 3, 1 / 6, 0.0)),
)


class Nystrom4(Nystrom):
    """Nystrom's method of order 4, fixed steps. Dense output: quintic through both ends."""

    names: ClassVar[tuple[str, ...]] = ("nystrom4",)
    tableau: ClassVar[NystromTableau] = NYSTROM4_TABLEAU
