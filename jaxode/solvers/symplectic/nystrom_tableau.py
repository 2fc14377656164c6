"""Tableaus of Runge-Kutta-Nystrom methods, for equations y'' = f(t, y).

Sources: E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I (1993),
section II.14 (Nystrom's method of order 4); J. R. Dormand, P. J. Prince, Runge-Kutta-Nystrom
triples, Comput. Math. Appl. 13 (1987), table 2 (the triple RKN6(4)6FD, of the family of
J. R. Dormand, M. E. A. El-Mikkawy, P. J. Prince, IMA J. Numer. Anal. 7 (1987)).
"""

import dataclasses

Row = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class NystromTableau:
    r"""An explicit method for $y'' = f(t, y)$, with its dense output.

    With $k_i = f(t + c_i h,\; y + c_i h y' + h^2 \sum_{j<i} a_{ij} k_j)$ the step is
    $y_1 = y + h y' + h^2 \sum_i b_i k_i$, $y'_1 = y' + h \sum_i \bar b_i k_i$, and dense output is
    $y(t + \theta h) = y + \theta h y' + h^2 \sum_i \sum_j P_{ij} \theta^{j+2} k_i$; its derivative
    $y'(t + \theta h) = y' + h \sum_i \sum_j (j + 2) P_{ij} \theta^{j+1} k_i$ is dense output of the
    velocity ($j$ counts from zero). The last stage of both methods is f at the end of the step.

    **Fields:**

    - `order`: order of the step. `embedded_order`: order of the companion, or `None`.
    - `c`: the abscissae. `a`: row $i$ holds the $i$ coefficients of stage $i + 1$.
    - `b`: weights of the position. `bd`: $\bar b$, weights of the velocity.
    - `error_b`, `error_bd`: weights of the step less those of the companion, for both.
    - `dense`: $P$, a row of polynomial coefficients per stage, from $\theta^2$ on.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    bd: Row
    dense: tuple[Row, ...]
    embedded_order: int | None = None
    error_b: Row | None = None
    error_bd: Row | None = None

    def __post_init__(self) -> None:
        if any(len(row) != i + 1 for i, row in enumerate(self.a)):
            raise ValueError("row i of `a` must hold i + 1 coefficients")
        if len(self.a) + 1 != self.stages or any(len(row) != self.stages for row in self._rows):
            raise ValueError("all rows of weights must have the same number of stages")
        for abscissa, row in zip(self.c[1:], self.a, strict=True):
            if abs(sum(row) - 0.5 * abscissa * abscissa) > 1e-14:
                raise ValueError(f"a row of `a` sums to {sum(row)}: not half of {abscissa} squared")

    @property
    def _rows(self) -> list[Row]:
        estimates = [row for row in (self.error_b, self.error_bd) if row is not None]
        return [self.b, self.bd, *estimates]

    @property
    def stages(self) -> int:
        """Stages of the step, the one at its end among them."""
        return len(self.c)


def quintic_dense(b: Row, bd: Row) -> tuple[Row, ...]:
    """The quintic with position, velocity and acceleration of both ends (the last stage's)."""
    rows = []
    for i, (position, velocity) in enumerate(zip(b, bd, strict=True)):
        start = float(i == 0)
        d, v, w = position - 0.5 * start, velocity - start, float(i == len(b) - 1) - start
        rows.append(
            (0.5 * start, 10 * d - 4 * v + 0.5 * w, 7 * v - 15 * d - w, 6 * d - 3 * v + 0.5 * w)
        )
    return tuple(rows)
