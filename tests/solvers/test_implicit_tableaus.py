"""The tableaus of implicit solvers against the order conditions of rooted trees."""

import dataclasses

import numpy as np
import pytest

from jaxode.solvers.implicit.esdirk import Esdirk
from jaxode.solvers.implicit.kencarp4 import KENCARP4_TABLEAU
from jaxode.solvers.implicit.trapezoid import TRAPEZOID_TABLEAU
from jaxode.solvers.registry import SOLVERS
from tests.support.rooted_trees import density, nodes, stage_weights, trees

TABLES = {cls.__name__: cls().table for cls in SOLVERS.values() if issubclass(cls, Esdirk)}
DENSE_ORDERS = {"Trapezoid": 2, "TRBDF2": 2, "Kvaerno3": 3, "Kvaerno5": 4, "KenCarp4": 3}


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


def reaches(A, weights):
    order = 0
    while order < 7 and defect(A, weights, order + 1) < 1e-14:
        order += 1
    return order


@pytest.mark.parametrize("name", TABLES)
def test_step_and_companion_have_exactly_the_orders_they_claim(name):
    table = TABLES[name]
    A, b = square(table.a), np.array(table.b)
    assert reaches(A, b) == table.order
    if table.error is not None:
        assert reaches(A, b - table.error) == table.embedded_order


@pytest.mark.parametrize("name", TABLES)
def test_dense_output_has_the_order_it_claims_and_meets_the_end(name):
    table = TABLES[name]
    A, P = square(table.a), np.array(table.dense)
    np.testing.assert_allclose(P.sum(axis=1), table.b, atol=1e-14)
    for order in range(1, DENSE_ORDERS[name] + 1):
        for tree in trees(order):
            expected = np.zeros(P.shape[1])
            expected[nodes(tree) - 1] = 1 / density(tree)
            np.testing.assert_allclose(stage_weights(A, tree) @ P, expected, atol=1e-12)


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


def test_both_parts_of_kencarp4_meet_their_conditions_together():
    """Up to order four, also where the stages of one part stand under the other."""
    table = KENCARP4_TABLEAU
    A, b = square(table.implicit.a), np.array(table.implicit.b)
    E = square([(0.0,), *((*row, 0.0) for row in table.explicit)])
    one = np.ones(len(b))
    c = A @ one
    np.testing.assert_allclose(E @ one, c, atol=1e-12)
    for X in (A, E):
        np.testing.assert_allclose(b @ X @ c, 1 / 6, atol=1e-14)
        np.testing.assert_allclose(b @ (c * (X @ c)), 1 / 8, atol=1e-14)
        np.testing.assert_allclose(b @ X @ c**2, 1 / 12, atol=1e-14)
        for Y in (A, E):
            np.testing.assert_allclose(b @ X @ Y @ c, 1 / 24, atol=1e-14)


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
