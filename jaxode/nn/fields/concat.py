"""Fields whose network takes the time, or data, as further inputs."""

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
    """Append the time to `y` as one more feature, or as one more channel of an image."""
    return jnp.concatenate([y, jnp.full((1, *y.shape[1:]), t, y.dtype)])


class DepthConcat(eqx.Module):
    """A field whose network takes the time as a further input: `network([y, t])`.

    **Arguments:**

    - `network`: takes one feature more than it returns; for an image `(channels, height, width)`
      one channel more, which is the time everywhere.

    **Raises:** `FieldError` if the network cannot be called.
    """

    network: Any

    def __init__(self, network: Any) -> None:
        self.network = check_callable("DepthConcat", "network", network)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        return call_field(self.network, t, with_time(t, y), args)


class DataControlled(eqx.Module):
    """A field whose network takes data as further inputs: `network([y, args])`.

    So from the same initial state each sample follows a field of its own. The data are passed as
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
        """The time derivative at `y`, shaped like `y`."""
        is_array = isinstance(args, Array | np.ndarray)
        if not is_array or args.ndim != y.ndim or args.shape[1:] != y.shape[1:]:
            got = f"shape {args.shape}" if is_array else type(args).__name__
            raise FieldError(
                f"DataControlled: args must be the data, an array (features, ...) beside y of "
                f"shape {y.shape}; got {got}"
            )
        return call_field(self.network, t, jnp.concatenate([y, args.astype(y.dtype)]), args)
