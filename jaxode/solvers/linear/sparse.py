"""Sparse Jacobians: computed by column colouring, reordered to be banded."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...problem.errors import CALL_ERRORS, OptionError, StateError
from ...problem.field import Field, WithJacobian, check_field, trace_field
from ...problem.state import Packing
from ...problem.times import check_time
from ...problem.validation import check_count, is_real, real_array, shown_value
from .banded import Banded
from .base import Direct, Linearisation, Solve, jacobian_vector_products, slope_and_change
from .dense import Dense

# Cost of an operation of block cyclic reduction over that of one of a dense factorisation.
_CYCLIC_REDUCTION_COST = 50


@dataclasses.dataclass(frozen=True)
class SparseLayout:
    """The colouring of a pattern's columns, and the reordering that makes it banded.

    Columns of one colour have no row in common, so one derivative yields all of them.
    """

    entries: tuple[tuple[int, ...], tuple[int, ...]]
    colours: tuple[int, ...]
    order: tuple[int, ...]
    inner: Banded | Dense

    @classmethod
    def from_pattern(cls, pattern: Any) -> "SparseLayout":
        """The layout of a pattern `(n, n)`; the diagonal is always part of it."""
        from scipy.sparse import csgraph, csr_array  # loaded when needed: it takes a while

        matrix = csr_array(pattern, dtype=bool) + csr_array(np.eye(pattern.shape[0], dtype=bool))
        rows, columns = matrix.tocoo().coords
        order = csgraph.reverse_cuthill_mckee(csr_array(matrix + matrix.T), symmetric_mode=True)
        place = np.argsort(order)
        offsets = place[rows] - place[columns]
        lower, upper = int(max(offsets.max(), 0)), int(max(-offsets.min(), 0))
        n, wide = pattern.shape[0], max(lower, upper, 1)
        banded = _CYCLIC_REDUCTION_COST * wide**2 * np.log2(n / wide + 1) < n**2
        inner = Banded(lower, upper) if banded else Dense()
        order = order if banded else np.arange(n)
        entries = tuple(map(int, rows)), tuple(map(int, columns))
        return cls(entries, greedy_colouring(rows, columns, n), tuple(map(int, order)), inner)


class Sparse(Direct):
    """Linear solver for a sparse Jacobian, which is zero outside `pattern`.

    `pattern`: boolean `(n, n)`, or a SciPy sparse array, true where `df_i / dy_j` can be other than
    zero; see `sparsity`. The Jacobian costs one derivative per colour of its columns. Components
    are reordered (reverse Cuthill-McKee); if the bands are then narrow, systems are solved as by
    `Banded`, else as by `Dense`.

    **Raises:** `OptionError` if the pattern is no square matrix.

    Source: Curtis, Powell, Reid, On the estimation of sparse Jacobian matrices, IMA J. Appl. Math.
    13 (1974); Cuthill, McKee, Reducing the bandwidth of sparse symmetric matrices, ACM (1969).
    """

    layout: SparseLayout = eqx.field(static=True)
    has_pattern: ClassVar[bool] = True

    def __init__(self, pattern: Any) -> None:
        if not hasattr(pattern, "tocoo"):
            pattern = _pattern_array(pattern)
        shape = np.shape(pattern)
        if len(shape) != 2 or shape[0] == 0 or shape[0] != shape[1]:
            raise OptionError(f"the pattern of Sparse must have shape (n, n), got {shape}")
        self.layout = SparseLayout.from_pattern(pattern)

    def check(self, size: int) -> None:
        n = len(self.layout.colours)
        if n != size:
            raise OptionError(
                f"the pattern of Sparse has shape {(n, n)} where the state has {size} components"
            )

    def jacobian(self, field: Field, t: Array, y: Array, h: Array | None = None) -> Linearisation:
        """The linearisation at `(t, y)`; the Jacobian reordered, in the inner solver's form."""
        layout, order = self.layout, np.array(self.layout.order)
        if isinstance(field, WithJacobian):
            slope, change = slope_and_change(field, t, y, h)
            matrix = field.jacobian(t, y)[order][:, order]
            return Linearisation(slope, change, self._inner_jacobian(matrix))
        colours = np.array(layout.colours)
        seeds = np.arange(colours.max() + 1)[:, None] == colours
        linearisation = jacobian_vector_products(field, t, y, h, seeds)
        rows, columns, in_pattern = self._inner_entries()
        values = linearisation.jacobian[colours[columns], rows]
        mask = jnp.asarray(in_pattern).reshape(in_pattern.shape + (1,) * t.ndim)
        return linearisation._replace(jacobian=jnp.where(mask, values, 0))

    def system(self, jacobian: Array, shift: Array, mass: Array | None) -> Solve:
        solve = self.layout.inner.system(jacobian, shift, self._reordered(mass))
        order, inverse = self._permutations()
        return lambda b: solve(b[order])[inverse]

    def factorise(self, jacobian: Array, shift: Array, mass: Array | None) -> Any:
        return self.layout.inner.factorise(jacobian, shift, self._reordered(mass))

    def solve(self, factors: Any, b: Array) -> Array:
        order, inverse = self._permutations()
        return self.layout.inner.solve(factors, b[order])[inverse]

    def transposed(self) -> "Sparse":
        return Sparse(self.pattern.T)

    @property
    def pattern(self) -> Any:
        """The pattern of entries that can be other than zero, a SciPy sparse array."""
        from scipy.sparse import csr_array

        n = len(self.layout.order)
        ones = np.ones(len(self.layout.entries[0]), bool)
        return csr_array((ones, self.layout.entries), shape=(n, n))

    def _permutations(self) -> tuple[np.ndarray, np.ndarray]:
        """The permutation to banded order, and its inverse."""
        order = np.array(self.layout.order)
        return order, np.argsort(order)

    def _reordered(self, mass: Array | None) -> Array | None:
        order, _ = self._permutations()
        return None if mass is None else mass[order][:, order]

    def _inner_jacobian(self, matrix: Array) -> Array:
        inner = self.layout.inner
        if isinstance(inner, Banded):
            return inner.extract_bands(matrix)
        return jnp.swapaxes(matrix, 0, 1)

    def _inner_entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row and column of every entry of the inner solver, and whether the pattern has it."""
        layout, inner = self.layout, self.layout.inner
        n, order = len(layout.order), np.array(layout.order)
        if isinstance(inner, Banded):
            rows, inside = inner.rows(n)
            rows, columns = order[rows], np.broadcast_to(order[None], rows.shape)
        else:
            columns, rows = np.mgrid[:n, :n]
            inside = np.ones((n, n), bool)
        pattern = np.zeros((n, n), bool)
        pattern[layout.entries] = True
        return rows, columns, inside & pattern[rows, columns]


def greedy_colouring(rows: np.ndarray, columns: np.ndarray, n: int) -> tuple[int, ...]:
    """A greedy colouring of the columns: those with a row in common have different colours."""
    from scipy.sparse import csr_array

    pattern = csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(n, n))
    adjacency = csr_array(pattern.T.astype(np.int64) @ pattern.astype(np.int64))
    colours = np.full(n, -1)
    for column in np.argsort(-np.diff(adjacency.indptr), kind="stable"):
        taken = set(
            colours[adjacency.indices[adjacency.indptr[column] : adjacency.indptr[column + 1]]]
        )
        colours[column] = next(c for c in range(n + 1) if c not in taken)
    return tuple(map(int, colours))


def _pattern_array(pattern: Any) -> np.ndarray:
    """A pattern as an array of booleans. **Raises:** `OptionError` for what is none."""
    try:
        array = np.asarray(pattern)
    except CALL_ERRORS:
        array = np.asarray(None)
    if array.dtype != bool and not is_real(array.dtype):
        raise OptionError(f"the pattern of Sparse must hold booleans, got {shown_value(pattern)}")
    return array.astype(bool)


def sparsity(
    f: Callable[..., Any], y0: Array, args: Any = None, t: float = 0.0, seed: int = 0
) -> np.ndarray:
    """The sparsity pattern of the Jacobian of `f(t, y, args)`: a boolean array `(n, n)`.

    - `y0`: the state, shape `(n,)`, real. `args`: what `f` takes besides. `t`: the time.
    - `seed`: of the random states near `y0`.

    The Jacobian is evaluated at `y0` and at two states near it: an entry that is zero at all three
    of them, as under a condition that none satisfies, is missed.

    **Raises:** `StateError` unless the state is a vector of floats; `FieldError` for a function
    that does not fit it; `TimesError`, `OptionError` for another `t` or `seed`.
    """
    y0 = real_array("y0 of sparsity", y0, StateError)
    if y0.ndim != 1 or y0.size == 0 or not jnp.issubdtype(y0.dtype, jnp.floating):
        raise StateError(f"y0 of sparsity must be a vector of floats, got {y0.dtype}{[*y0.shape]}")
    t, seed = check_time("t", t), check_count("seed of sparsity", seed, 0)
    start = np.asarray(y0, jax.dtypes.canonicalize_dtype(y0.dtype))
    trace_field(check_field(f), start, args, Packing.of(start))
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, (2, *start.shape))
    scale = np.where(start == 0, 1e-3 * (1 + np.max(np.abs(start))), start)
    states = np.stack([start, *(noise * scale).astype(start.dtype)])
    matrices = jax.jit(jax.vmap(jax.jacfwd(lambda y: f(t, y, args))))(states)
    return np.any(np.asarray(matrices) != 0, axis=0)
