"""The field of a second-order equation, for networks that return accelerations."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.field import call_field
from .checks import check_callable, check_shape, halves


class SecondOrder(eqx.Module):
    """The field of `q'' = network([q, q'])`: for `y = (q, v)`, `q' = v` and `v' = network(y)`.

    **Arguments:**

    - `network`: of `(y)`, `(t, y)` or `(t, y, args)`; takes both halves, returns one.

    **Raises:** `FieldError` if the network cannot be called; called, for a state that is not a
    vector of even size and for a network that does not return half of it.

    Source: Norcliffe et al., On second order behaviour in augmented neural ODEs (2020), arXiv
    2006.07220.
    """

    network: Any

    def __init__(self, network: Any) -> None:
        self.network = check_callable("SecondOrder", "network", network)

    def __call__(self, t: Array, y: Float[Array, " size"], args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        q, v = halves("SecondOrder", y)
        acceleration = call_field(self.network, t, y, args)
        check_shape("SecondOrder", "network", acceleration, q.shape)
        return jnp.concatenate([v, acceleration])
