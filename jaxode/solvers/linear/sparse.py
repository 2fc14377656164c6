"""Sparse Jacobians: as few derivatives as colours suffice, reordered to be banded."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from ...problem.errors import OptionError
from ...problem.field import Field, WithJacobian
from .banded import Banded
from .base import Direct, Linearisation, Solve, jacobian_vector_products
from .dense import Dense

# How much dearer an operation of the block cyclic reduction is than one of a dense factorisation.
_DEARER = 50


@dataclasses.dataclass(frozen=True)
class Layout:
    """What follows from a pattern: a colour per column, and the order of components that is banded.

    Columns of one colour have no row in common, so one derivative yields all of them.
    """

    entries: tuple[tuple[int, ...], tuple[int, ...]]
    colours: tuple[int, ...]
    order: tuple[int, ...]
    inner: Banded | Dense

    @classmethod
    def of(cls, pattern: Any) -> "Layout":
        """The layout for a pattern `(n, n)`, whose diagonal is always taken for filled."""
        matrix = csr_array(pattern, dtype=bool) + csr_array(np.eye(pattern.shape[0], dtype=bool))
        rows, columns = matrix.tocoo().coords
        order = reverse_cuthill_mckee(csr_array(matrix + matrix.T), symmetric_mode=True)
        place = np.argsort(order)
        offsets = place[rows] - place[columns]
        lower, upper = int(max(offsets.max(), 0)), int(max(-offsets.min(), 0))
        n, wide = pattern.shape[0], max(lower, upper, 1)
        banded = _DEARER * wide**2 * np.log2(n / wide + 1) < n**2
        inner = Banded(lower, upper) if banded else Dense()
        order = order if banded else np.arange(n)
        entries = tuple(map(int, rows)), tuple(map(int, columns))
        return cls(entries, greedy_colouring(rows, columns, n), tuple(map(int, order)), inner)


class Sparse(Direct):
    """A Jacobian that is zero where `pattern` is.

    `pattern`: boolean `(n, n)`, or a SciPy sparse array, true where `df_i / dy_j` can be other than
    zero; see `sparsity`. It takes as many derivatives as the columns need colours. Components are
    reordered (reverse Cuthill-McKee); if that makes the matrix narrow it is solved as by `Banded`,
    else as by `Dense`.

    **Raises:** `OptionError` if the pattern is no square matrix.

    Source: Curtis, Powell, Reid, On the estimation of sparse Jacobian matrices, IMA J. Appl. Math.
    13 (1974); Cuthill, McKee, Reducing the bandwidth of sparse symmetric matrices, ACM (1969).
    """

    layout: Layout = eqx.field(static=True)

    def __init__(self, pattern: Any) -> None:
        shape = np.shape(pattern)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise OptionError(f"the pattern of Sparse must have shape (n, n), got {shape}")
        self.layout = Layout.of(pattern if hasattr(pattern, "tocoo") else np.asarray(pattern, bool))

    def check(self, size: int) -> None:
        n = len(self.layout.colours)
        if n != size:
            raise OptionError(
                f"the pattern of Sparse has shape {(n, n)} where the state has {size} components"
            )

    def jacobian(self, field: Field, t: Array, y: Array) -> Linearisation:
        """The field around `(t, y)`; the Jacobian as the inner solver has it, reordered."""
        layout, order = self.layout, np.array(self.layout.order)
        if isinstance(field, WithJacobian):
            slope, slope_t = jax.jvp(lambda t: field(t, y), (t,), (jnp.ones_like(t),))
            matrix = field.jacobian(t, y)[order][:, order]
            return Linearisation(slope, slope_t, self._inner_of(matrix))
        colours = np.array(layout.colours)
        seeds = np.arange(colours.max() + 1)[:, None] == colours
        found = jacobian_vector_products(field, t, y, seeds)
        rows, columns, real = self._places()
        values = found.jacobian[colours[columns], rows]
        mask = jnp.asarray(real).reshape(real.shape + (1,) * t.ndim)
        return found._replace(jacobian=jnp.where(mask, values, 0))

    def system(self, jacobian: Array, shift: Array, mass: Array | None) -> Solve:
        solve = self.layout.inner.system(jacobian, shift, self._reordered(mass))
        order, back = self._orders()
        return lambda b: solve(b[order])[back]

    def factorise(self, jacobian: Array, shift: Array, mass: Array | None) -> Any:
        return self.layout.inner.factorise(jacobian, shift, self._reordered(mass))

    def solve(self, factors: Any, b: Array) -> Array:
        order, back = self._orders()
        return self.layout.inner.solve(factors, b[order])[back]

    def transposed(self) -> "Sparse":
        return Sparse(self.pattern.T)

    @property
    def pattern(self) -> csr_array:
        """Where the Jacobian can be other than zero."""
        n = len(self.layout.order)
        ones = np.ones(len(self.layout.entries[0]), bool)
        return csr_array((ones, self.layout.entries), shape=(n, n))

    def _orders(self) -> tuple[np.ndarray, np.ndarray]:
        """The order that is banded, and the way back."""
        order = np.array(self.layout.order)
        return order, np.argsort(order)

    def _reordered(self, mass: Array | None) -> Array | None:
        order, _ = self._orders()
        return None if mass is None else mass[order][:, order]

    def _inner_of(self, matrix: Array) -> Array:
        inner = self.layout.inner
        if isinstance(inner, Banded):
            return inner.bands_of(matrix)
        return jnp.swapaxes(matrix, 0, 1)

    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row and column of every entry that the inner solver keeps, and whether there is one."""
        layout, inner = self.layout, self.layout.inner
        n, order = len(layout.order), np.array(layout.order)
        if isinstance(inner, Banded):
            rows, inside = inner.rows(n)
            rows, columns = order[rows], np.broadcast_to(order[None], rows.shape)
        else:
            columns, rows = np.mgrid[:n, :n]
            inside = np.ones((n, n), bool)
        known = np.zeros((n, n), bool)
        known[layout.entries] = True
        return rows, columns, inside & known[rows, columns]


def greedy_colouring(rows: np.ndarray, columns: np.ndarray, n: int) -> tuple[int, ...]:
    """A colour for each column, such that columns with a row in common differ; greedily."""
    pattern = csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(n, n))
    near = csr_array(pattern.T.astype(np.int64) @ pattern.astype(np.int64))
    colours = np.full(n, -1)
    for column in np.argsort(-np.diff(near.indptr), kind="stable"):
        taken = set(colours[near.indices[near.indptr[column] : near.indptr[column + 1]]])
        colours[column] = next(c for c in range(n + 1) if c not in taken)
    return tuple(map(int, colours))


def sparsity(
    f: Callable[..., Any], y0: Array, args: Any = None, t: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Where the Jacobian of `f(t, y, args)` is not zero: a boolean array `(n, n)`.

    `y0`: the state, shape `(n,)`. The Jacobian is looked at in `y0` and in two states near it, so
    an entry that is zero in all of them, behind a condition that none meets, is missed.
    """
    y0 = jnp.asarray(y0)
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, (2, *y0.shape))
    scale = jnp.where(y0 == 0, 1e-3 * (1 + jnp.max(jnp.abs(y0))), y0)
    points = jnp.stack([y0, *(noise * scale).astype(y0.dtype)])
    matrices = jax.jit(jax.vmap(jax.jacfwd(lambda y: f(t, y, args))))(points)
    return np.any(np.asarray(matrices) != 0, axis=0)
