"""Multiple shooting: parallel in time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

TS = jnp.linspace(0.0, 4.0, 9)
TOLERANCES: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10}


START = {"q": jnp.array([1.5]), "v": jnp.array(0.0)}


def pendulum(t, y, g):
    return {"q": y["v"][None], "v": -g * jnp.sin(y["q"][0])}


def states(g, start, **options):
    return jo.multiple_shooting(pendulum, start, TS, g, **TOLERANCES, **options)


def reference(g, start):
    return jo.solve(pendulum, start, TS, g, rtol=1e-10, atol=1e-12).ys


def test_states_and_derivatives_are_those_of_the_sequential_solve():
    result = states(2.0, START)
    assert isinstance(result, jo.MultipleShooting)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7), result.ys, reference(2.0, START)
    )
    assert result.success
    assert 1 <= int(result.num_iterations) <= 5
    np.testing.assert_array_equal(result.y1["q"], result.ys["q"][-1])


@pytest.mark.slow
def test_derivatives_are_those_of_the_sequential_solve():
    def loss(solve):
        return lambda g, start: sum(jnp.sum(y[3:] ** 2) for y in jax.tree.leaves(solve(g, start)))

    found = jax.jit(jax.grad(loss(lambda g, s: states(g, s).ys), (0, 1)))(2.0, START)
    expected = jax.grad(loss(reference), (0, 1))(2.0, START)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


@pytest.mark.slow
def test_a_stiff_problem_backwards_in_time_from_a_guess():
    ts = jnp.linspace(1.0, 0.0, 5)
    rate = lambda t, y, k: k * (y - jnp.cos(t))  # noqa: E731
    exact = jo.solve(rate, jnp.ones(2), ts, 300.0, solver="rodas5p", **TOLERANCES).ys
    options = {"solver": "rodas5p", "guess": jnp.ones((5, 2)), **TOLERANCES}
    result = jo.multiple_shooting(rate, jnp.ones(2), ts, 300.0, **options)
    np.testing.assert_allclose(result.ys, exact, atol=1e-6)


@pytest.mark.slow
def test_complex_states():
    result = jo.multiple_shooting(lambda t, y, a: 1j * y, jnp.array([1.0 + 0j]), TS, **TOLERANCES)
    np.testing.assert_allclose(result.ys[:, 0], np.exp(1j * TS), atol=1e-6)


@pytest.mark.slow
def test_an_iteration_that_does_not_converge_says_so():
    with pytest.raises(jo.SolveError, match="NOT_CONVERGED: after 1 iterations"):
        states(
            2.0, START, guess=jax.tree.map(lambda y: jnp.stack([y] * 9), START), max_iterations=1
        )
    result = states(
        2.0, START, guess=jax.tree.map(lambda y: jnp.stack([y] * 9), START), max_iterations=1,
        throw=False,
    )  # fmt: skip
    assert not result.success
    assert np.isnan(result.ys["q"]).all()


def test_wrong_arguments():
    with pytest.raises(jo.StateError, match="states at all times, of shapes"):
        states(2.0, START, guess=START)
    with pytest.raises(jo.OptionError, match="max_iterations"):
        states(2.0, START, max_iterations=0)
    with pytest.raises(jo.OptionError, match="without jac="):
        states(2.0, START, solver=jo.Rodas5P(jac=lambda t, y: jnp.eye(2)))
