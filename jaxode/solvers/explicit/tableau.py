"""Butcher tableaus of explicit Runge-Kutta methods, checked, and generic dense output."""

import dataclasses

Row = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ButcherTableau:
    r"""An explicit Runge-Kutta pair with its dense output.

    With $s$ stages the step is $y_1 = y + h \sum_i b_i k_i$ with
    $k_i = f(t + c_i h,\; y + h \sum_{j<i} a_{ij} k_j)$, and dense output is
    $y(t + \theta h) = y + h \sum_i \sum_j P_{ij} \theta^{j+1} k_i$.

    **Fields:**

    - `order`: order of the step. `embedded_order`: order of the embedded method, or `None`
      without an error estimate.
    - `c`: the abscissae, one per stage; stages beyond `len(b)` serve dense output alone.
    - `a`: row $i$ holds the $i$ coefficients of stage $i + 1$ (the first stage has none).
    - `b`: the weights of the step. `error`: $b - \hat b$, the weights of the error estimate.
    - `error_low`: weights of a second estimate, of lower order, that damps the first (DOP853).
    - `dense`: $P$, a row of polynomial coefficients per stage.

    **Raises:** `ValueError` when the rows do not fit together.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.1-II.6.
    """

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    dense: tuple[Row, ...]
    embedded_order: int | None = None
    error: Row | None = None
    error_low: Row | None = None

    def __post_init__(self) -> None:
        if any(len(row) != i + 1 for i, row in enumerate(self.a)):
            raise ValueError("row i of `a` must hold i + 1 coefficients")
        if len(self.a) + 1 != len(self.c) or len(self.dense) != len(self.c):
            raise ValueError("`c`, `a` and `dense` must have the same number of stages")
        for estimate in (self.error, self.error_low):
            if estimate is not None and len(estimate) != len(self.b):
                raise ValueError("an error estimate needs one weight per stage of the step")
        for abscissa, row in zip(self.c[1:], self.a, strict=True):
            if abs(sum(row) - abscissa) > 1e-12 * max(1.0, sum(map(abs, row))):
                raise ValueError(f"a row of `a` sums to {sum(row)}, not to its c of {abscissa}")

    @property
    def stages(self) -> int:
        """Number of stages of the step itself."""
        return len(self.b)

    @property
    def extra_stages(self) -> int:
        """Number of further stages that dense output inside the step needs."""
        return len(self.c) - len(self.b)

    @property
    def first_same_as_last(self) -> bool:
        """True if the last stage is the slope at the end of the step (FSAL)."""
        last = self.a[self.stages - 2] if self.stages > 1 else ()
        return self.stages > 1 and self.b == (*last, 0.0)


def linear_dense(b: Row) -> tuple[Row, ...]:
    """Dense rows of the straight line from start to end of the step: order 1."""
    return tuple((weight,) for weight in b)


def quadratic_dense(b: Row) -> tuple[Row, ...]:
    """Dense rows of the parabola through both ends with the slope at the start: order 2."""
    first = [float(i == 0) for i in range(len(b))]
    return tuple((s, w - s) for s, w in zip(first, b, strict=True))


def hermite_dense(b: Row) -> tuple[Row, ...]:
    """Dense rows of the cubic through both ends with both slopes: order 3.

    `b` has one weight per stage, and the last stage is the slope at the end of the step.
    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), (II.6.7).
    """
    last = len(b) - 1
    start = [float(i == 0) for i in range(len(b))]
    end = [float(i == last) for i in range(len(b))]
    return tuple(
        (s, 3.0 * w - 2.0 * s - e, s + e - 2.0 * w) for s, e, w in zip(start, end, b, strict=True)
    )
