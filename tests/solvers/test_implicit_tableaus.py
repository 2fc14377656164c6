"""The tableaus of implicit solvers against the order conditions of rooted trees."""

import dataclasses

import numpy as np
import pytest

from jaxode.solvers.implicit.esdirk import Esdirk
from jaxode.solvers.implicit.kencarp3 import KENCARP3_TABLEAU
from jaxode.solvers.implicit.kencarp4 import KENCARP4_TABLEAU
from jaxode.solvers.implicit.kencarp5 import KENCARP5_TABLEAU
from jaxode.solvers.implicit.trapezoid import TRAPEZOID_TABLEAU
from jaxode.solvers.registry import SOLVERS
from tests.support.rooted_trees import density, nodes, stage_weights, trees

TABLES = {cls.__name__: cls().table for cls in SOLVERS.values() if issubclass(cls, Esdirk)}
DENSE_ORDERS = {
    "Trapezoid": 2, "TRBDF2": 2, "SDIRK2": 2, "Kvaerno3": 3, "Kvaerno4": 3, "Kvaerno5": 4,
    "KenCarp3": 2, "KenCarp4": 3, "KenCarp5": 3,
}  # fmt: skip
# KenCarp5's published coefficients meet their conditions to twelve digits.
ROUNDING = {"KenCarp5": 1e-12}
IMEX = {3: KENCARP3_TABLEAU, 4: KENCARP4_TABLEAU, 5: KENCARP5_TABLEAU}


def square(rows):
    return np.array([[*row, *[0.0] * (len(rows) - len(row))] for row in rows])


def defect(A, weights, order):
    """By how much `weights` miss the conditions of this order, in units of rounding."""
    worst = 0.0
    for tree in trees(order):
        size = np.abs(weights) @ stage_weights(np.abs(A), tree)
        gap = weights @ stage_weights(A, tree) - 1 / density(tree)
        worst = max(worst, abs(gap) / max(size, 1.0))
    return worst


def reaches(A, weights, rounding=1e-14):
    order = 0
    while order < 7 and defect(A, weights, order + 1) < rounding:
        order += 1
    return order


@pytest.mark.parametrize("name", TABLES)
def test_step_and_companion_have_exactly_the_orders_they_claim(name):
    table = TABLES[name]
    A, b = square(table.a), np.array(table.b)
    rounding = ROUNDING.get(name, 1e-14)
    assert reaches(A, b, rounding) == table.order
    if table.error is not None:
        assert reaches(A, b - table.error, rounding) == table.embedded_order


@pytest.mark.parametrize("name", TABLES)
def test_dense_output_has_the_order_it_claims_and_meets_the_end(name):
    table = TABLES[name]
    A, P = square(table.a), np.array(table.dense)
    np.testing.assert_allclose(P.sum(axis=1), table.b, atol=1e-14)
    for order in range(1, DENSE_ORDERS[name] + 1):
        for tree in trees(order):
            expected = np.zeros(P.shape[1])
            expected[nodes(tree) - 1] = 1 / density(tree)
            size = np.max(stage_weights(np.abs(A), tree) @ np.abs(P))
            np.testing.assert_allclose(stage_weights(A, tree) @ P, expected, atol=1e-12 * size)


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"Trapezoid"}))
def test_the_step_forgets_infinitely_stiff_components(name):
    """The stability function vanishes at infinity, and is at most one on the imaginary axis."""
    table = TABLES[name]
    A, b, one = square(table.a), np.array(table.b), np.ones(table.stages)

    def growth(z):
        return 1 + z * b @ np.linalg.solve(np.eye(len(b)) - z * A, one)

    assert abs(growth(-1e9)) < 1e-6
    assert max(abs(growth(1j * y)) for y in np.logspace(-3, 3, 301)) <= 1 + 1e-12


@pytest.mark.parametrize("name", TABLES)
def test_guesses_extrapolate_a_parabola_as_soon_as_they_can(name):
    table = TABLES[name]
    for i, row in enumerate(table.guesses, 1):
        known = len(set(table.c[:i]))
        for power in range(min(known, 3) if table.c[i] not in table.c[:i] else 9):
            guess = np.dot(row, np.power(table.c[:i], power))
            np.testing.assert_allclose(guess, table.c[i] ** power, rtol=1e-12)


@pytest.mark.parametrize("order", IMEX)
def test_both_parts_of_an_imex_pair_meet_their_conditions_together(order):
    """Up to their order, also where the stages of one part stand under the other."""
    table = IMEX[order].implicit
    A, b, one = square(table.a), np.array(table.b), np.ones(table.stages)
    E = square([(0.0,), *((*row, 0.0) for row in IMEX[order].explicit)])
    c = A @ one
    np.testing.assert_allclose(E @ one, c, atol=1e-12)
    for tree in [tree for n in range(1, order + 1) for tree in trees(n)]:
        sizes = coloured_weights((np.abs(A), np.abs(E)), tree)
        for weights, size in zip(coloured_weights((A, E), tree), sizes, strict=True):
            assert abs(b @ weights - 1 / density(tree)) < 1e-12 * (np.abs(b) @ size)


def coloured_weights(matrices, tree):
    """The stage weights of a rooted tree with each of these matrices at each of its branches."""
    products = [np.ones(len(matrices[0]))]
    for branch in tree:
        below = [X @ w for X in matrices for w in coloured_weights(matrices, branch)]
        products = [p * w for p in products for w in below]
    return products


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((0.0,), (0.5,))}, r"row i of `a`"),
        ({"c": (0.0, 0.5, 1.0)}, "one row per stage"),
        ({"gamma": 0.25}, "zero, then gamma"),
        ({"c": (0.0, 0.5)}, "sums to 1.0, not to its c of 0.5"),
        ({"b": (0.25, 0.75)}, "the end of the step"),
    ],
)
def test_a_malformed_tableau_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TRAPEZOID_TABLEAU, **change)
    with pytest.raises(ValueError, match="row i of `explicit`"):
        dataclasses.replace(KENCARP4_TABLEAU, explicit=((0.5,),))
    with pytest.raises(ValueError, match="explicit row sums"):
        rows = ((0.25,), *KENCARP4_TABLEAU.explicit[1:])
        dataclasses.replace(KENCARP4_TABLEAU, explicit=rows)
