"""Backward differences of multistep solvers, and tables by order.

A history is a stack of backward differences of orders 1 and up, at equal spacing: an array whose
first axis is the order of the difference; its last axis is lanes where `order` is a vector.
Differences beyond `order` are masked, so that one shape serves all orders.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..implicit.base import weighted_sum

EQUAL_STEPS = 1e-3  # relative difference up to which two step sizes count as equal


def entry_at_order(table: Sequence[Any], order: Array, first: int = 1) -> Array:
    """The entry of `table` at `order`; its entries are for the orders `first`, `first + 1`, ..."""
    entry = jnp.asarray(table[0])
    for number, value in enumerate(table[1:], first + 1):
        entry = jnp.where(order == number, value, entry)
    return entry


def rows_up_to(order: Array, rows: Array) -> Array:
    """The rows up to `order`, counted from one, and zeros beyond."""
    return jnp.where(_row_numbers(rows) <= order, rows, 0)


def row_at(rows: Array, number: Array) -> Array:
    """Row `number`, counted from one; zero if there is none."""
    return jnp.sum(jnp.where(_row_numbers(rows) == number, rows, 0), axis=0)


def as_state_factors(weights: Array, axes: int, y: Array) -> Array:
    """`weights` as factors of states like `y`: their axes after the first `axes` ones are lanes."""
    first, lanes = weights.shape[:axes], weights.shape[axes:]
    shape = *first, *(1,) * (y.ndim - len(lanes)), *lanes
    return weights.astype(jnp.finfo(y.dtype).dtype).reshape(shape)


def rescale_differences(rows: Array, ratio: Array, order: Array, max_order: int) -> Array:
    """The differences up to `order` at a spacing `ratio` times the old one; the others unchanged.

    They are those of the polynomial through the last `order + 1` values. `order` is at most
    `max_order`.

    Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997).
    """
    number = np.arange(1, max_order + 1).reshape(-1, *(1,) * ratio.ndim)
    row, values = 1.0, []
    for i in range(1, max_order + 1):
        # Rows beyond the order are not read, and would overflow in a first step.
        row = row * jnp.where(i <= order, (i - 1 - ratio * number) / i, 0)
        values.append(row)
    values = lax.optimization_barrier(jnp.stack(values))
    differences = _difference_matrix(max_order).reshape(max_order, max_order, *(1,) * ratio.ndim)
    matrix = jnp.sum(values[:, :, None] * differences.astype(ratio.dtype), axis=1)
    i, j = number[:, None], number[None]
    matrix = jnp.where((i >= j) & (i <= order), matrix, (i == j) * 1.0)
    matrix = lax.optimization_barrier(matrix)
    factors = as_state_factors(matrix, 2, rows[0])
    new = jnp.sum(factors * rows[:max_order, None], axis=0)
    return lax.optimization_barrier(jnp.concatenate([new, rows[max_order:]]))


def update_differences(rows: Array, newest: Array, order: Array) -> Array:
    """The differences one step later, where that of order `order + 1` is `newest`.

    That of order `order + 2` follows from the previous one; those beyond have no meaning.
    """
    count = rows.shape[0]
    sums = jnp.tril(jnp.ones((count, count), jnp.finfo(rows.dtype).dtype))
    sums = sums.reshape(count, count, *(1,) * (rows.ndim - 1))
    new = newest + jnp.sum(sums * rows_up_to(order, rows)[:, None], axis=0)
    last = newest - row_at(rows, order + 1)
    return lax.optimization_barrier(jnp.where(_row_numbers(rows) == order + 2, last, new))


def interpolation_coefficients(rows: Array, order: Array, max_order: int) -> tuple[Array, ...]:
    """The interpolating polynomial over the step just made: coefficients of theta, theta^2, ..."""
    differences, table = rows_up_to(order, rows[:max_order]), _newton_basis(max_order)
    return tuple(weighted_sum(row, differences) for row in table)


def _row_numbers(rows: Array) -> np.ndarray:
    """1, 2, ... along the first axis."""
    return np.arange(1, rows.shape[0] + 1).reshape(-1, *(1,) * (rows.ndim - 1))


@functools.cache
def _difference_matrix(max_order: int) -> np.ndarray:
    """The matrix from past values to backward differences; row and column count from one."""
    numbers = range(1, max_order + 1)
    return np.array([[(-1.0) ** m * math.comb(j, m) for j in numbers] for m in numbers])


@functools.cache
def _newton_basis(count: int) -> np.ndarray:
    """Coefficients of `prod (theta - 1 + i) / (1 + i)`, i from 0 to j - 1: powers by j."""
    table, product = np.zeros((count, count)), np.ones(1)
    for j in range(count):
        product = np.convolve(product, [j - 1, 1]) / (1 + j)
        table[: j + 1, j] = product[1:]
    return table
