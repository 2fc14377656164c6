r"""Tableaus of collocation methods, and the coefficients that follow from them.

Sources: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), sections IV.5 and
IV.8, and the authors' code radau5.f; E. Hairer, C. Lubich, G. Wanner, Geometric Numerical
Integration (2006), section II.1.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

Row = tuple[float, ...]


class EigenBlock(NamedTuple):
    r"""The block of an eigenvalue, or of a complex pair, in $A^{-1} = T \Lambda T^{-1}$.

    `matrix` is the block of $\Lambda$, `basis` its columns of $T$, `project` its rows of
    $\Lambda T^{-1}$. The block of the real eigenvalue is divided by it: its system has the matrix
    $M - h \gamma_0 J$.
    """

    matrix: tuple[Row, ...]
    basis: tuple[Row, ...]
    project: tuple[Row, ...]


def _rows(matrix: np.ndarray) -> tuple[Row, ...]:
    return tuple(tuple(row) for row in matrix.tolist())


@dataclasses.dataclass(frozen=True)
class CollocationTableau:
    r"""A fully implicit method: the polynomial whose slope is f at `c`, for $M y' = f(t, y)$.

    With $s$ stages the increments $Z_i = Y_i - y$ solve
    $M Z_i = h \sum_j A_{ij} f(t + c_j h, y + Z_j)$, and the collocation polynomial is
    $u(t + \theta h) = y + \sum_{ij} P_{ij} \theta^{j+1} h k_i = y + \sum_{ij} Q_{ij} \theta^{j+1}
    Z_i$ with $M k_i = f(t + c_i h, Y_i)$, that is $Q = A^{-T} P$. The step is $y_1 = u(t + h)$: for
    Radau methods, $y + Z_s$. Inside the step $u$ has order $s$.

    **Error estimate.** The defect of the polynomial at the start of the step, filtered, after
    Hairer and Wanner: solve
    $$\Bigl(\frac{M}{h \gamma_0} - J\Bigr)\, e = f(t, y) - \frac{M}{h} \sum_i Q_{i1} Z_i .$$
    Without the filter, $e = h \gamma_0 (M^{-1} f(t, y) - u'(t))$ is $\hat y_1 - y_1$ for the
    companion $\hat y_1 = y + h \gamma_0 k_0 + h \sum_i (b_i - \gamma_0 P_{i1}) k_i$ of order $s$,
    which has an explicit stage $k_0$ at $c = 0$. The filter keeps the power of $h$ and makes the
    estimate bounded for stiff components ($e \to -y$ for Radau). After a rejected step, or in the
    first one, Hairer and Wanner filter twice: they replace $f(t, y)$ by $f(t, y + e)$ in the right
    hand side and solve once more, after which $e \to 0$ for infinitely stiff components.
    $\gamma_0$ is the inverse of the real eigenvalue of $A^{-1}$ where there is one, so that the
    matrix of the filter is one that the Newton iteration has factored already.

    The symmetric (Gauss) methods are used with fixed steps and have no estimate here: this one
    would be of an order far below the step's, and the difference of the defects at both ends, one
    order better, vanishes on linear problems, where the defect is a multiple of the Legendre
    polynomial with zeros at `c`.

    **Fields:**

    - `order`: order of the step. `embedded_order`: that of the companion, or `None` without one.
    - `c`, `A`, `b`: the Butcher tableau.
    - `gamma0`: $\gamma_0$ of the error estimate.
    - `dense`: $P$, polynomial coefficients per slope $h k_i$.
    - `increments`: $Q$, polynomial coefficients per increment $Z_i$.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    order: int
    embedded_order: int | None
    c: Row
    A: tuple[Row, ...]
    b: Row
    gamma0: float
    dense: tuple[Row, ...]
    increments: tuple[Row, ...]

    def __post_init__(self) -> None:
        for rows in (self.A, self.dense, self.increments):
            if any(len(row) != self.stages for row in rows) or len(rows) != self.stages:
                raise ValueError("`A`, `dense` and `increments` must be square")
        for abscissa, row in zip(self.c, self.A, strict=True):
            if abs(sum(row) - abscissa) > 1e-14:
                raise ValueError(f"a row of `A` sums to {sum(row)}, not to its c of {abscissa}")

    @property
    def stages(self) -> int:
        """Stages of the step."""
        return len(self.b)

    @property
    def corrections(self) -> tuple[Row, ...]:
        r"""Coefficients, from $\theta$ on, of polynomials that change the slope at one end alone.

        There is one for the start, and one for the end unless it is a stage. Multiplied by $h$ and
        the defect of $u$ there, and added to $u$, they give dense output of order $s + 1$. They
        vanish at both ends and their slopes vanish at `c`. A method of one stage has none.
        """
        nodes = (0.0, *self.c) if self.stiffly_accurate else (0.0, *self.c, 1.0)
        ends = (0,) if self.stiffly_accurate else (0, len(nodes) - 1)
        slopes = [_lagrange(nodes, i) for i in ends if self.stages > 1]
        return tuple(tuple(x / (j + 1) for j, x in enumerate(p)) for p in slopes)

    @property
    def blocks(self) -> "tuple[EigenBlock, ...]":
        r"""The blocks of $A^{-1} = T \Lambda T^{-1}$: real eigenvalue, then complex pair."""
        eigen: Any = np.linalg.eig(np.linalg.inv(np.array(self.A)))
        values, vectors = eigen.eigenvalues, eigen.eigenvectors
        chosen = [i for i in range(self.stages) if values[i].imag >= 0]
        parts = [np.stack([vectors[:, i].real, vectors[:, i].imag], 1) for i in chosen]
        parts = [p if values[i].imag else p[:, :1] for i, p in zip(chosen, parts, strict=True)]
        inverse, blocks, first = np.linalg.inv(np.concatenate(parts, axis=1)), [], 0
        for i, part in zip(chosen, parts, strict=True):
            a, b, size = values[i].real, values[i].imag, part.shape[1]
            rows, first = inverse[first : first + size], first + size
            matrix = np.array([[a, b], [-b, a]] if size == 2 else [[1.0]])
            blocks.append(EigenBlock(_rows(matrix), _rows(part), _rows(matrix @ rows)))
        return tuple(blocks)

    @property
    def stiffly_accurate(self) -> bool:
        """True if the last stage is the end of the step (stiffly accurate)."""
        return self.A[-1] == self.b


def _lagrange(nodes: Row, i: int) -> list[float]:
    """The coefficients, constant first, of the Lagrange polynomial of node `i`."""
    p = [1.0]
    for j, node in enumerate(nodes):
        if j != i:
            gap = nodes[i] - node
            p = [(x - node * y) / gap for x, y in zip([0.0, *p], [*p, 0.0], strict=True)]
    return p


def collocation_tableau(
    order: int,
    c: Row,
    A: tuple[Row, ...],
    b: Row,
    gamma0: float,
    adaptive: bool = False,
) -> CollocationTableau:
    """The tableau of a collocation method, with the coefficients that follow from `c`, `A`, `b`."""
    slopes = [_lagrange(c, i) for i in range(len(c))]
    return CollocationTableau(
        order=order,
        embedded_order=len(c) if adaptive else None,
        c=c,
        A=A,
        b=b,
        gamma0=gamma0,
        dense=tuple(tuple(x / (j + 1) for j, x in enumerate(p)) for p in slopes),
        increments=tuple(tuple(_lagrange((0.0, *c), i + 1)[1:]) for i in range(len(c))),
    )
