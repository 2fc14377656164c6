"""Rosenbrock tables against their order conditions, and orders measured with mass matrices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tableaus import density, nodes, trees

import jaxode as jo
from jaxode.stepping.tableaus import rosenbrock
from jaxode.stepping.tableaus.rosenbrock import RosenbrockTableau

# Orders of the step, of its companion and of dense output.
ORDERS = {"ROSENBROCK23": (2, 3, 2), "RODAS4": (4, 3, 3), "RODAS5P": (5, 4, 4)}
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
    table = getattr(rosenbrock, name)
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
    table = getattr(rosenbrock, name)
    form = Classical(table)
    np.testing.assert_allclose(form.alpha.sum(axis=1), table.c, atol=1e-13)
    np.testing.assert_allclose(form.gamma.sum(axis=1), table.d, atol=1e-13)
    assert table.stiffly_accurate == (name != "ROSENBROCK23")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((0.5, 0.0), (1.0, 1.0))}, "row i of `a` and of `C`"),
        ({"c": (0.0, 0.5)}, "as many stages"),
        ({"m": (1.0, 1.0, 1.0)}, "not at its m of 1.0"),
    ],
)
def test_malformed_tableau_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(rosenbrock.ROSENBROCK23, **change)


def exact(t):
    return jnp.stack([jnp.sin(1.3 * t) + 1.1, jnp.cos(t) * jnp.exp(-0.3 * t), jnp.sin(t**2 / 2)])


def bent(u):
    """A map of three components whose every derivative mixes them."""
    x, y, z = u
    A = jnp.array([[-0.7, 0.9, 0.4], [-0.5, -0.8, 0.6], [0.5, -0.3, -1.9]])
    more = [jnp.sin(x * y) + 0.3 * z**2 * x, x * y - 0.4 * z**3 * y, 0.3 * jnp.sin(x * z) + x**2]
    return A @ u + jnp.stack(more)


def forced(t, u, mass):
    """A right-hand side with which `M u' = f` has the exact solution."""
    value, slope = jax.jvp(exact, (t,), (jnp.ones_like(t),))
    return bent(u) - bent(value) + mass @ slope


MASSES = {
    "index 1": np.diag([1.0, 1.0, 0.0]),
    "index 1, oblique": np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, -1.0]]),
    "regular": np.array([[2.0, 0.3, 0.1], [-0.4, 1.5, 0.2], [0.1, 0.5, 1.0]]),
}
COUNTS = (32, 45, 64)


def errors(solver, mass):
    """The error at the end, and the largest inside the steps, for each number of steps."""
    inside = jnp.linspace(0.0, 1.6, 301)

    @jax.jit
    def run(dt):
        sol = jo.solve(forced, exact(0.0), inside, mass, solver=solver, controller=jo.Fixed(dt))
        gaps = jnp.max(jnp.abs(sol.ys - jax.vmap(exact)(inside)), axis=-1)
        return gaps[-1], jnp.max(gaps)

    return np.array([run(1.6 / count) for count in COUNTS])


@pytest.mark.parametrize("kind", MASSES)
@pytest.mark.parametrize("solver", [jo.Rodas4, jo.Rodas5P])
def test_order_with_a_mass_matrix(solver, kind):
    """That of an equation without one; dense output of algebraic unknowns has an order less."""
    found = errors(solver(mass=MASSES[kind]), jnp.array(MASSES[kind]))
    slopes = -np.polyfit(np.log(COUNTS), np.log(found), 1)[0]
    order = solver().order
    np.testing.assert_allclose(slopes, [order, order - (kind != "regular")], atol=0.4)


@pytest.mark.parametrize("solver", [jo.Rosenbrock23, jo.Rodas4, jo.Rodas5P])
def test_a_regular_mass_matrix_is_its_inverse_times_the_field(solver):
    """In every step: the stages are the same but for rounding."""
    mass = jnp.array(MASSES["regular"])
    start, steps = (exact(0.0), (0.0, 1.6), mass), jo.Fixed(0.05)
    with_mass = jo.solve(forced, *start, solver=solver(mass=mass), controller=steps)
    without = jo.solve(
        lambda t, u, mass: jnp.linalg.solve(mass, forced(t, u, mass)),
        *start, solver=solver(), controller=steps,
    )  # fmt: skip
    np.testing.assert_allclose(with_mass.y1, without.y1, rtol=1e-11)
