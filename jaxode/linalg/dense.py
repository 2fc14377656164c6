"""Dense systems, one or a lane's worth of them: matrices `(n, n)` or `(n, n, lanes)`.

Matrices are kept by columns: `a[j, i]` multiplies component `j` of a vector and adds to component
`i`. So a product is a sum over the first axis, of rows that are contiguous for one trajectory and
for lanes alike.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .linear_solver import Direct, Field, Linearised, Solve, WithJacobian, pushed_forward

# Up to this many components, of one system and of lanes, an inverse is made in the loop's own
# native function; beyond it, LAPACK factorises. Up to the last, the elimination is written out.
INLINE, INLINE_LANES, _WRITTEN_OUT = 32, 8, 4


class Dense(Direct):
    """Every entry of the Jacobian, by as many derivatives as there are components: the default."""

    def jacobian(self, field: Field, t: Array, y: Array) -> Linearised:
        if isinstance(field, WithJacobian):
            slope, slope_t = jax.jvp(lambda t: field(t, y), (t,), (jnp.ones_like(t),))
            return Linearised(slope, slope_t, jnp.swapaxes(field.jacobian(t, y), 0, 1))
        return pushed_forward(field, t, y, np.eye(y.shape[0]))

    def system(self, jacobian: Array, shift: Array, mass: Array | None) -> Solve:
        return solver_of(lax.optimization_barrier(shifted(jacobian, shift, mass)))

    def factorised(self, jacobian: Array, shift: Array, mass: Array | None) -> Array:
        return inverted(lax.optimization_barrier(shifted(jacobian, shift, mass)))

    def solve(self, factors: Array, b: Array) -> Array:
        return product(factors, b)


def shifted(jacobian: Array, shift: Array, mass: Array | None) -> Array:
    """`shift M - J`, by columns; `mass` as the user gives it."""
    n = jacobian.shape[0]
    mass = jnp.eye(n, dtype=jacobian.dtype) if mass is None else mass.T
    return shift * mass.astype(jacobian.dtype).reshape((n, n) + (1,) * shift.ndim) - jacobian


def product(a: Array, x: Array) -> Array:
    """The matrix `a`, by columns, times the vector `x`."""
    return jnp.sum(a * x[:, None], axis=0)


def transposed_product(a: Array, x: Array) -> Array:
    """The transpose of `a`, by columns, times the vector `x`."""
    return jnp.sum(a * x[None, :], axis=1)


def solver_of(a: Array) -> Callable[[Array], Array]:
    """`b -> x` with `a x = b`, factorised once; `a` by columns.

    Its derivative is that of the system, solved with the same factors. A singular matrix gives
    values that are not finite.
    """
    solve, solve_transposed = _factors(lax.stop_gradient(a))

    def of(b: Array) -> Array:
        return lax.custom_linear_solve(
            lambda x: product(a, x),
            b,
            lambda _, b: solve(b),
            lambda _, b: solve_transposed(b),
        )

    return of


def _factors(a: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Solutions of `a x = b` and of the transposed system."""
    if a.shape[0] <= (INLINE if a.ndim == 2 else INLINE_LANES):
        inverse = inverse_of(a)
        return lambda b: product(inverse, b), lambda b: transposed_product(inverse, b)
    if a.ndim == 2:
        factors = jax.scipy.linalg.lu_factor(a)  # of the transpose of the matrix
        return (
            lambda b: jax.scipy.linalg.lu_solve(factors, b, trans=1),
            lambda b: jax.scipy.linalg.lu_solve(factors, b),
        )
    factors = jax.vmap(jax.scipy.linalg.lu_factor)(jnp.moveaxis(a, -1, 0))

    def solve(b: Array, trans: int) -> Array:
        one = jax.vmap(lambda f, b: jax.scipy.linalg.lu_solve(f, b, trans=trans))
        return one(factors, b.T).T

    return lambda b: solve(b, 1), lambda b: solve(b, 0)


def inverted(a: Array) -> Array:
    """The inverse; not finite if singular."""
    if a.shape[0] <= (INLINE if a.ndim == 2 else INLINE_LANES):
        return inverse_of(a)
    return jnp.linalg.inv(a) if a.ndim == 2 else jax.vmap(jnp.linalg.inv, -1, -1)(a)


def inverse_of(a: Array) -> Array:
    """The inverse, by Gauss-Jordan elimination in place with row pivots; not finite if singular."""
    n, lanes = a.shape[0], a.shape[2:]
    index = jnp.arange(n, dtype=jnp.int32).reshape((n,) + (1,) * len(lanes))

    def turn(k: Array | int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """Exchange unknown `k` with the equation, of those left, with its largest coefficient."""
        a, order = state
        column = a[k]
        size = jnp.where(index >= k, jnp.abs(column), -1.0)
        chosen = jnp.min(jnp.where(size == jnp.max(size, axis=0), index, n - 1), axis=0)
        here, first = index == chosen, entry(a, k)
        row = lax.optimization_barrier(
            jnp.where(index == k, 1.0, entry(a, chosen)) / entry(column, chosen)
        )
        # Equation k moves to the place of the chosen one, and has its own coefficient of unknown k.
        factor = jnp.where(here, entry(column, k), column)
        factor = lax.optimization_barrier(jnp.where(index == k, 0, factor))
        kept = jnp.where(here, first[:, None], a)
        kept = jnp.where((index == k)[:, None], 0, kept)
        a = jnp.where(index == k, row[:, None], kept - row[:, None] * factor)
        moved = jnp.where(here, entry(order, k), order)
        return a, jnp.where(index == k, entry(order, chosen), moved)

    def entry(x: Array, chosen: Array | int) -> Array:
        """What `x` has of one equation, its last axis but the lanes."""
        if not lanes or isinstance(chosen, int) or chosen.ndim == 0:
            axis = x.ndim - 1 - len(lanes)
            return lax.dynamic_index_in_dim(x, chosen, axis, keepdims=False)
        axis = x.ndim - 1 - len(lanes)
        return jnp.sum(jnp.where(index == chosen, x, 0), axis=axis, dtype=x.dtype)

    state = a, index * jnp.ones(lanes, jnp.int32)
    if n <= _WRITTEN_OUT:
        for k in range(n):
            state = lax.optimization_barrier(turn(k, state))
    else:
        state = lax.fori_loop(0, n, turn, state)
    a, order = state
    # The equation that ended in place k is order[k]: column k multiplies its right-hand side.
    rows = order[None] == index[:, None]
    if not lanes:
        return a[jnp.sum(jnp.where(rows, index, 0), axis=1, dtype=jnp.int32)]
    return jnp.sum(jnp.where(rows[:, :, None], a[None], 0), axis=1)
