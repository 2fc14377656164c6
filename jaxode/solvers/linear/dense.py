"""Dense systems, one or one per lane: matrices `(n, n)` or `(n, n, lanes)`.

Matrices are stored by columns: `a[j, i]` multiplies component `j` of a vector and adds to component
`i`. So a product is a sum over the first axis, of rows that are contiguous for one trajectory and
for lanes alike.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.field import Field, WithJacobian
from .base import Direct, Linearisation, Solve, jacobian_vector_products, slope_and_change

# Up to this many components, of one system and in lanes, the inverse is computed inline in the
# compiled loop; above, LAPACK factorises. Up to the last number, the elimination is unrolled.
MAX_INLINE, MAX_INLINE_LANES, _UNROLLED = 32, 24, 4
# A diagonal entry serves as a pivot if none below it is larger by more than this factor.
_MAX_PIVOT_RATIO = 100.0
# Number of terms of a sum in lanes that are added at once.
_BLOCK = 4


class Dense(Direct):
    """Linear solver for a dense Jacobian, by one derivative per component: the default."""

    def jacobian(self, field: Field, t: Array, y: Array, h: Array | None = None) -> Linearisation:
        if isinstance(field, WithJacobian):
            slope, change = slope_and_change(field, t, y, h)
            return Linearisation(slope, change, jnp.swapaxes(field.jacobian(t, y), 0, 1))
        return jacobian_vector_products(field, t, y, h, np.eye(y.shape[0]))

    def system(self, jacobian: Array, shift: Array, mass: Array | None) -> Solve:
        return solver_of(lax.optimization_barrier(shifted_matrix(jacobian, shift, mass)))

    def factorise(self, jacobian: Array, shift: Array, mass: Array | None) -> Array:
        return inverse(lax.optimization_barrier(shifted_matrix(jacobian, shift, mass)))

    def solve(self, factors: Array, b: Array) -> Array:
        return matvec(factors, b)

    def transposed(self) -> "Dense":
        return self


def shifted_matrix(jacobian: Array, shift: Array, mass: Array | None) -> Array:
    """`shift M - J`, by columns; `mass` as the user gives it."""
    n = jacobian.shape[0]
    mass = jnp.eye(n, dtype=jacobian.dtype) if mass is None else mass.T
    return shift * mass.astype(jacobian.dtype).reshape((n, n) + (1,) * shift.ndim) - jacobian


def matvec(a: Array, x: Array) -> Array:
    """The product of the matrix `a`, by columns, and the vector `x`."""
    if x.ndim == 1:
        return jnp.sum(a * x[:, None], axis=0)
    return _blocked_sum(lambda j: _entry(a, j) * _entry(x, j), x.shape[0])


def transposed_matvec(a: Array, x: Array) -> Array:
    """The product of the transpose of `a`, by columns, and the vector `x`."""
    if x.ndim == 1:
        return jnp.sum(a * x[None, :], axis=1)
    return _blocked_sum(lambda i: _entry(a, i, 1) * _entry(x, i), x.shape[0])


def first_axis_sum(x: Array) -> Array:
    """The sum over the first axis, lane beside lane."""
    return _blocked_sum(lambda i: _entry(x, i), x.shape[0])


def _entry(x: Array, k: Array | int, axis: int = 0) -> Array:
    return lax.dynamic_index_in_dim(x, k, axis, keepdims=False)


def _blocked_sum(term: Callable[[Any], Array], count: int) -> Array:
    """The sum of `term(0)` to `term(count - 1)`, lane beside lane.

    XLA on a CPU would sum over a first axis one lane after the other.
    """

    def block(first: Array | int, size: int) -> Array:
        return functools.reduce(operator.add, [term(first + k) for k in range(size)])

    blocks, rest = divmod(count, _BLOCK)
    if blocks <= 2:
        return block(0, count)
    total = lax.fori_loop(1, blocks, lambda i, x: x + block(_BLOCK * i, _BLOCK), block(0, _BLOCK))
    return total + block(blocks * _BLOCK, rest) if rest else total


def solver_of(a: Array) -> Callable[[Array], Array]:
    """The map `b -> x` with `a x = b`, factorised once; `a` by columns.

    Its derivative is that of the system, solved with the same factors. A singular matrix gives
    values that are not finite.
    """
    solve, solve_transposed = _solves(lax.stop_gradient(a))

    def differentiable_solve(b: Array) -> Array:
        return lax.custom_linear_solve(
            lambda x: jnp.sum(a * x[:, None], axis=0),  # used by its derivative alone
            b,
            lambda _, b: solve(b),
            lambda _, b: solve_transposed(b),
        )

    return differentiable_solve


def _solves(a: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """The solve functions of `a x = b` and of the transposed system."""
    if a.shape[0] <= (MAX_INLINE if a.ndim == 2 else MAX_INLINE_LANES):
        # Without barriers, XLA computes each component of `b` again for each of `x`.
        inverse, barrier = gauss_jordan_inverse(a), lax.optimization_barrier
        return lambda b: matvec(inverse, barrier(b)), lambda b: transposed_matvec(
            inverse, barrier(b)
        )
    if a.ndim == 2:
        factors = jax.scipy.linalg.lu_factor(a)  # of the transpose of the matrix
        return (
            lambda b: jax.scipy.linalg.lu_solve(factors, b, trans=1),
            lambda b: jax.scipy.linalg.lu_solve(factors, b),
        )
    factors = jax.vmap(jax.scipy.linalg.lu_factor)(jnp.moveaxis(a, -1, 0))

    def solve(b: Array, trans: int) -> Array:
        lu_solve = jax.vmap(lambda f, b: jax.scipy.linalg.lu_solve(f, b, trans=trans))
        return lu_solve(factors, b.T).T

    return lambda b: solve(b, 1), lambda b: solve(b, 0)


def inverse(a: Array) -> Array:
    """The inverse of any size; not finite if singular."""
    if a.shape[0] <= (MAX_INLINE if a.ndim == 2 else MAX_INLINE_LANES):
        return gauss_jordan_inverse(a)
    return jnp.linalg.inv(a) if a.ndim == 2 else jax.vmap(jnp.linalg.inv, -1, -1)(a)


def gauss_jordan_inverse(a: Array) -> Array:
    """The inverse, by Gauss-Jordan elimination in place; not finite if singular.

    Rows are exchanged only where a diagonal entry is too small to be a pivot: with a step that fits
    the problem, `shift M - J` hardly has such entries, and the search costs more than the rest.
    """
    if a.shape[0] <= _UNROLLED:
        return _inverse_by_rows(a)
    # A loop of at most one iteration, because the result of a conditional would be copied.
    pivoted = lambda _: (_inverse_by_rows(a), jnp.array(True))  # noqa: E731
    return lax.while_loop(lambda s: ~s[1], pivoted, _inverse_by_diagonal(a))[0]


def _inverse_by_diagonal(a: Array) -> tuple[Array, Array]:
    """The inverse with diagonal pivots, and whether they are large enough in all lanes."""
    n, lanes = a.shape[0], a.shape[2:]
    index = jnp.arange(n, dtype=jnp.int32).reshape((n,) + (1,) * len(lanes))

    def eliminate(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        a, largest = state
        column, row = _entry(a, k), _entry(a, k, 1)
        column = jnp.where(index == k, 1, column) / _entry(column, k)
        column, row = lax.optimization_barrier((column, row))
        largest = jnp.maximum(largest, jnp.where(index > k, jnp.abs(column), 0))
        rest = jnp.where((index == k)[None], 0, a) - row[:, None] * column[None]
        return jnp.where((index == k)[:, None], column[None], rest), largest

    a, largest = lax.fori_loop(0, n, eliminate, (a, jnp.zeros((n, *lanes), a.dtype)))
    return a, jnp.all(largest <= _MAX_PIVOT_RATIO)


def _inverse_by_rows(a: Array) -> Array:
    """The inverse with the largest entries of columns as pivots."""
    n, lanes = a.shape[0], a.shape[2:]
    index = jnp.arange(n, dtype=jnp.int32).reshape((n,) + (1,) * len(lanes))

    def eliminate(k: Array | int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """Eliminate unknown `k` by the remaining equation with its largest coefficient."""
        a, order = state
        column = a[k]
        size = jnp.where(index >= k, jnp.abs(column), -1.0)
        chosen = jnp.min(jnp.where(size == jnp.max(size, axis=0), index, n - 1), axis=0)
        is_chosen, first = index == chosen, entry(a, k)
        row = lax.optimization_barrier(
            jnp.where(index == k, 1.0, entry(a, chosen)) / entry(column, chosen)
        )
        # Equation k takes the place of the chosen one, with its own coefficient of unknown k.
        factor = jnp.where(is_chosen, entry(column, k), column)
        factor = lax.optimization_barrier(jnp.where(index == k, 0, factor))
        rest = jnp.where(is_chosen, first[:, None], a)
        rest = jnp.where((index == k)[:, None], 0, rest)
        a = jnp.where(index == k, row[:, None], rest - row[:, None] * factor)
        swapped = jnp.where(is_chosen, entry(order, k), order)
        return a, jnp.where(index == k, entry(order, chosen), swapped)

    def entry(x: Array, chosen: Array | int) -> Array:
        """The entries of `x` for one equation; these lie along its last axis before the lanes."""
        if not lanes or isinstance(chosen, int) or chosen.ndim == 0:
            axis = x.ndim - 1 - len(lanes)
            return lax.dynamic_index_in_dim(x, chosen, axis, keepdims=False)
        axis = x.ndim - 1 - len(lanes)
        return jnp.sum(jnp.where(index == chosen, x, 0), axis=axis, dtype=x.dtype)

    state = a, index * jnp.ones(lanes, jnp.int32)
    if n <= _UNROLLED:
        for k in range(n):
            state = lax.optimization_barrier(eliminate(k, state))
    else:
        state = lax.fori_loop(0, n, eliminate, state)
    a, order = state
    # The equation that ended in place k is order[k]: column k multiplies its right-hand side.
    rows = order[None] == index[:, None]
    if not lanes:
        return a[jnp.sum(jnp.where(rows, index, 0), axis=1, dtype=jnp.int32)]
    return jnp.sum(jnp.where(rows[:, :, None], a[None], 0), axis=1)
