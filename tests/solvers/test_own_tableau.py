"""A solver from a tableau in one line: its orders, its error estimate, batches and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

BOSH3 = jo.ExplicitTableau(
    [[1 / 2], [0, 3 / 4], [2 / 9, 1 / 3, 4 / 9]],
    b=[2 / 9, 1 / 3, 4 / 9, 0],
    embedded=[7 / 24, 1 / 4, 1 / 3, 1 / 8],
)
TS = jnp.linspace(0.0, 2.0, 5)


def field(t, y, rate):
    return jnp.stack([y[1], -rate * jnp.sin(y[0])])


def ends(solver, rates):
    return jo.solve_batch(field, jnp.array([1.0, 0.0]), TS, rates, solver=solver,
                          in_axes=(None, None, 0), max_steps=64).ys  # fmt: skip


def test_it_takes_the_steps_of_the_registered_solver():
    rates = jnp.array([1.0, 2.0])
    found, expected = (
        jax.jit(jax.value_and_grad(lambda r, s=s: jnp.sum(ends(s, r)[:, -1])))(rates)
        for s in (BOSH3, jo.Bosh3())
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


@pytest.mark.parametrize(
    ("a", "b", "embedded", "orders"),
    [
        ([], [1.0], None, (1, None)),
        ([[1.0]], [0.5, 0.5], [1.0, 0.0], (2, 1)),
        ([[1 / 3], [0, 2 / 3]], [1 / 4, 0, 3 / 4], None, (3, None)),
        ([[1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6], None, (4, None)),
    ],
)
def test_orders_are_found(a, b, embedded, orders):
    solver = jo.ExplicitTableau(a, b, embedded)
    assert (solver.order, solver.tableau.embedded_order) == orders


def test_dense_output_converges_with_order_three():
    heun3 = jo.ExplicitTableau([[1 / 3], [0, 2 / 3]], [1 / 4, 0, 3 / 4])

    def error(dt):
        sol = jo.solve(lambda t, y, _: jnp.cos(t) * y, 1.0, (0.0, 2.0), solver=heun3, dt=dt,
                       save="dense", max_steps=64)  # fmt: skip
        ts = jnp.linspace(0.1, 1.9, 19)
        return float(jnp.max(jnp.abs(sol(ts) - jnp.exp(jnp.sin(ts)))))

    assert error(0.1) / error(0.05) > 6.5


@pytest.mark.parametrize(
    ("a", "b", "embedded", "message"),
    [
        ([[1.0]], [0.5], None, "b .* 2 finite numbers"),
        ([[1.0, 2.0]], [0.5, 0.5], None, "row 0 of a .* 1 finite"),
        ([[1.0]], [0.5, 0.4], None, "sums to 0.9"),
        ([["x"]], [0.5, 0.5], None, "row 0 of a .* numbers"),
        ([[1.0]], [0.5, 0.5], [0.5, 0.5], "must differ"),
        ([[1.0]], [0.5, 0.5], [1.0], "embedded .* 2 finite"),
    ],
)
def test_a_tableau_that_does_not_fit_is_refused(a, b, embedded, message):
    with pytest.raises(jo.OptionError, match=message):
        jo.ExplicitTableau(a, b, embedded)
