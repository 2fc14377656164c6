"""What fields are made of: parts that are checked, a state in halves, the slope of a scalar."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.errors import FieldError
from ...problem.field import call_field


def check_callable(owner: str, name: str, part: Any) -> Any:
    """`part`, which must be callable. **Raises:** `FieldError`, saying whose part it is."""
    if not callable(part) or inspect.isclass(part):
        raise FieldError(
            f"{owner}: {name} must be a network or function of (y), (t, y) or (t, y, args), got "
            f"{part!r}"
        )
    return part


def check_shape(owner: str, name: str, value: Any, shape: tuple[int, ...]) -> None:
    """**Raises:** `FieldError` unless what the part `name` returned has this shape."""
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
    """A scalar part at `y`, and its gradient by `y`.

    **Raises:** `FieldError` where the part returns another shape than `()`.
    """

    def value(y: Array) -> Array:
        found = call_field(scalar, t, y, args)
        if jnp.shape(found) != ():
            raise FieldError(
                f"{owner}: {name} must return a scalar of shape (), got {jnp.shape(found)}; an "
                'eqx.nn.MLP does so with out_size="scalar"'
            )
        return found

    return jax.value_and_grad(value)(y)


def gradient(owner: str, name: str, scalar: Any, t: Array, y: Array, args: PyTree) -> Array:
    """The gradient of a scalar part by `y`. **Raises:** as `value_and_gradient`."""
    return value_and_gradient(owner, name, scalar, t, y, args)[1]
