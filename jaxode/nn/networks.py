"""The networks of a model: given or made, and in the precision of the data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import FieldError


def field_or_mlp(field: Any, size: int, width: int, depth: int, activation: Any, key: Array) -> Any:
    """The field given, or an MLP of `size` numbers."""
    if field is None:
        return eqx.nn.MLP(size, size, width, depth, activation, key=key)
    if not callable(field) or isinstance(field, type):
        raise FieldError(f"the field must be a callable such as an eqx.nn.MLP, got {field!r}")
    return field


def cast(modules: PyTree, dtype: Any) -> Any:
    """The same modules with their real arrays in `dtype`, that of the data."""

    def of(x: Any) -> Any:
        real = isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(dtype) if real else x

    return jax.tree.map(of, modules)
