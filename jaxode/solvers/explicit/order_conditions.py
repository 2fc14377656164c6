"""Order conditions of Runge-Kutta methods, by rooted trees.

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.2.
"""

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np

Tree = tuple["Tree", ...]


@functools.cache
def trees(size: int) -> tuple[Tree, ...]:
    """The rooted trees of `size` nodes, each the sorted tuple of the trees at its root."""
    found = set()
    for sizes in _partitions(size - 1):
        for branches in itertools.product(*(trees(part) for part in sizes)):
            found.add(tuple(sorted(branches)))
    return tuple(sorted(found))


def _partitions(total: int, largest: int | None = None) -> Iterator[tuple[int, ...]]:
    if total == 0:
        yield ()
    for first in range(min(total, largest or total), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


@functools.cache
def nodes(tree: Tree) -> int:
    """The number of nodes of a tree."""
    return 1 + sum(map(nodes, tree))


@functools.cache
def density(tree: Tree) -> int:
    """The density of a tree: the weights of a step of its order sum to one over it."""
    return nodes(tree) * math.prod(map(density, tree))


def stage_weights(A: np.ndarray, tree: Tree) -> np.ndarray:
    """The contribution of each stage to the elementary differential of `tree`."""
    product = np.ones(len(A))
    for branch in tree:
        product = product * (A @ stage_weights(A, branch))
    return product


def order_of(A: np.ndarray, weights: np.ndarray, highest: int, tolerance: float = 1e-10) -> int:
    """The order, up to `highest`, of the method with the stages `A` and these weights."""
    for order in range(1, highest + 1):
        for tree in trees(order):
            terms = weights * stage_weights(A, tree)
            gap = abs(terms.sum() - 1 / density(tree))
            if gap > tolerance * max(1.0, np.abs(terms).sum()):
                return order - 1
    return highest
