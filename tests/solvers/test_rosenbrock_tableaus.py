"""Tableaus of Rosenbrock methods against their order conditions."""

import dataclasses
import functools

import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.implicit.rosenbrock_tableau import RosenbrockTableau
from tests.support.rooted_trees import density, nodes, trees

# Orders of the step, of its companion and of dense output.
ORDERS = {"Rosenbrock23": (2, 3, 2), "Rodas4": (4, 3, 3), "Rodas5P": (5, 4, 4)}
THETAS = np.array([0.13, 0.35, 0.5, 0.77, 0.9])


@dataclasses.dataclass(frozen=True)
class Classical:
    """The coefficients of the classical form, whose stages are `k` in `U = h Gamma k`."""

    table: RosenbrockTableau

    @functools.cached_property
    def gamma(self) -> np.ndarray:
        return np.linalg.inv(np.eye(self.table.stages) / self.table.gamma - lower(self.table.C))

    @functools.cached_property
    def alpha(self) -> np.ndarray:
        return lower(self.table.a) @ self.gamma

    def weights(self, row) -> np.ndarray:
        """Weights of `U`, one column per value, as weights of `h k`."""
        return self.gamma.T @ np.asarray(row)

    def stages(self, tree: tuple) -> np.ndarray:
        """What each stage contributes to the elementary differential of `tree`.

        A vertex with one branch sees the Jacobian too: Hairer, Wanner II, theorem IV.7.3.
        """
        below = self.alpha + self.gamma if len(tree) == 1 else self.alpha
        return np.prod([below @ self.stages(s) for s in tree], axis=0, initial=1.0) * np.ones(
            self.table.stages
        )

    def reaches(self, weights: np.ndarray, theta: np.ndarray) -> int:
        """The highest order whose conditions hold: `weights` has a column per `theta`."""

        def worst(order: int) -> float:
            gaps = [
                self.stages(tree) @ weights - theta ** nodes(tree) / density(tree)
                for tree in trees(order)
            ]
            return np.max(np.abs(gaps))

        return next(order for order in range(7) if worst(order + 1) > 1e-11)


def lower(rows) -> np.ndarray:
    matrix = np.zeros((len(rows) + 1,) * 2)
    for i, row in enumerate(rows):
        matrix[i + 1, : i + 1] = row
    return matrix


@pytest.mark.parametrize("name", ORDERS)
def test_step_companion_and_dense_output_have_exactly_the_orders_they_claim(name):
    table = getattr(jo, name).tableau
    form, one = Classical(table), np.ones(1)
    m, e, P = (np.array(x) for x in (table.m, table.error, table.dense))
    step = form.reaches(form.weights(m[:, None]), one)
    companion = form.reaches(form.weights((m - e)[:, None]), one)
    powers = THETAS ** np.arange(1, P.shape[1] + 1)[:, None]
    dense = form.reaches(form.weights(P @ powers), THETAS)
    assert (step, companion, dense) == ORDERS[name]
    assert (table.order, table.embedded_order) == ORDERS[name][:2]


@pytest.mark.parametrize("name", ORDERS)
def test_times_of_the_stages_are_the_sums_of_their_rows(name):
    table = getattr(jo, name).tableau
    form = Classical(table)
    np.testing.assert_allclose(form.alpha.sum(axis=1), table.c, atol=1e-13)
    np.testing.assert_allclose(form.gamma.sum(axis=1), table.d, atol=1e-13)
    assert table.stiffly_accurate == (name != "Rosenbrock23")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((0.5, 0.0), (1.0, 1.0))}, "row i of `a` and of `C`"),
        ({"c": (0.0, 0.5)}, "one row per stage"),
        ({"m": (1.0, 1.0, 1.0)}, "not at its m of 1.0"),
    ],
)
def test_malformed_tableau_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(jo.Rosenbrock23.tableau, **change)
