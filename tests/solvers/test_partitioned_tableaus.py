"""Tableaus of symplectic and Nystrom methods against their order conditions."""

import functools
import itertools
import math

import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import solver_classes
from jaxode.solvers.symplectic.nystrom_tableau import NystromTableau
from jaxode.solvers.symplectic.splitting import Symplectic
from jaxode.solvers.symplectic.splitting_tableau import SymplecticTableau

COMPOSITIONS = {
    kind.__name__: kind.tableau for kind in solver_classes() if issubclass(kind, Symplectic)
}
# Orders of the step and of its companion, and of dense output in position and velocity.
NYSTROM = {"Nystrom4": (4, None, 4, 3), "DPRKN6": (6, 4, 6, 5)}


def words(table: SymplecticTableau, degree: int) -> float:
    """The worst error of a word of drifts and kicks in the product of exponentials of a step."""
    found = {"": 1.0}
    for kind, length, _ in table.flows:
        longer: dict[str, float] = {}
        for word, size in found.items():
            for power in range(degree - len(word) + 1):
                new = word + "qp"[kind] * power
                longer[new] = longer.get(new, 0.0) + size * length**power / math.factorial(power)
        found = longer
    every = map("".join, itertools.product("qp", repeat=degree))
    return max(abs(found.get(word, 0.0) - 1 / math.factorial(degree)) for word in every)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_composition_has_exactly_the_order_it_claims(name):
    table = COMPOSITIONS[name]
    assert max(words(table, degree) for degree in range(1, table.order + 1)) < 1e-13
    assert words(table, table.order + 1) > 1e-5


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_flows_alternate_and_each_reads_the_clock_of_the_other(name):
    flows = COMPOSITIONS[name].flows
    kinds = [kind for kind, _, _ in flows]
    assert all(a != b for a, b in itertools.pairwise(kinds))
    for n, (kind, _, at) in enumerate(flows):
        clock = sum(length for other, length, _ in flows[:n] if other != kind)
        assert abs(at - clock) < 1e-15
    symmetric = [length for _, length, _ in flows]
    assert (name == "SemiImplicitEuler") == (symmetric != symmetric[::-1] or len(flows) % 2 == 0)


# A tree is what hangs on an acceleration: the velocity (None), or the position by a lower tree.
Tree = tuple


@functools.cache
def trees(size: int) -> tuple[Tree, ...]:
    """The trees of `size` derivatives, those of the first order system."""
    if size == 1:
        return ((),)
    branches = {1: [None], **{n + 1: list(trees(n)) for n in range(1, size - 1)}}
    found = set()
    for sizes in _partitions(size - 1):
        for chosen in itertools.product(*(branches.get(part, []) for part in sizes)):
            found.add(tuple(sorted(chosen, key=repr)))
    return tuple(sorted(found, key=repr))


def _partitions(total: int, largest: int | None = None):
    if total == 0:
        yield ()
    for first in range(min(total, largest or total), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


def nodes(tree: Tree | None) -> int:
    return 0 if tree is None else 1 + sum(1 + nodes(branch) for branch in tree)


def density(tree: Tree | None) -> int:
    if tree is None:
        return 1
    return nodes(tree) * math.prod((1 + nodes(branch)) * density(branch) for branch in tree)


def weights(table: NystromTableau, tree: Tree) -> np.ndarray:
    """What each stage contributes to the elementary differential of `tree`."""
    product, c = np.ones(table.stages), np.array(table.c)
    A = np.array([[*row, *[0.0] * (table.stages - len(row))] for row in ((), *table.a)])
    for branch in tree:
        product = product * (c if branch is None else A @ weights(table, branch))
    return product


def reaches(table: NystromTableau, b, bd, theta=1.0) -> tuple[int, int]:
    """The highest orders of position and velocity at `theta` of the step."""

    def worst(row, more: int, size: int) -> float:
        powers = [theta ** (nodes(t) + more) for t in trees(size)]
        exact = [
            p / density(t) / (nodes(t) + 1) ** more
            for p, t in zip(powers, trees(size), strict=True)
        ]
        got = [np.dot(row, weights(table, t)) for t in trees(size)]
        return float(np.max(np.abs(np.subtract(got, exact))))

    position = itertools.takewhile(lambda n: worst(b, 1, n) < 1e-14, range(1, 8))
    velocity = itertools.takewhile(lambda n: worst(bd, 0, n) < 1e-14, range(1, 8))
    return max([0, *position]) + 1, max([0, *velocity])


def test_the_generator_finds_every_tree():
    """As many as Hairer, Norsett and Wanner count, table II.14.1."""
    assert [len(trees(size)) for size in range(1, 8)] == [1, 1, 2, 3, 6, 10, 20]


@pytest.mark.parametrize("name", NYSTROM)
def test_nystrom_step_and_companion_have_exactly_the_orders_they_claim(name):
    table = getattr(jo, name).tableau
    order, companion, *_ = NYSTROM[name]
    assert table.order == order == min(reaches(table, table.b, table.bd))
    assert table.embedded_order == companion
    if companion is not None:
        b = np.array(table.b) - np.array(table.error_b)
        bd = np.array(table.bd) - np.array(table.error_bd)
        assert min(reaches(table, b, bd)) == companion


@pytest.mark.parametrize("name", NYSTROM)
def test_nystrom_dense_output_has_exactly_the_orders_it_claims(name):
    table = getattr(jo, name).tableau
    P = np.array(table.dense)
    powers = np.arange(P.shape[1]) + 2

    def at(theta):
        return P @ theta**powers, P @ (powers * theta ** (powers - 1.0))

    found = [reaches(table, *at(theta), theta) for theta in (0.23, 0.5, 0.81)]
    assert tuple(np.min(found, axis=0)) == NYSTROM[name][2:]
    for got, end in zip(at(1.0), (table.b, table.bd), strict=True):
        np.testing.assert_allclose(got, end, atol=1e-14 * np.abs(P).max())
    np.testing.assert_allclose(table.a[-1], table.b[:-1], atol=1e-16)
