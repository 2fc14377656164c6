"""Universal differential equations: what is known of a field, and a network for the rest."""

from typing import Any

import equinox as eqx
from jax import Array
from jaxtyping import PyTree

from ...problem.field import call_field
from .checks import check_callable, check_shape


class UDE(eqx.Module):
    """The sum of a known field and a network: `y' = known(t, y, args) + network(t, y, args)`.

    **Arguments:**

    - `known`: what is known of the field, of `(y)`, `(t, y)` or `(t, y, args)`.
    - `network`: the unknown rest, of the same; it returns an array like `y`. Where only some
      components are unknown, a function of the network puts zeros in the other places:

    ```python
    class Interaction(eqx.Module):  # the predator-prey terms alone are unknown
        network: eqx.nn.MLP

        def __call__(self, t, y, args):
            gain = self.network(y)  # shape ()
            return jnp.stack([-gain, 0.6 * gain])


    field = jo.nn.UDE(lambda t, y, args: jnp.stack([1.3 * y[0], -1.8 * y[1]]), Interaction(mlp))
    ```

    **Raises:** `FieldError` for parts that cannot be called; called, for parts that do not return
    the shape of `y`.

    Source: Rackauckas et al., Universal differential equations for scientific machine learning
    (2020), arXiv 2001.04385.
    """

    known: Any
    network: Any

    def __init__(self, known: Any, network: Any) -> None:
        self.known = check_callable("UDE", "known", known)
        self.network = check_callable("UDE", "network", network)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The slope at `y`, of its shape."""
        known, rest = call_field(self.known, t, y, args), call_field(self.network, t, y, args)
        check_shape("UDE", "known", known, y.shape)
        check_shape("UDE", "network", rest, y.shape)
        return known + rest
