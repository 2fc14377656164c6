"""Runge-Kutta-Nystrom methods for second order equations whose right hand side has no velocity.

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
            raise ValueError("all rows of weights must speak of as many stages")
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


def _quintic(b: Row, bd: Row) -> tuple[Row, ...]:
    """The quintic with position, velocity and acceleration of both ends (the last stage's)."""
    rows = []
    for i, (position, velocity) in enumerate(zip(b, bd, strict=True)):
        start = float(i == 0)
        d, v, w = position - 0.5 * start, velocity - start, float(i == len(b) - 1) - start
        rows.append(
            (0.5 * start, 10 * d - 4 * v + 0.5 * w, 7 * v - 15 * d - w, 6 * d - 3 * v + 0.5 * w)
        )
    return tuple(rows)


# The fourth stage is f at the end of the step: it serves dense output, and the next step.
NYSTROM4 = NystromTableau(
    order=4,
    c=(0.0, 0.5, 1.0, 1.0),
    a=((1 / 8,), (0.0, 1 / 2), (1 / 6, 1 / 3, 0.0)),
    b=(1 / 6, 1 / 3, 0.0, 0.0),
    bd=(1 / 6, 2 / 3, 1 / 6, 0.0),
    dense=_quintic((1 / 6, 1 / 3, 0.0, 0.0), (1 / 6, 2 / 3, 1 / 6, 0.0)),
)

# The closed forms have r = sqrt(8581): c = (209 - r) / 900, (209 - r) / 450, (209 + r) / 450.
DPRKN6 = NystromTableau(
    order=6,
    embedded_order=4,
    c=(0.0, 0.12929590313670442, 0.25859180627340883, 0.67029708261548, 0.9, 1.0),
    a=(
        (0.008358715283968025,),
        (0.011144953711957367, 0.022289907423914734),
        (0.1454747428010918, -0.22986064052264749, 0.3090349872029675),
        (-0.20766826295078997, 0.6863667842925143, -0.19954927787234925, 0.12585075653062489),
        (0.07811016144349478, 0.0, 0.2882917411897668, 0.12242553717457041, 0.011172560192168035),
    ),
    b=(
        0.07811016144349478, 0.0, 0.2882917411897668, 0.12242553717457041, 0.011172560192168035,
        0.0,
    ),
    bd=(
        0.07811016144349478, 0.0, 0.3888434787059826, 0.3713207579288423, 0.11172560192168035,
        0.05,
    ),
    error_b=(
        -0.9807490989269235, 2.406751371924452, -1.559600370364267, 0.12242553717457041,
        0.011172560192168035, 0.0,
    ),
    error_bd=(
        0.023504273504273504, 0.0, -0.07242330719764424, 0.17543989844952962, -0.2765208647561589,
        0.15,
    ),
    dense=(
        (0.5, -1.245014245014245, 1.5161443494776827, -0.9066951566951567, 0.21367521367521367),
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 1.9859371988705032, -3.577652872294921, 2.5384011164109506, -0.6583937017967658),
        (0.0, -1.8559358276926614, 5.547586751052329, -5.164133553908094, 1.5949081677229964),
        (0.0, 2.178649237472767, -6.926987319144182, 7.273336685101391, -2.513826043237808),
        (0.0, -1.0636363636363637, 3.440909090909091, -3.7409090909090907, 1.3636363636363635),
    ),
)
