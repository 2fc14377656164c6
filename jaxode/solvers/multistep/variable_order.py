"""Selection of order and step size, shared by the multistep solvers of variable order."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ...problem.errors import OptionError
from ...problem.validation import is_count
from ..base import Solver
from ..step_size import Tolerance

SAFETY = 0.8


class VariableOrder(Solver):
    """Base class of multistep solvers that choose order and step size at every step."""

    highest_order: ClassVar[int]  # the greatest `max_order`
    one_step: ClassVar[bool] = False
    varies: ClassVar[bool] = True
    stateless: ClassVar[bool] = False

    max_order: int = eqx.field(static=True)
    tolerance: Tolerance | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        if not is_count(self.max_order) or self.max_order > self.highest_order:
            raise OptionError(
                f"max_order of {type(self).__name__} must be 1 to {self.highest_order}, "
                f"got {self.max_order!r}"
            )

    @property
    def order(self) -> int:
        return self.max_order

    @property
    def error_exponent(self) -> int:
        return 2  # of the first step; the errors of other orders are rescaled to it


class OrderDecision(NamedTuple):
    """The next order, the next step's size over this one's, and the error rescaled to order h^2."""

    order: Array
    step_factor: Array
    error: Array


def select_order(
    errors: tuple[Array, Array, Array],
    order: Array,
    may_change: Array,
    max_order: int,
    tolerance: Tolerance,
    states: tuple[Array, Array],
    safety: Array | float = 1.0,
) -> OrderDecision:
    """The next order and step size from the errors of the order below, this one and the one above.

    `states` are those at both ends of the step. Order and step size stay where `may_change` is
    false: the differences of higher order are then not yet known.
    """
    below, current, above = (
        tolerance.scaled_norm_squared(error, *states).astype(order.dtype) for error in errors
    )
    best = order_of_longest_step((below, current, above), order, max_order)
    step_factor = jnp.where(may_change, SAFETY * safety * best.step_factor, 1)
    rescaling = jnp.clip(current, 1e-20, 1e20) ** (1 / (order + 1) - 0.5)
    rescaling = jnp.where(current > 1, rescaling / safety**2, rescaling)
    real = jnp.finfo(errors[1].dtype).dtype
    next_order = jnp.where(may_change, best.order, order)
    return OrderDecision(next_order, step_factor, rescaling.astype(real) * errors[1])


def raise_order(error: Array, order: Array, may_change: Array, max_order: int) -> OrderDecision:
    """The decision at fixed steps: the order rises to `max_order`."""
    higher = jnp.minimum(order + 1, max_order)
    return OrderDecision(jnp.where(may_change, higher, order), jnp.ones_like(order), error)


class OrderChoice(NamedTuple):
    """The order of the next step, and its size over this one's, without a safety factor."""

    order: Array
    step_factor: Array


def order_of_longest_step(
    errors_squared: tuple[Array, Array, Array], order: Array, max_order: int
) -> OrderChoice:
    """The order that allows the longest step; the lower one in a tie.

    `errors_squared`: squared scaled error norms of a step of this size with the order below, with
    `order`, and with the one above.
    """
    tiny = jnp.finfo(order.dtype).tiny
    below, current, above = (
        -jnp.log(jnp.maximum(square, tiny)) / (2 * (order + power))
        for power, square in enumerate(errors_squared)
    )
    below = jnp.where(order > 1, below, -jnp.inf)
    above = jnp.where(order < max_order, above, -jnp.inf)
    best = jnp.maximum(below, jnp.maximum(current, above))
    change = jnp.where(below == best, -1, jnp.where(current == best, 0, 1))
    return OrderChoice(order + change.astype(order.dtype), jnp.exp(best))
