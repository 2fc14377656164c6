"""A pytree as its arrays and the rest, which can be hashed."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from .object_key import ByIdentity

ARRAYS = (jax.Array, np.ndarray, np.generic)


class Static(NamedTuple):
    """The part of a pytree that is no array: its structure, and its leaves, arrays marked."""

    treedef: Any
    leaves: tuple[Any, ...]

    @property
    def key(self) -> Hashable:
        """What two such parts have in common if they are equal."""
        return self.treedef, *map(_key, self.leaves)

    def join(self, arrays: list[Any]) -> PyTree:
        """The pytree with these arrays."""
        array = iter(arrays)
        leaves = [next(array) if leaf is _ARRAY else leaf for leaf in self.leaves]
        return jax.tree.unflatten(self.treedef, leaves)


class _Array:
    """Stands for an array among the leaves."""


_ARRAY = _Array()


def partition(tree: PyTree) -> tuple[list[Any], Static]:
    """The arrays of a pytree, and what it is without them."""
    leaves, treedef = jax.tree.flatten(tree)
    marked = tuple([_ARRAY if isinstance(x, ARRAYS) else x for x in leaves])
    arrays = [x for x in leaves if isinstance(x, ARRAYS)]
    return arrays, Static(treedef, marked)


def _key(leaf: Any) -> Hashable:
    """The key of a leaf: its type too, for one is equal to `True`."""
    try:
        hash(leaf)
    except TypeError:
        return ByIdentity(leaf)
    return type(leaf), leaf
