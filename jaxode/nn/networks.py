"""Default networks of models, and the cast of their weights to the precision of the data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import FieldError


def field_or_mlp(field: Any, size: int, width: int, depth: int, activation: Any, key: Array) -> Any:
    """The user's field, or an MLP from `size` to `size` numbers if it is None.

    **Raises:** `FieldError` for a field that cannot be called.
    """
    check_field_or_none(field)
    if field is None:
        return eqx.nn.MLP(size, size, width, depth, activation, key=key)
    return field


def check_field_or_none(field: Any) -> None:
    """**Raises:** `FieldError` for a field that cannot be called."""
    if field is not None and (not callable(field) or isinstance(field, type)):
        raise FieldError(f"the field must be a callable such as an eqx.nn.MLP, got {field!r}")


def cast(modules: PyTree, dtype: Any) -> Any:
    """The modules with their floating-point arrays in `dtype`, that of the data."""

    def cast_leaf(x: Any) -> Any:
        floating = isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(dtype) if floating else x

    return jax.tree.map(cast_leaf, modules)
