"""Tableaus of diagonally implicit methods with an explicit first stage, and of IMEX pairs.

Sources: A. Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first stage,
BIT 44 (2004); M. E. Hosea, L. F. Shampine, Analysis and implementation of TR-BDF2, Appl. Numer.
Math. 20 (1996); C. A. Kennedy, M. H. Carpenter, Additive Runge-Kutta schemes for
convection-diffusion-reaction equations, Appl. Numer. Math. 44 (2003), method ARK4(3)6L[2]SA.
"""

import dataclasses
import math

Row = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class EsdirkTableau:
    r"""A singly diagonally implicit pair with an explicit first stage, and its dense output.

    The step is $y_1 = y + h \sum_i b_i k_i$ with
    $k_i = f(t + c_i h,\; y + h \sum_{j \le i} a_{ij} k_j)$, where $a_{11} = 0$ and every other
    $a_{ii}$ is $\gamma$. Dense output is $y(t + \theta h) = y + h \sum_i \sum_j P_{ij}
    \theta^{j+1} k_i$. All methods here are stiffly accurate: `b` is the last row of `a`, so that
    the last stage is $y_1$ and its slope is the first stage of the next step.

    **Fields:**

    - `order`: order of the step. `embedded_order`: order of the companion, or `None` without one.
    - `gamma`: the diagonal coefficient. `c`: the abscissae, one per stage.
    - `a`: row $i$ holds $i + 1$ coefficients, the diagonal one among them.
    - `b`: the weights of the step. `error`: $b - \hat b$, the weights of the error estimate.
    - `dense`: $P$, a row of polynomial coefficients per stage.
    - `filtered`: whether the estimate is multiplied by $(I - h \gamma J)^{-1}$, for a companion
      that grows with the stiffness.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    order: int
    embedded_order: int | None
    gamma: float
    c: Row
    a: tuple[Row, ...]
    b: Row
    error: Row | None
    dense: tuple[Row, ...]
    filtered: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != i + 1 for i, row in enumerate(self.a)):
            raise ValueError("row i of `a` must hold i + 1 coefficients")
        rows = (self.a, self.c, self.b, self.error or self.b, self.dense)
        if len(set(map(len, rows))) != 1:
            raise ValueError("`c`, `a`, `b`, `error` and `dense` need one row per stage")
        if [row[-1] for row in self.a] != [0.0] + [self.gamma] * (len(self.a) - 1):
            raise ValueError("the diagonal of `a` must be zero, then gamma throughout")
        for abscissa, row in zip(self.c, self.a, strict=True):
            if abs(sum(row) - abscissa) > 1e-12 * max(1.0, sum(map(abs, row))):
                raise ValueError(f"a row of `a` sums to {sum(row)}, not to its c of {abscissa}")
        if self.a[-1] != self.b:
            raise ValueError("the last stage must be the end of the step")

    @property
    def stages(self) -> int:
        """Stages of the step, the explicit first one among them."""
        return len(self.b)

    @property
    def guesses(self) -> tuple[Row, ...]:
        """Weights that extrapolate the slope of stage $i + 1$ from earlier stages, in row $i$.

        By the parabola through the three stages nearest in time, or the latest at the same time.
        """
        return tuple(_extrapolation(self.c[:i], self.c[i]) for i in range(1, self.stages))


def _extrapolation(c: Row, target: float) -> Row:
    """The weights of values at the nodes `c` in the extrapolated value at `target`."""
    latest = {node: i for i, node in enumerate(c)}
    nodes = [target] if target in latest else sorted(latest, key=lambda x: abs(x - target))[:3]
    weights = [0.0] * len(c)
    for node in nodes:
        others = [other for other in nodes if other != node]
        weights[latest[node]] = math.prod((target - other) / (node - other) for other in others)
    return tuple(weights)


@dataclasses.dataclass(frozen=True)
class ImexTableau:
    r"""A pair for $y' = f_I(t, y) + f_E(t, y)$ that treats the second part explicitly.

    $Y_i = y + h \sum_{j \le i} a_{ij} f_I(t + c_j h, Y_j) + h \sum_{j < i} \tilde a_{ij}
    f_E(t + c_j h, Y_j)$. Abscissae, weights, error estimate and dense output are those of
    `implicit`, applied to $k_i = f_I + f_E$ at stage $i$.

    **Fields:**

    - `implicit`: the implicit method.
    - `explicit`: $\tilde a$, row $i$ holds the $i$ coefficients of stage $i + 1$.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    implicit: EsdirkTableau
    explicit: tuple[Row, ...]

    @property
    def order(self) -> int:
        """Order of the step."""
        return self.implicit.order

    @property
    def embedded_order(self) -> int | None:
        """Order of the companion, or `None` without one."""
        return self.implicit.embedded_order

    def __post_init__(self) -> None:
        if [len(row) for row in self.explicit] != list(range(1, self.implicit.stages)):
            raise ValueError("row i of `explicit` must hold i + 1 coefficients")
        for abscissa, row in zip(self.implicit.c[1:], self.explicit, strict=True):
            if abs(sum(row) - abscissa) > 1e-12 * max(1.0, sum(map(abs, row))):
                raise ValueError(f"an explicit row sums to {sum(row)}, not to its c of {abscissa}")


def error_weights(b: Row, companion: Row) -> Row:
    """The weights of the error estimate: those of the step less those of its companion."""
    return tuple(x - y for x, y in zip(b, companion, strict=True))
