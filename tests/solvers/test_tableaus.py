"""Every tableau against the order conditions of rooted trees (Hairer, Norsett, Wanner I, II.2)."""

import dataclasses

import numpy as np
import pytest

from jaxode.solvers.explicit.runge_kutta import ExplicitRungeKutta
from jaxode.solvers.explicit.tableau import ButcherTableau
from jaxode.solvers.registry import SOLVERS
from tests.support.rooted_trees import density, nodes, stage_weights, trees

SOLVER_CLASSES = sorted(
    {solver for solver in SOLVERS.values() if issubclass(solver, ExplicitRungeKutta)},
    key=lambda solver: solver.__name__,
)
TABLEAUS = {solver.__name__: solver.tableau for solver in SOLVER_CLASSES}
PAIRS = {name: table for name, table in TABLEAUS.items() if table.error is not None}
DENSE_ORDERS = {
    "Euler": 1,
    "Midpoint": 2,
    "Heun": 2,
    "Ralston": 2,
    "HeunEuler": 2,
    "Fehlberg2": 2,
    "Bosh3": 3,
    "Heun3": 3,
    "RK4": 3,
    "RK4ThreeEighths": 3,
    "Tsit5": 4,
    "Dopri5": 4,
    "Dopri8": 7,
    "Vern7": 6,
}
STEP_ORDERS = {
    "Euler": 1,
    "Midpoint": 2,
    "Heun": 2,
    "Ralston": 2,
    "HeunEuler": 2,
    "Fehlberg2": 2,
    "Bosh3": 3,
    "Heun3": 3,
    "RK4": 4,
    "RK4ThreeEighths": 4,
    "Tsit5": 5,
    "Dopri5": 5,
    "Dopri8": 8,
    "Vern7": 7,
}
SMOOTH = ("Bosh3", "Heun3", "RK4", "RK4ThreeEighths", "Tsit5", "Dopri5", "Dopri8", "Vern7")


def matrix(table: ButcherTableau) -> np.ndarray:
    A = np.zeros((len(table.c), len(table.c)))
    for i, row in enumerate(table.a):
        A[i + 1, : i + 1] = row
    return A


def padded(table: ButcherTableau, weights) -> np.ndarray:
    return np.pad(np.asarray(weights, float), (0, table.extra_stages))


def defects(table: ButcherTableau, weights: np.ndarray, order: int) -> list[float]:
    """By how much `weights` miss each condition of exactly this order, in units of rounding."""
    A = matrix(table)
    result = []
    for tree in trees(order):
        phi = stage_weights(A, tree)
        size = np.abs(weights) @ stage_weights(np.abs(A), tree)
        result.append(abs(weights @ phi - 1 / density(tree)) / max(size, 1.0))
    return result


def reaches(table: ButcherTableau, weights: np.ndarray) -> int:
    """The highest order whose conditions `weights` satisfy, and those of all orders below."""
    order = 0
    while order < 9 and max(defects(table, weights, order + 1)) < 1e-14:
        order += 1
    return order


