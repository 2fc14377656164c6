"""Rooted trees, by which the order conditions of Runge-Kutta and Rosenbrock methods are written.

Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.2.
"""

import functools
import itertools
import math

import numpy as np


@functools.cache
def trees(size: int) -> tuple[tuple, ...]:
    """The rooted trees of `size` nodes, each the sorted tuple of the trees at its root."""
    found = set()
    for sizes in _partitions(size - 1):
        for branches in itertools.product(*(trees(part) for part in sizes)):
            found.add(tuple(sorted(branches)))
    return tuple(sorted(found))


def _partitions(total: int, largest: int | None = None):
    if total == 0:
        yield ()
    for first in range(min(total, largest or total), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


@functools.cache
def nodes(tree: tuple) -> int:
    return 1 + sum(map(nodes, tree))


@functools.cache
def density(tree: tuple) -> int:
    return nodes(tree) * math.prod(map(density, tree))


def stage_weights(A: np.ndarray, tree: tuple) -> np.ndarray:
    """The contribution of each stage to the elementary differential of `tree`."""
    product = np.ones(len(A))
    for branch in tree:
        product = product * (A @ stage_weights(A, branch))
    return product
