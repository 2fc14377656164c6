"""Base class of solvers of partitioned states `(q, p)`, and the halves of such states."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from ...problem.errors import StateError
from ...problem.state import Packing
from ..base import Solver


class Partitioned(Solver):
    """Base class of solvers that update the two halves of the state alternately.

    The packed state is one array; its first axis holds the halves, one after the other. The call
    `field(t, y, half)` evaluates one half of the slope alone.
    """

    partitioned: ClassVar[bool] = True

    def check(self, packing: Packing) -> None:
        """**Raises:** `StateError` unless the state has two halves of equal structure."""
        if not _has_halves(packing):
            shapes = jax.tree.unflatten(packing.treedef, map(list, packing.shapes))
            raise StateError(
                f"{type(self).__name__} needs y0 = (q, p), a pair of equal structure and shapes, "
                f"or one array whose first axis holds q and then p; got shapes {shapes}"
            )


def _has_halves(packing: Packing) -> bool:
    if len(packing.shapes) == 1:
        shape = packing.shapes[0]
        return bool(shape) and shape[0] % 2 == 0
    tree = jax.tree.unflatten(packing.treedef, packing.shapes)
    children, half = packing.treedef.children(), len(packing.shapes) // 2
    return (
        isinstance(tree, tuple | list)
        and len(children) == 2
        and children[0] == children[1]
        and packing.shapes[:half] == packing.shapes[half:]
    )


def halves(y: Array) -> tuple[Array, Array]:
    """The halves `q` and `p` of a state."""
    middle = y.shape[0] // 2
    return y[:middle], y[middle:]


def joined(first: Array, second: Array) -> Array:
    """The state made of two halves."""
    return jnp.concatenate([first, second])
