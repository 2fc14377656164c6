"""Time, or data, given to a network beside the state."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.errors import FieldError
from ...problem.field import call_field
from .checks import check_callable


def with_time(t: Array, y: Float[Array, "features ..."]) -> Float[Array, "more ..."]:
    """`y` with the time as one more feature, or as one more channel of an image."""
    return jnp.concatenate([y, jnp.full((1, *y.shape[1:]), t, y.dtype)])


class DepthConcat(eqx.Module):
    """A field of a network that sees the time beside the state: `network([y, t])`.

    **Arguments:**

    - `network`: takes one feature more than it returns; of an image `(channels, height, width)`
      one channel more, which holds the time everywhere.

    **Raises:** `FieldError` if the network cannot be called.
    """

    network: Any

    def __init__(self, network: Any) -> None:
        self.network = check_callable("DepthConcat", "network", network)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The slope at `y`, of its shape."""
        return call_field(self.network, t, with_time(t, y), args)


class DataControlled(eqx.Module):
    """A field of a network that sees data beside the state: `network([y, args])`.

    Solved from the same start, each sample then follows a field of its own. The data come as
    `args`, an array of features like `y`; in a batch `NeuralODE` maps them by `args_axes=0`.

    **Arguments:**

    - `network`: takes the features (or channels) of the state and then those of the data, and
      returns those of the state.

    **Raises:** `FieldError` if the network cannot be called; called, if `args` is no array whose
    axes after the first are those of `y`.

    Source: Massaroli et al., Dissecting neural ODEs (2020), arXiv 2002.08071.
    """

    network: Any

    def __init__(self, network: Any) -> None:
        self.network = check_callable("DataControlled", "network", network)

    def __call__(self, t: Array, y: Array, args: Array) -> Array:
        """The slope at `y`, of its shape."""
        is_array = isinstance(args, Array | np.ndarray)
        if not is_array or args.ndim != y.ndim or args.shape[1:] != y.shape[1:]:
            got = f"shape {args.shape}" if is_array else type(args).__name__
            raise FieldError(
                f"DataControlled: args must be the data, an array (features, ...) beside y of "
                f"shape {y.shape}; got {got}"
            )
        return call_field(self.network, t, jnp.concatenate([y, args.astype(y.dtype)]), args)
