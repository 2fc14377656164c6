"""Fields in two parts, for solvers that treat one implicitly and the other explicitly."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class Split(eqx.Module):
    """A field in a stiff part and another; called, it is their sum."""

    stiff: Callable[..., PyTree]
    other: Callable[..., PyTree]

    def __call__(self, *inputs: Any) -> PyTree:
        """The sum of the parts."""
        return jax.tree.map(jnp.add, self.stiff(*inputs), self.other(*inputs))


def by_parts(function: Callable[[Any], Any], field: Any) -> Any:
    """`function(field)`, or the same of each part of a `Split`."""
    if isinstance(field, Split):
        return Split(function(field.stiff), function(field.other))
    return function(field)
