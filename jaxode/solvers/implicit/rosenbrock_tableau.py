"""Tableaus of Rosenbrock methods, in the form of Hairer and Wanner without products with J.

Sources: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997);
E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), sections IV.7 and VI.4, and
the authors' code rodas.f; G. Steinebach, Construction of Rosenbrock-Wanner method Rodas5P and
numerical benchmarks within the Julia Differential Equations package, BIT 63:27 (2023).
"""

import dataclasses
import itertools

Row = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class RosenbrockTableau:
    r"""A linearly implicit pair for $M y' = f(t, y)$, with its dense output.

    With $J = f_y(t, y)$ and $f_t$ taken at the start of the step, stage $i$ solves
    $$\Bigl(\frac{M}{h \gamma} - J\Bigr) U_i = f\Bigl(t + c_i h,\; y + \sum_{j<i} a_{ij} U_j\Bigr)
      + \frac{M}{h} \sum_{j<i} C_{ij} U_j + h d_i f_t,$$
    the step is $y_1 = y + \sum_i m_i U_i$, its error estimate is $\sum_i e_i U_i$, and dense output
    is $y(t + \theta h) = y + \sum_i \sum_j P_{ij} \theta^{j+1} U_i$. `M` may be singular: Rodas4
    and Rodas5P keep their order on differential-algebraic equations of index 1.

    With $\Gamma$ the lower triangular matrix of the classical form (its diagonal is $\gamma$) and
    $k_i$ the classical stages, $U = h \Gamma k$, $\Gamma^{-1} = I / \gamma - C$,
    $\alpha = a \Gamma$, $b = \Gamma^T m$, $c_i = \sum_j \alpha_{ij}$, $d_i = \sum_j \Gamma_{ij}$.

    **Fields:**

    - `order`: order of the step. `embedded_order`: order of the companion $y_1 - \sum_i e_i U_i$.
    - `gamma`: the diagonal coefficient. `c`, `d`: one coefficient per stage.
    - `a`, `C`: row $i$ holds the $i$ coefficients of stage $i + 1$ (the first stage has none).
    - `m`: the weights of the step. `error`: $e$, the weights of the error estimate.
    - `dense`: $P$, a row of polynomial coefficients per stage.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    order: int
    embedded_order: int
    gamma: float
    c: Row
    d: Row
    a: tuple[Row, ...]
    C: tuple[Row, ...]
    m: Row
    error: Row
    dense: tuple[Row, ...]

    def __post_init__(self) -> None:
        for rows in (self.a, self.C):
            if len(rows) != self.stages - 1 or any(len(r) != i + 1 for i, r in enumerate(rows)):
                raise ValueError("row i of `a` and of `C` must hold i + 1 coefficients")
        if not len(self.c) == len(self.d) == len(self.error) == len(self.dense) == self.stages:
            raise ValueError("`c`, `d`, `m`, `error` and `dense` need one row per stage")
        for weight, row in zip(self.m, self.dense, strict=True):
            if abs(sum(row) - weight) > 1e-12 * max(1.0, sum(map(abs, row))):
                raise ValueError(f"a row of `dense` ends at {sum(row)}, not at its m of {weight}")

    @property
    def stages(self) -> int:
        """Stages of the step."""
        return len(self.m)

    @property
    def stiffly_accurate(self) -> bool:
        """True if the last stage is evaluated at $y_1 - U_s$: then $U_s$ is the error estimate."""
        return self.m == (*self.a[-1], 1.0)


def dense_rows_of(m: Row, *corrections: Row) -> tuple[Row, ...]:
    r"""Dense rows of $\theta m + \theta (1 - \theta) (q_1 + \theta q_2 + \dots)$ by powers."""
    padded = [(0.0,) * len(m), *corrections, (0.0,) * len(m)]
    columns = [
        tuple(high - low for high, low in zip(after, before, strict=True))
        for before, after in itertools.pairwise(padded)
    ]
    columns[0] = tuple(weight + first for weight, first in zip(m, columns[0], strict=True))
    return tuple(zip(*columns, strict=True))
