"""A cost that is integrated along a trajectory, as a component beside the state."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..problem.calling import positional_arguments
from ..problem.errors import FieldError
from ..problem.field import call_field


class WithIntegral(eqx.Module):
    """The field of a pair: the state, and the integral of a cost along its trajectory."""

    field: Callable[..., Array]
    cost: Callable[..., Array]

    def __call__(self, t: Array, state: tuple[Array, Array], args: PyTree) -> Any:
        """The time derivative: that of the state, and the cost. **Raises:** `FieldError`."""
        y, integral = state
        slope = call_field(self.field, t, y, args)
        if _takes_slope(self.cost):
            cost = self.cost(t, y, args, slope)
        else:
            cost = call_field(self.cost, t, y, args)
        if jnp.shape(cost) != ():
            raise FieldError(
                f"integral_loss must return a scalar for one sample, got shape {jnp.shape(cost)}"
            )
        return slope, jnp.asarray(cost, integral.dtype)


def _takes_slope(cost: Callable[..., Array]) -> bool:
    least, _ = positional_arguments(cost) or (3, 3)
    return least == 4
