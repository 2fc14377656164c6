"""Banded systems, by block cyclic reduction: as parallel as they can be, in a few wide operations.

A matrix with `lower` diagonals below and `upper` above the main one is block tridiagonal, in blocks
of the wider of the two. Each round of the reduction eliminates the neighbours of every block at
once and doubles the distance to the next ones: the blocks stand alone after log2 of their number.
Source: Hockney, Jesshope, Parallel Computers 2 (1988), 5.4.3; Golub, Van Loan, Matrix Computations
(2013), 4.5.4.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.errors import OptionError
from ...problem.field import Field, WithJacobian
from ...problem.validation import check_count, plain
from .base import Direct, Linearisation, Solve, jacobian_vector_products
from .dense import gauss_jordan_inverse, matvec


class Banded(Direct):
    """A Jacobian that is zero but for `lower` diagonals below the main one and `upper` above it.

    It takes `lower + upper + 1` derivatives, however many components there are. Pivots are sought
    within blocks of `max(lower, upper)` components alone, as suits matrices whose diagonal blocks
    dominate: discretised diffusion and its kin. A mass matrix must have no wider bands.

    **Raises:** `OptionError` for negative numbers or a band wider than the matrix.
    """

    lower: int = eqx.field(static=True, converter=plain)
    upper: int = eqx.field(static=True, converter=plain)

    def __check_init__(self) -> None:
        check_count("lower of Banded", self.lower, least=0)
        check_count("upper of Banded", self.upper, least=0)

    @property
    def width(self) -> int:
        """How many diagonals there are."""
        return self.lower + self.upper + 1

    def check(self, size: int) -> None:
        if max(self.lower, self.upper) >= size:
            raise OptionError(
                f"Banded({self.lower}, {self.upper}) has bands beyond a matrix of {size} rows"
            )

    def transposed(self) -> "Banded":
        return Banded(self.upper, self.lower)

    def jacobian(self, field: Field, t: Array, y: Array) -> Linearisation:
        """The field around `(t, y)`; the Jacobian as `bands[i - j + upper, j]`."""
        if isinstance(field, WithJacobian):
            slope, slope_t = jax.jvp(lambda t: field(t, y), (t,), (jnp.ones_like(t),))
            return Linearisation(slope, slope_t, self.bands_of(field.jacobian(t, y)))
        n = y.shape[0]
        colours = np.arange(n) % self.width
        found = jacobian_vector_products(field, t, y, np.arange(self.width)[:, None] == colours)
        rows, inside = self.rows(n)
        bands = found.jacobian[colours[None], rows]
        return found._replace(jacobian=jnp.where(_spread(inside, bands), bands, 0))

    def system(self, jacobian: Array, shift: Array, mass: Array | None) -> Solve:
        bands = self._shifted(jacobian, shift, mass)
        factors = self.factors(lax.stop_gradient(bands))

        def transposed(b: Array) -> Array:
            other = self.transposed()
            return other.solve(other.factors(self.bands_transposed(lax.stop_gradient(bands))), b)

        def of(b: Array) -> Array:
            return lax.custom_linear_solve(
                lambda x: self.times(bands, x),
                b,
                lambda _, b: self.solve(factors, b),
                lambda _, b: transposed(b),
            )

        return of

    def factorise(self, jacobian: Array, shift: Array, mass: Array | None) -> "Factors":
        return self.factors(self._shifted(jacobian, shift, mass))

    def _shifted(self, jacobian: Array, shift: Array, mass: Array | None) -> Array:
        if mass is None:
            mass = jnp.eye(jacobian.shape[1], dtype=jacobian.dtype)
        mass = self.bands_of(mass.astype(jacobian.dtype))
        return shift * mass.reshape(mass.shape + (1,) * shift.ndim) - jacobian

    def bands_of(self, matrix: Array) -> Array:
        """The bands of a matrix `(n, n)`, or `(n, n, lanes)`."""
        rows, inside = self.rows(matrix.shape[0])
        bands = matrix[rows, np.arange(matrix.shape[0])[None]]
        return jnp.where(_spread(inside, bands), bands, 0)

    def bands_transposed(self, bands: Array) -> Array:
        """The bands of the transpose, as `Banded(upper, lower)` has them."""
        n = bands.shape[1]
        rows, inside = self.transposed().rows(n)
        # Entry (i, j) of the transpose is (j, i): in row j - i + upper, column i.
        found = bands[np.arange(n)[None] - rows + self.upper, rows]
        return jnp.where(_spread(inside, found), found, 0)

    def times(self, bands: Array, x: Array) -> Array:
        """The product of the matrix and a vector."""
        total = jnp.zeros_like(x)
        for d in range(self.width):
            total = total + _moved(bands[d] * x, d - self.upper, 0)
        return total

    def factors(self, bands: Array) -> "Factors":
        """The rounds of the reduction, and the inverses of the blocks that are left."""
        below, blocks, above = self._blocks(bands)
        number = max(blocks.shape[2] - 1, 0).bit_length()
        rounds = jnp.zeros((2, number, *blocks.shape), blocks.dtype)

        def reduce(r: Array, state: tuple) -> tuple:
            below, blocks, above, rounds = state
            near = _Neighbours(2**r, 2)
            before, after = near(_inverse(blocks))
            left, right = -_multiplied(below, before), -_multiplied(above, after)
            (lower, upper), (before, after) = near(below), near(above)
            blocks = blocks + _multiplied(left, before) + _multiplied(right, upper)
            pair = jnp.stack([left, right])[:, None]
            start = (0, r, *[0] * blocks.ndim)
            rounds = lax.dynamic_update_slice(rounds, pair, start)
            return _multiplied(left, lower), blocks, _multiplied(right, after), rounds

        state = lax.fori_loop(0, number, reduce, (below, blocks, above, rounds))
        return Factors(state[3], _inverse(state[1]))

    def solve(self, factors: "Factors", b: Array) -> Array:
        size, _, count = factors.inverse.shape[:3]
        fill = [(0, size * count - b.shape[0])] + [(0, 0)] * (b.ndim - 1)
        parts = jnp.pad(b, fill).reshape(count, size, *b.shape[1:]).swapaxes(0, 1)

        def reduce(r: Array, parts: Array) -> Array:
            left, right = factors.rounds[0, r], factors.rounds[1, r]
            before, after = _Neighbours(2**r, 1)(parts)
            return parts + matvec(left, before) + matvec(right, after)

        parts = lax.fori_loop(0, factors.rounds.shape[1], reduce, parts)
        x = matvec(factors.inverse, parts)
        return x.swapaxes(0, 1).reshape(size * count, *b.shape[1:])[: b.shape[0]]

    def rows(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The row of every entry of the bands, and whether there is one."""
        rows = np.arange(n)[None] + np.arange(-self.upper, self.lower + 1)[:, None]
        return np.clip(rows, 0, n - 1), (rows >= 0) & (rows < n)

    def _blocks(self, bands: Array) -> tuple[Array, Array, Array]:
        """The blocks below, on and above the diagonal, by columns: `(size, size, count)`."""
        n, size = bands.shape[1], max(self.lower, self.upper, 1)
        count = -(-n // size)

        def blocks(offset: int) -> Array:
            k, j, i = np.ogrid[:count, :size, :size]
            row, column = k * size + i, (k + offset) * size + j
            band = row - column + self.upper
            real = (row < n) & (column >= 0) & (column < n) & (band >= 0) & (band < self.width)
            found = bands[np.clip(band, 0, self.width - 1), np.clip(column, 0, n - 1)]
            # Past the end of the matrix stand ones on the diagonal.
            rest = ((row == column) & (row >= n)).astype(bands.dtype)
            found = jnp.where(_spread(real, found), found, _spread(rest, found))
            return jnp.moveaxis(found, 0, 2)

        return blocks(-1), blocks(0), blocks(1)


class Factors(NamedTuple):
    """The multipliers of each round, `(2, rounds, size, size, count)`, and the last inverses."""

    rounds: Array
    inverse: Array


class _Neighbours(NamedTuple):
    """The blocks at some distance before and after each, along an axis; zeros past the ends."""

    distance: Array
    axis: int

    def __call__(self, x: Array) -> tuple[Array, Array]:
        count = x.shape[self.axis]
        padded = jnp.pad(x, [(count, count) if a == self.axis else (0, 0) for a in range(x.ndim)])

        def part(start: Array) -> Array:
            return lax.dynamic_slice_in_dim(padded, start, count, self.axis)

        return part(count - self.distance), part(count + self.distance)


def _spread(mask: np.ndarray, like: Array) -> Array:
    """`mask` with axes of one for the lanes of `like`."""
    return jnp.asarray(mask).reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def _moved(x: Array, distance: int, axis: int) -> Array:
    """`x` moved up its axis by `distance`, with zeros where nothing comes from."""
    pad = [(0, 0, 0)] * x.ndim
    pad[axis] = (distance, -distance, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pad)


def _multiplied(a: Array, b: Array) -> Array:
    """The product of matrices by columns, one for each of the last axes."""
    if a.shape[0] == 1:
        return a * b
    return jnp.sum(a[None] * b[:, :, None], axis=1)


def _inverse(a: Array) -> Array:
    return 1 / a if a.shape[0] == 1 else gauss_jordan_inverse(a)
