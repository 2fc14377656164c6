"""Reference values from another code: extrapolation in Python's decimals, to as many as are asked.

Nothing of JAX or of jaxode takes part; `tests/benchmarks/test_references.py` compares it with
published digits. A field is a function of `t` and a list of decimals, and returns a list.

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.9 (Gragg,
Bulirsch, Stoer); Hairer, Wanner, II, section IV.9 (linearly implicit Euler, the method of SEULEX).
"""

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

Vector = list[Decimal]
Field = Callable[[Decimal, Vector], Vector]

COLUMNS = 12


def solve(
    field: Field, y0: Sequence, times: Sequence, *, stiff: bool = False, digits: int = 34
) -> list[Vector]:
    """The states at `times[1:]` of the solution that starts from `y0` at `times[0]`.

    Steps are accepted where the last two columns of the extrapolation agree to 14 digits less than
    `digits`, relative to one plus the size of each component.
    """
    make_row = _implicit_euler if stiff else _midpoint
    with localcontext() as context:
        context.prec = digits
        tolerance = Decimal(10) ** (14 - digits)
        t, *ends = map(Decimal, times)
        y, h, states = [Decimal(x) for x in y0], (ends[0] - t) / 1000, []
        for end in ends:
            while t < end:
                last = h >= end - t
                h = min(h, end - t)
                new, error = _step(field, make_row, t, y, h)
                if error <= tolerance:
                    t, y = end if last else t + h, new
                h *= _factor(float(tolerance / max(error, tolerance / 10**9)), stiff)
            states.append(y)
        return states


def _factor(ratio: float, stiff: bool) -> Decimal:
    order = COLUMNS if stiff else 2 * COLUMNS - 1
    return Decimal(min(4.0, max(0.1, 0.8 * ratio ** (1 / order))))


def _step(field: Field, make_row: Callable, t: Decimal, y: Vector, h: Decimal):
    """The extrapolated state, and its difference from that of one column less."""
    row_of, ratio_of = make_row(field, t, y, h)
    rows: list[list[Vector]] = []
    for j in range(1, COLUMNS + 1):
        row = [row_of(j)]
        for k in range(1, j):
            weight = ratio_of(j, j - k) - 1
            pairs = zip(row[k - 1], rows[-1][k - 1], strict=True)
            row.append([a + (a - b) / weight for a, b in pairs])
        rows.append(row)
    best, other = rows[-1][-1], rows[-1][-2]
    return best, max(abs(a - b) / (1 + abs(a)) for a, b in zip(best, other, strict=True))


def _midpoint(field: Field, t: Decimal, y: Vector, h: Decimal):
    """Gragg's rule of 2 j steps, whose error has even powers alone."""
    slope = field(t, y)

    def row(j: int) -> Vector:
        s = h / (2 * j)
        before, now = y, [a + s * b for a, b in zip(y, slope, strict=True)]
        for i in range(1, 2 * j):
            f = field(t + i * s, now)
            before, now = now, [a + 2 * s * b for a, b in zip(before, f, strict=True)]
        return now

    return row, lambda j, i: Decimal(j * j) / (i * i)


def _implicit_euler(field: Field, t: Decimal, y: Vector, h: Decimal):
    """j steps of the linearly implicit Euler rule of an autonomous field."""
    J = _jacobian(field, t, y)

    def row(j: int) -> Vector:
        s, now = h / j, y
        inverse = _inverse([[(i == k) - s * x for k, x in enumerate(r)] for i, r in enumerate(J)])
        for _ in range(j):
            f = field(t, now)
            move = [s * sum(a * b for a, b in zip(r, f, strict=True)) for r in inverse]
            now = [a + b for a, b in zip(now, move, strict=True)]
        return now

    return row, lambda j, i: Decimal(j) / i


def _jacobian(field: Field, t: Decimal, y: Vector) -> list[Vector]:
    """By central differences: the extrapolation needs it to a few digits."""
    columns = []
    for i, x in enumerate(y):
        step = Decimal("1e-12") * (abs(x) + Decimal("1e-12"))
        high, low = (field(t, [*y[:i], x + s, *y[i + 1 :]]) for s in (step, -step))
        columns.append([(a - b) / (2 * step) for a, b in zip(high, low, strict=True)])
    return [list(row) for row in zip(*columns, strict=True)]


def _inverse(matrix: list[Vector]) -> list[Vector]:
    """By Gauss-Jordan elimination with row pivots."""
    n = len(matrix)
    rows = [[*row, *(Decimal(i == k) for k in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(n):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]