def test_the_tree_generator_finds_every_rooted_tree():
    assert [len(trees(size)) for size in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    bushy, tall = ((), (), ()), (((((),),),),)
    assert density(bushy) == 4
    assert density(tall) == 120


def test_the_tables_here_speak_of_every_solver():
    assert set(STEP_ORDERS) == set(DENSE_ORDERS) == set(TABLEAUS)


@pytest.mark.parametrize("name", TABLEAUS)
def test_step_has_exactly_the_order_it_claims(name):
    table = TABLEAUS[name]
    assert table.order == STEP_ORDERS[name]
    assert reaches(table, padded(table, table.b)) == table.order


@pytest.mark.parametrize("name", sorted(set(PAIRS) - {"Dopri8"}))
def test_companion_has_exactly_the_order_it_claims(name):
    table = TABLEAUS[name]
    companion = padded(table, np.array(table.b) - np.array(table.error))
    assert reaches(table, companion) == table.embedded_order


def test_both_companions_of_dopri8_and_the_order_of_their_blend():
    table = TABLEAUS["Dopri8"]
    high = reaches(table, padded(table, np.array(table.b) - np.array(table.error)))
    low = reaches(table, padded(table, np.array(table.b) - np.array(table.error_low)))
    assert (high, low) == (5, 3)
    assert table.embedded_order is not None
    # The blend e5^2 / |e3| falls as h^(2 (high + 1) - (low + 1)).
    assert table.embedded_order + 1 == 2 * (high + 1) - (low + 1)


@pytest.mark.parametrize("name", PAIRS)
def test_error_weights_sum_to_zero(name):
    table = TABLEAUS[name]
    for weights in (table.error, table.error_low):
        if weights is not None:
            assert abs(sum(weights)) < 1e-15 * len(weights)


@pytest.mark.parametrize("name", TABLEAUS)
def test_dense_output_has_exactly_the_order_it_claims(name):
    table, claimed = TABLEAUS[name], DENSE_ORDERS[name]
    A, P = matrix(table), dense_matrix(table)

    def worst(order: int) -> float:
        return max(polynomial_defect(P, A, tree) for tree in trees(order))

    assert max(worst(order) for order in range(1, claimed + 1)) < 1e-14
    assert worst(claimed + 1) > 1e-9


def polynomial_defect(P: np.ndarray, A: np.ndarray, tree: tuple) -> float:
    """The largest wrong coefficient of `sum_i b_i(theta) phi_i` beside `theta^n / density`."""
    got = stage_weights(A, tree) @ P
    size = stage_weights(np.abs(A), tree) @ np.abs(P)
    expected = np.zeros(max(P.shape[1], nodes(tree)))
    expected[nodes(tree) - 1] = 1 / density(tree)
    got, size = (np.pad(x, (0, len(expected) - len(x))) for x in (got, size))
    return float(np.max(np.abs(got - expected) / np.maximum(size, 1.0)))


def test_dense_output_of_vern7_all_but_reaches_order_seven():
    """Verner published one coefficient to ten digits, which leaves a trace of order seven."""
    table = TABLEAUS["Vern7"]
    A, P = matrix(table), dense_matrix(table)
    powers = np.linspace(0, 1, 21)[:, None] ** np.arange(1, P.shape[1] + 1)
    for tree in trees(7):
        residual = powers @ (stage_weights(A, tree) @ P) * density(tree) - powers[:, 6]
        assert np.max(np.abs(residual)) < 3e-4


def dense_matrix(table: ButcherTableau) -> np.ndarray:
    width = max(map(len, table.dense))
    return np.array([[*row, *[0.0] * (width - len(row))] for row in table.dense])


@pytest.mark.parametrize("name", TABLEAUS)
def test_dense_output_meets_the_end_of_the_step(name):
    table = TABLEAUS[name]
    P = dense_matrix(table)
    rounding = 1e-15 * np.sum(np.abs(P), axis=1)
    assert np.all(np.abs(P.sum(axis=1) - padded(table, table.b)) <= np.maximum(rounding, 1e-16))


@pytest.mark.parametrize("name", SMOOTH)
def test_dense_output_has_the_slopes_of_both_ends(name):
    table = TABLEAUS[name]
    P, A = dense_matrix(table), matrix(table)
    start = np.zeros(len(table.c))
    start[0] = 1.0
    np.testing.assert_allclose(P[:, 0], start, atol=1e-13)
    end = np.flatnonzero(np.all(np.abs(A - padded(table, table.b)) < 1e-15, axis=1))
    assert len(end) == 1
    finish = np.zeros(len(table.c))
    finish[end[0]] = 1.0
    slope = P @ np.arange(1, P.shape[1] + 1)
    np.testing.assert_allclose(slope, finish, atol=1e-14 * np.abs(P).max() * P.shape[1])


def test_first_same_as_last_is_read_off_the_coefficients():
    fsal = {name for name, table in TABLEAUS.items() if table.first_same_as_last}
    assert fsal == {"Bosh3", "Tsit5", "Dopri5", "Dopri8"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((0.5, 0.0),)}, r"row i of `a`"),
        ({"c": (0.0, 0.5, 1.0)}, "same number of stages"),
        ({"dense": ((0.0, 1.0),)}, "same number of stages"),
        ({"error": (1.0,)}, "one weight per stage"),
        ({"error_low": (1.0, -0.5, -0.5)}, "one weight per stage"),
        ({"a": ((0.25,),)}, "sums to 0.25, not to its c of 0.5"),
    ],
)
def test_malformed_tableau_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TABLEAUS["Midpoint"], **change)
