"""A sequence of layers, some of which may depend on time, as a field."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
from jax import Array
from jaxtyping import PyTree

from ...problem.errors import FieldError
from ...problem.field import call_field
from .checks import check_callable


class Sequential(eqx.Module):
    """A field that applies layers in sequence, each of which may depend on time.

    **Arguments:**

    - `layers`: functions of `(x)`, such as `eqx.nn.Linear` or `jnp.tanh`, of
      `(t, x)`, such as `GalerkinLinear` or `ConcatSquash`, or of `(t, x, args)`, as a field.

    **Raises:** `FieldError` for layers that cannot be called, and for `eqx.nn.Dropout`.
    """

    layers: tuple[Callable[..., Any], ...]

    def __init__(self, layers: Sequence[Callable[..., Any]]) -> None:
        if not isinstance(layers, list | tuple):
            raise FieldError(f"Sequential: layers must be a list of layers, got {layers!r}")
        for i, layer in enumerate(layers):
            check_callable("Sequential", f"layers[{i}]", layer)
            if isinstance(layer, eqx.nn.Dropout):
                raise FieldError(
                    f"Sequential: layers[{i}] is eqx.nn.Dropout, whose mask changes at every call "
                    "while a solve needs one field; use jo.nn.Dropout"
                )
        self.layers = tuple(layers)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The output of the last layer."""
        for layer in self.layers:
            y = call_field(layer, t, y, args)
        return y
