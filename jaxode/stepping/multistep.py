"""What multistep solvers of variable order share: tables by order, and the choice of the next."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

SAFETY = 0.8


class Chosen(NamedTuple):
    """The order of the next step, and how its size is to this one's, before any safety."""

    order: Array
    factor: Array


def at_order(table: Sequence[Any], order: Array, first: int = 1) -> Array:
    """The entry of `table`, numbers or arrays for orders from `first` on, at `order`."""
    found = jnp.asarray(table[0])
    for number, value in enumerate(table[1:], first + 1):
        found = jnp.where(order == number, value, found)
    return found


def chosen(squares: tuple[Array, Array, Array], order: Array, most: int) -> Chosen:
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
    return Chosen(order + change.astype(order.dtype), jnp.exp(best))
