"""Helpers of fields: checks of their functions, halves of a state, the gradient of a scalar."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.errors import FieldError, OptionError
from ...problem.field import call_field
from ...problem.validation import check_counts, is_count, shown_value


def check_callable(owner: str, name: str, function: Any) -> Any:
    """Check that `function` can be called, and return it. **Raises:** `FieldError`."""
    if not callable(function) or inspect.isclass(function):
        raise FieldError(
            f"{owner}: {name} must be a network or function of (y), (t, y) or (t, y, args), got "
            f"{function!r}"
        )
    return function


def check_convolution(owner: str, in_channels: Any, out_channels: Any, kernel_size: Any) -> None:
    """Check the sizes of a convolution in the plane. **Raises:** `OptionError`."""
    check_counts(owner, in_channels=in_channels, out_channels=out_channels)
    sizes = kernel_size if isinstance(kernel_size, tuple | list) else (kernel_size,)
    if len(sizes) not in (1, 2) or not all(map(is_count, sizes)):
        shown = shown_value(kernel_size)
        raise OptionError(f"{owner}: kernel_size must be a positive integer or two, got {shown}")


def check_shape(owner: str, name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Check the shape that the function `name` returned. **Raises:** `FieldError`."""
    if jnp.shape(value) != shape:
        raise FieldError(f"{owner}: {name} must return shape {shape}, got {jnp.shape(value)}")


def halves(owner: str, y: Float[Array, " size"]) -> tuple[Array, Array]:
    """The two halves of a vector. **Raises:** `FieldError` for an odd size or more axes."""
    if jnp.ndim(y) != 1 or jnp.size(y) % 2:
        raise FieldError(
            f"{owner}: the state is one vector of two halves, so of even size; got shape "
            f"{jnp.shape(y)}"
        )
    middle = y.shape[0] // 2
    return y[:middle], y[middle:]


def value_and_gradient(
    owner: str, name: str, scalar: Any, t: Array, y: Array, args: PyTree
) -> tuple[Float[Array, ""], Array]:
    """The value of a scalar function at `y`, and its gradient by `y`.

    **Raises:** `FieldError` where the function returns another shape than `()`.
    """

    def checked_scalar(y: Array) -> Array:
        value = call_field(scalar, t, y, args)
        if jnp.shape(value) != ():
            raise FieldError(
                f"{owner}: {name} must return a scalar of shape (), got {jnp.shape(value)}; an "
                'eqx.nn.MLP does so with out_size="scalar"'
            )
        return value

    return jax.value_and_grad(checked_scalar)(y)


def gradient(owner: str, name: str, scalar: Any, t: Array, y: Array, args: PyTree) -> Array:
    """The gradient of a scalar function by `y`. **Raises:** as `value_and_gradient`."""
    return value_and_gradient(owner, name, scalar, t, y, args)[1]
