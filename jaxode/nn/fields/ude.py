"""Universal differential equations: a known field plus a network for the unknown terms."""

from typing import Any

import equinox as eqx
from jax import Array
from jaxtyping import PyTree

from ...problem.field import call_field
from .checks import check_callable, check_shape


class UDE(eqx.Module):
    """The sum of a known field and a network: `y' = known(t, y, args) + network(t, y, args)`.

    **Arguments:**

    - `known`: the known terms, a function of `(y)`, `(t, y)` or `(t, y, args)`.
    - `network`: the unknown terms, likewise; returns an array like `y`. Where only some components
      are unknown, a module around the network returns zeros for the others:

    ```python
    class Interaction(eqx.Module):  # the predator-prey terms alone are unknown
        network: eqx.nn.MLP

        def __call__(self, t, y, args):
            gain = self.network(y)  # shape ()
            return jnp.stack([-gain, 0.6 * gain])


    field = jo.nn.UDE(lambda t, y, args: jnp.stack([1.3 * y[0], -1.8 * y[1]]), Interaction(mlp))
    ```

    **Raises:** `FieldError` for functions that cannot be called; called, for functions that do not
    return the shape of `y`.

    Source: Rackauckas et al., Universal differential equations for scientific machine learning
    (2020), arXiv 2001.04385.
    """

    known: Any
    network: Any

    def __init__(self, known: Any, network: Any) -> None:
        self.known = check_callable("UDE", "known", known)
        self.network = check_callable("UDE", "network", network)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        known, unknown = call_field(self.known, t, y, args), call_field(self.network, t, y, args)
        check_shape("UDE", "known", known, y.shape)
        check_shape("UDE", "network", unknown, y.shape)
        return known + unknown
