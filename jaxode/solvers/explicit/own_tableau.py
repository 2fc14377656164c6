"""A solver from a Butcher tableau that the user gives."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from ...problem.errors import OptionError
from .order_conditions import order_of
from .runge_kutta import ExplicitRungeKutta
from .tableau import ButcherTableau, Row, hermite_dense, linear_dense, quadratic_dense

_HIGHEST = 9  # no order above is looked for


class ExplicitTableau(ExplicitRungeKutta):
    r"""An explicit Runge-Kutta solver from its Butcher tableau.

    With $s$ stages a step is $y_1 = y + h \sum_i b_i k_i$, where
    $k_i = f(t + c_i h, y + h \sum_{j<i} a_{ij} k_j)$ and $c_i = \sum_j a_{ij}$. Its orders are
    found from the order conditions. Dense output is the cubic Hermite interpolant, of a method of
    order 2 a parabola, of order 1 a line.

    ```python
    sol = jo.solve(f, y0, ts, solver=jo.ExplicitTableau([[1.0]], b=[0.5, 0.5], embedded=[1.0, 0.0]))
    ```

    **Arguments:**

    - `a`: the rows of stages 2 to s, the first of one coefficient, the last of s - 1; numbers.
    - `b`: the s weights of the step.
    - `embedded`: the s weights of an embedded method, from which the step's estimates its error;
      without them steps are fixed. Its order is one below or above that of the step, as a rule.

    **Raises:** `OptionError` where rows do not fit together, or the step is not of order 1.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.1-II.6.
    """

    table: ButcherTableau = eqx.field(static=True)

    def __init__(
        self,
        a: Sequence[Sequence[float]],
        b: Sequence[float],
        embedded: Sequence[float] | None = None,
    ) -> None:
        rows = tuple(_numbers(f"row {i} of a", row, i + 1) for i, row in enumerate(_rows(a)))
        weights = _numbers("b", b, len(rows) + 1)
        companion = None if embedded is None else _numbers("embedded", embedded, len(weights))
        self.table = _tableau(rows, weights, companion)

    @property
    def tableau(self) -> ButcherTableau:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The checked tableau, with the coefficients of dense output."""
        return self.table


def _rows(a: Any) -> tuple[Any, ...]:
    try:
        return tuple(a)
    except (TypeError, ValueError) as error:
        raise OptionError(f"a of jo.ExplicitTableau must be rows of numbers, got {a!r}") from error


def _numbers(what: str, values: Any, count: int) -> Row:
    """These numbers. **Raises:** `OptionError` unless they are `count` finite numbers."""
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"{what} of jo.ExplicitTableau must be numbers, got {values!r}"
        ) from error
    if len(numbers) != count or not np.all(np.isfinite(numbers)):
        raise OptionError(
            f"{what} of jo.ExplicitTableau must hold {count} finite numbers, got {values!r}"
        )
    return numbers


def _tableau(a: tuple[Row, ...], b: Row, companion: Row | None) -> ButcherTableau:
    A = np.zeros((len(b), len(b)))
    for i, row in enumerate(a, 1):
        A[i, :i] = row
    order = order_of(A, np.array(b), _HIGHEST)
    if order == 0:
        raise OptionError(
            f"b of jo.ExplicitTableau sums to {sum(b):.6g}: a step needs a sum of one"
        )
    error = embedded_order = None
    if companion is not None:
        error = tuple(x - y for x, y in zip(b, companion, strict=True))
        embedded_order = order_of(A, np.array(companion), _HIGHEST)
        if not any(error) or embedded_order == 0:
            raise OptionError(
                "embedded of jo.ExplicitTableau must differ from b and sum to one, got "
                f"{companion!r}"
            )
    c = (0.0, *map(sum, a))
    if order <= 2:
        dense = (linear_dense if order == 1 else quadratic_dense)(b)
    elif a and b == (*a[-1], 0.0):
        dense = hermite_dense(b)
    else:  # one more stage, the slope at the end of the step
        a, c, dense = (*a, b), (*c, sum(b)), hermite_dense((*b, 0.0))
    return ButcherTableau(order, c, a, b, dense, embedded_order, error)
