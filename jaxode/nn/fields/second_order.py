"""Fields of equations of second and higher order, for networks of the highest derivative."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.errors import FieldError
from ...problem.field import call_field
from ...problem.validation import check_count
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


class HigherOrder(eqx.Module):
    """The field of an equation of order n for the state `y = (q, q', ..., q^(n - 1))`.

    The state's first axis (features or channels) is that of `q` and its derivatives, one after the
    other; the network takes all of it and returns the n-th derivative, shaped like `q`.

    **Arguments:**

    - `network`: of `(y)`, `(t, y)` or `(t, y, args)`.
    - `order`: n, at least 1.

    **Raises:** `FieldError` if the network cannot be called, and `OptionError` for another order;
    called, `FieldError` for a state that `order` does not divide and for a network that does not
    return its share of it.

    Source: Massaroli et al., Dissecting neural ODEs (2020), arXiv 2002.08071.
    """

    network: Any
    order: int = eqx.field(static=True)

    def __init__(self, network: Any, order: int) -> None:
        self.network = check_callable("HigherOrder", "network", network)
        self.order = check_count("HigherOrder: order", order)

    def __call__(self, t: Array, y: Float[Array, "size ..."], args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        if jnp.ndim(y) == 0 or y.shape[0] % self.order:
            raise FieldError(
                f"HigherOrder: the state is a value and its {self.order - 1} derivatives, so its "
                f"first axis is a multiple of {self.order}; got shape {jnp.shape(y)}"
            )
        size = y.shape[0] // self.order
        highest = call_field(self.network, t, y, args)
        check_shape("HigherOrder", "network", highest, (size, *y.shape[1:]))
        return jnp.concatenate([y[size:], highest])
