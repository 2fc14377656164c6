"""What multistep solvers of variable order share: histories, tables by order, the next order.

A history is a stack of backward differences of orders 1 and up, at equal spacing: an array whose
first axis is their order, and whose last is lanes where `order` is a vector. Those up to `order`
count; what is beyond it is masked, so that one shape serves all orders.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..implicit.base import weighted_sum
from ..step_size import Tolerance

SAFETY = 0.8
NEARLY = 1e-3  # steps so much alike count as equal


class OrderDecision(NamedTuple):
    """The next order, the next step's size to this one's, and the error, made to go as h^2."""

    order: Array
    factor: Array
    error: Array


def select_order(
    errors: tuple[Array, Array, Array],
    order: Array,
    due: Array,
    most: int,
    tolerance: Tolerance,
    states: tuple[Array, Array],
    safety: Array | float = 1.0,
) -> OrderDecision:
    """What follows from the errors of the order below, of this order, and of the one above.

    Order and step change where that is `due`; else the differences above are not known.
    """
    below, here, above = (tolerance.scaled_norm_squared(x, *states).astype(order.dtype) for x in errors)
    best = order_of_longest_step((below, here, above), order, most)
    factor = jnp.where(due, SAFETY * safety * best.factor, 1)
    stretch = jnp.clip(here, 1e-20, 1e20) ** (1 / (order + 1) - 0.5)
    stretch = jnp.where(here > 1, stretch / safety**2, stretch)
    real = jnp.finfo(errors[1].dtype).dtype
    return OrderDecision(
        jnp.where(due, best.order, order), factor, stretch.astype(real) * errors[1]
    )


def select_order_at_fixed_steps(error: Array, order: Array, due: Array, most: int) -> OrderDecision:
    """The order rises to the highest."""
    higher = jnp.minimum(order + 1, most)
    return OrderDecision(jnp.where(due, higher, order), jnp.ones_like(order), error)


class OrderChoice(NamedTuple):
    """The order of the next step, and how its size is to this one's, before any safety."""

    order: Array
    factor: Array


def entry_at_order(table: Sequence[Any], order: Array, first: int = 1) -> Array:
    """The entry of `table`, numbers or arrays for orders from `first` on, at `order`."""
    found = jnp.asarray(table[0])
    for number, value in enumerate(table[1:], first + 1):
        found = jnp.where(order == number, value, found)
    return found


def order_of_longest_step(squares: tuple[Array, Array, Array], order: Array, most: int) -> OrderChoice:
    """The order that allows the longest step, the lower in a tie.

    `squares`: squared errors, in units of the tolerance, of a step of this size by the order below,
    by `order`, and by the one above.
    """
    tiny = jnp.finfo(order.dtype).tiny
    below, here, above = (
        -jnp.log(jnp.maximum(square, tiny)) / (2 * (order + power))
        for power, square in enumerate(squares)
    )
    below = jnp.where(order > 1, below, -jnp.inf)
    above = jnp.where(order < most, above, -jnp.inf)
    best = jnp.maximum(below, jnp.maximum(here, above))
    change = jnp.where(below == best, -1, jnp.where(here == best, 0, 1))
    return OrderChoice(order + change.astype(order.dtype), jnp.exp(best))


def rows_up_to(order: Array, rows: Array) -> Array:
    """The rows up to `order`, and zeros."""
    return jnp.where(_numbers(rows) <= order, rows, 0)


def row_at(rows: Array, number: Array) -> Array:
    """Row `number`, counted from one; zero if there is none."""
    return jnp.sum(jnp.where(_numbers(rows) == number, rows, 0), axis=0)


def as_state_factors(weights: Array, axes: int, y: Array) -> Array:
    """`weights`, whose axes after the first ones are lanes, as factors of states like `y`."""
    first, lanes = weights.shape[:axes], weights.shape[axes:]
    shape = *first, *(1,) * (y.ndim - len(lanes)), *lanes
    return weights.astype(jnp.finfo(y.dtype).dtype).reshape(shape)


def rescale_differences(rows: Array, ratio: Array, order: Array, most: int) -> Array:
    """The differences up to `order` at a spacing `ratio` times the old one, the others as before.

    They are those of the polynomial through the last `order + 1` values. `order` is at most `most`.

    Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997).
    """
    number = np.arange(1, most + 1).reshape(-1, *(1,) * ratio.ndim)
    row, moved = 1.0, []
    for i in range(1, most + 1):
        row = row * ((i - 1 - ratio * number) / i)
        moved.append(row)
    moved = lax.optimization_barrier(jnp.stack(moved))
    back = _restored(most).reshape(most, most, *(1,) * ratio.ndim)
    matrix = jnp.sum(moved[:, :, None] * back.astype(ratio.dtype), axis=1)
    i, j = number[:, None], number[None]
    matrix = jnp.where((i >= j) & (i <= order), matrix, (i == j) * 1.0)
    matrix = lax.optimization_barrier(matrix)
    new = jnp.sum(as_state_factors(matrix, 2, rows[0]) * rows[:most, None], axis=0)
    return lax.optimization_barrier(jnp.concatenate([new, rows[most:]]))


def update_differences(rows: Array, newest: Array, order: Array) -> Array:
    """The differences a step later, where that of order `order + 1` is `newest`.

    That of `order + 2` follows from the one before it; beyond it they mean nothing.
    """
    count = rows.shape[0]
    sums = jnp.tril(jnp.ones((count, count), jnp.finfo(rows.dtype).dtype))
    sums = sums.reshape(count, count, *(1,) * (rows.ndim - 1))
    new = newest + jnp.sum(sums * rows_up_to(order, rows)[:, None], axis=0)
    last = newest - row_at(rows, order + 1)
    return lax.optimization_barrier(jnp.where(_numbers(rows) == order + 2, last, new))


def interpolation_coefficients(rows: Array, order: Array, most: int) -> tuple[Array, ...]:
    """That of the step just made: coefficients of theta to the power one and up."""
    known, table = rows_up_to(order, rows[:most]), _powers(most)
    return tuple(weighted_sum(row, known) for row in table)


def _numbers(rows: Array) -> np.ndarray:
    """One, two and so on, along the first axis."""
    return np.arange(1, rows.shape[0] + 1).reshape(-1, *(1,) * (rows.ndim - 1))


@functools.cache
def _restored(most: int) -> np.ndarray:
    """The matrix between differences and values before the last: row and column from one on."""
    numbers = range(1, most + 1)
    return np.array([[(-1.0) ** m * math.comb(j, m) for j in numbers] for m in numbers])


@functools.cache
def _powers(count: int) -> np.ndarray:
    """Coefficients of `prod (theta - 1 + i) / (1 + i)`, i from 0 to j - 1: powers by j."""
    table, product = np.zeros((count, count)), np.ones(1)
    for j in range(count):
        product = np.convolve(product, [j - 1, 1]) / (1 + j)
        table[: j + 1, j] = product[1:]
    return table
