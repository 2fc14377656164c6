"""Banded systems by block cyclic reduction: parallel, in few wide operations.

A matrix with `lower` diagonals below and `upper` above the main one is block tridiagonal, in blocks
of the wider of the two. Each round of the reduction eliminates the neighbours of every block at
once and doubles the distance to the next ones: after log2 of their number, the
blocks are decoupled.
Source: Hockney, Jesshope, Parallel Computers 2 (1988), 5.4.3; Golub, Van Loan, Matrix Computations
(2013), 4.5.4.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.errors import OptionError
from ...problem.field import Field, WithJacobian
from ...problem.validation import check_count, python_int
from .base import Direct, Linearisation, Solve, jacobian_vector_products, slope_and_change
from .dense import gauss_jordan_inverse, matvec


class Banded(Direct):
    """Linear solver for a banded Jacobian: `lower` diagonals below the main one, `upper` above.

    The Jacobian costs `lower + upper + 1` derivatives, however many components there are. Pivots
    are chosen within blocks of `max(lower, upper)` components alone, which suits matrices with
    dominant diagonal blocks, such as discretised diffusion. A mass matrix must have no wider bands.

    **Raises:** `OptionError` for negative numbers or a band wider than the matrix.
    """

    lower: int = eqx.field(static=True, converter=python_int)
    upper: int = eqx.field(static=True, converter=python_int)
    has_pattern: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_count("lower of Banded", self.lower, least=0)
        check_count("upper of Banded", self.upper, least=0)

    @property
    def width(self) -> int:
        """Number of diagonals."""
        return self.lower + self.upper + 1

    def check(self, size: int) -> None:
        if max(self.lower, self.upper) >= size:
            raise OptionError(
                f"Banded({self.lower}, {self.upper}) has bands beyond a matrix of {size} rows"
            )

    def transposed(self) -> "Banded":
        return Banded(self.upper, self.lower)

    def jacobian(self, field: Field, t: Array, y: Array, h: Array | None = None) -> Linearisation:
        """The linearisation at `(t, y)`; the Jacobian as `bands[i - j + upper, j]`."""
        if isinstance(field, WithJacobian):
            slope, change = slope_and_change(field, t, y, h)
            return Linearisation(slope, change, self.extract_bands(field.jacobian(t, y)))
        n = y.shape[0]
        colours = np.arange(n) % self.width
        linearisation = jacobian_vector_products(
            field, t, y, h, np.arange(self.width)[:, None] == colours
        )
        rows, inside = self.rows(n)
        bands = linearisation.jacobian[colours[None], rows]
        return linearisation._replace(jacobian=jnp.where(_with_lane_axes(inside, bands), bands, 0))

    def system(self, jacobian: Array, shift: Array, mass: Array | None) -> Solve:
        bands = self._shifted(jacobian, shift, mass)
        factors = self.factors(lax.stop_gradient(bands))

        def solve_transposed(b: Array) -> Array:
            other = self.transposed()
            return other.solve(other.factors(self.bands_transposed(lax.stop_gradient(bands))), b)

        def solve(b: Array) -> Array:
            return lax.custom_linear_solve(
                lambda x: self.matvec(bands, x),
                b,
                lambda _, b: self.solve(factors, b),
                lambda _, b: solve_transposed(b),
            )

        return solve

    def factorise(self, jacobian: Array, shift: Array, mass: Array | None) -> "CyclicReduction":
        return self.factors(self._shifted(jacobian, shift, mass))

    def _shifted(self, jacobian: Array, shift: Array, mass: Array | None) -> Array:
        if mass is None:
            mass = jnp.eye(jacobian.shape[1], dtype=jacobian.dtype)
        mass = self.extract_bands(mass.astype(jacobian.dtype))
        return shift * mass.reshape(mass.shape + (1,) * shift.ndim) - jacobian

    def extract_bands(self, matrix: Array) -> Array:
        """The bands of a matrix `(n, n)`, or `(n, n, lanes)`."""
        rows, inside = self.rows(matrix.shape[0])
        bands = matrix[rows, np.arange(matrix.shape[0])[None]]
        return jnp.where(_with_lane_axes(inside, bands), bands, 0)

    def bands_transposed(self, bands: Array) -> Array:
        """The bands of the transpose, as `Banded(upper, lower)` has them."""
        n = bands.shape[1]
        rows, inside = self.transposed().rows(n)
        # Entry (i, j) of the transpose is (j, i): in row j - i + upper, column i.
        transpose = bands[np.arange(n)[None] - rows + self.upper, rows]
        return jnp.where(_with_lane_axes(inside, transpose), transpose, 0)

    def matvec(self, bands: Array, x: Array) -> Array:
        """The product of the matrix and a vector."""
        total = jnp.zeros_like(x)
        for d in range(self.width):
            total = total + _shift_along_axis(bands[d] * x, d - self.upper, 0)
        return total

    def factors(self, bands: Array) -> "CyclicReduction":
        """The multipliers of the reduction, and the inverses of the decoupled blocks."""
        below, blocks, above = self._blocks(bands)
        number = max(blocks.shape[2] - 1, 0).bit_length()
        rounds = jnp.zeros((2, number, *blocks.shape), blocks.dtype)

        def reduce(r: Array, state: tuple) -> tuple:
            below, blocks, above, rounds = state
            neighbours = _NeighbourBlocks(2**r, 2)
            before, after = neighbours(_inverse(blocks))
            left, right = -_matmul(below, before), -_matmul(above, after)
            (lower, upper), (before, after) = neighbours(below), neighbours(above)
            blocks = blocks + _matmul(left, before) + _matmul(right, upper)
            pair = jnp.stack([left, right])[:, None]
            start = (0, r, *[0] * blocks.ndim)
            rounds = lax.dynamic_update_slice(rounds, pair, start)
            return _matmul(left, lower), blocks, _matmul(right, after), rounds

        if number == 0:  # a single block
            return CyclicReduction(rounds, _inverse(blocks))
        state = lax.fori_loop(0, number, reduce, (below, blocks, above, rounds))
        return CyclicReduction(state[3], _inverse(state[1]))

    def solve(self, factors: "CyclicReduction", b: Array) -> Array:
        size, _, count = factors.inverse.shape[:3]
        fill = [(0, size * count - b.shape[0])] + [(0, 0)] * (b.ndim - 1)
        x = jnp.pad(b, fill).reshape(count, size, *b.shape[1:]).swapaxes(0, 1)

        def reduce(r: Array, x: Array) -> Array:
            left, right = factors.rounds[0, r], factors.rounds[1, r]
            before, after = _NeighbourBlocks(2**r, 1)(x)
            return x + matvec(left, before) + matvec(right, after)

        if factors.rounds.shape[1]:
            x = lax.fori_loop(0, factors.rounds.shape[1], reduce, x)
        x = matvec(factors.inverse, x)
        return x.swapaxes(0, 1).reshape(size * count, *b.shape[1:])[: b.shape[0]]

    def rows(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The row index of every entry of the bands, and whether that row exists."""
        rows = np.arange(n)[None] + np.arange(-self.upper, self.lower + 1)[:, None]
        return np.clip(rows, 0, n - 1), (rows >= 0) & (rows < n)

    def _blocks(self, bands: Array) -> tuple[Array, Array, Array]:
        """The blocks below, on and above the diagonal, by columns: `(size, size, count)` each."""
        n, size = bands.shape[1], max(self.lower, self.upper, 1)
        count = -(-n // size)

        def blocks(offset: int) -> Array:
            k, j, i = np.ogrid[:count, :size, :size]
            row, column = k * size + i, (k + offset) * size + j
            band = row - column + self.upper
            exists = (row < n) & (column >= 0) & (column < n) & (band >= 0) & (band < self.width)
            entries = bands[np.clip(band, 0, self.width - 1), np.clip(column, 0, n - 1)]
            # The last block is padded with ones on the diagonal.
            padding = ((row == column) & (row >= n)).astype(bands.dtype)
            exists = _with_lane_axes(exists, entries)
            entries = jnp.where(exists, entries, _with_lane_axes(padding, entries))
            return jnp.moveaxis(entries, 0, 2)

        return blocks(-1), blocks(0), blocks(1)


class CyclicReduction(NamedTuple):
    """The multipliers of each round, `(2, rounds, size, size, count)`, and the last inverses."""

    rounds: Array
    inverse: Array


class _NeighbourBlocks(NamedTuple):
    """The blocks at a distance before and after each block along an axis; zeros past the ends."""

    distance: Array
    axis: int

    def __call__(self, x: Array) -> tuple[Array, Array]:
        count = x.shape[self.axis]
        padded = jnp.pad(x, [(count, count) if a == self.axis else (0, 0) for a in range(x.ndim)])

        def blocks_from(start: Array) -> Array:
            return lax.dynamic_slice_in_dim(padded, start, count, self.axis)

        return blocks_from(count - self.distance), blocks_from(count + self.distance)


def _with_lane_axes(mask: np.ndarray, like: Array) -> Array:
    """`mask` with axes of length one for the lanes of `like`."""
    return jnp.asarray(mask).reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def _shift_along_axis(x: Array, distance: int, axis: int) -> Array:
    """`x` shifted along an axis by `distance`, filled with zeros."""
    pad = [(0, 0, 0)] * x.ndim
    pad[axis] = (distance, -distance, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pad)


def _matmul(a: Array, b: Array) -> Array:
    """The product of two stacks of matrices by columns, along their last axes."""
    if a.shape[0] == 1:
        return a * b
    return jnp.sum(a[None] * b[:, :, None], axis=1)


def _inverse(a: Array) -> Array:
    return 1 / a if a.shape[0] == 1 else gauss_jordan_inverse(a)
