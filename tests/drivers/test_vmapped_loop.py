"""Derivatives of solves under `vmap` that cannot go into lanes, by what they share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

RATES, STARTS = jnp.array([0.5, 0.6]), jnp.array([[1.0, 2.0], [0.7, 1.5], [1.2, 0.9]])
STEPS = jnp.array([0.1, 0.2])
OPTIONS = {"solver": "reversible_heun", "max_steps": 64}
slow = pytest.mark.slow


def loss(y0, p, **options):
    decay = lambda t, y, p: -p * y * y  # noqa: E731
    return jnp.sum(jo.solve(decay, y0, (0.0, 1.0), p, **{**OPTIONS, **options}).y1)


def loss_of_steps(dt, p, sensitivity):
    return loss(STARTS[0], p, controller=jo.Fixed(dt), sensitivity=sensitivity)


@pytest.mark.parametrize(
    "sensitivity",
    [
        "discrete",
        pytest.param(jo.Discrete("stages"), marks=slow),
        pytest.param("reversible", marks=slow),
        pytest.param("adjoint", marks=slow),
        pytest.param(jo.Continuous("interpolate"), marks=slow),
    ],
)
def test_step_sizes_that_are_mapped(sensitivity):
    losses = lambda p: jax.vmap(lambda dt: loss_of_steps(dt, p, sensitivity))(STEPS)  # noqa: E731
    one = jax.jit(jax.grad(lambda dt, p: loss_of_steps(dt, p, sensitivity), 1))
    expected = np.stack([one(dt, RATES) for dt in STEPS])
    np.testing.assert_allclose(jax.jit(jax.jacrev(losses))(RATES), expected, rtol=1e-9)


@slow
def test_loops_in_loops():
    losses = lambda p: jax.vmap(lambda dt: loss_of_steps(dt, p, "discrete"))(STEPS)  # noqa: E731
    nested = lambda p: jnp.sum(jax.vmap(losses)(jnp.stack([p, 2 * p])))  # noqa: E731
    flat = lambda p: jnp.sum(losses(p)) + jnp.sum(losses(2 * p))  # noqa: E731
    found, expected = jax.jit(jax.grad(nested))(RATES), jax.jit(jax.grad(flat))(RATES)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_stages_that_are_kept():
    def total(p, starts, sensitivity):
        return jnp.sum(jax.vmap(lambda y0: loss(y0, p, sensitivity=sensitivity))(starts))

    gradient = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
    found, expected = (
        gradient(RATES, STARTS, jo.Discrete("stages")),
        gradient(RATES, STARTS, "discrete"),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, expected)


def test_no_solves_have_a_gradient_of_zero():
    none = lambda p: jnp.sum(jax.vmap(lambda y0: loss(y0, p))(STARTS[:0]))  # noqa: E731
    np.testing.assert_array_equal(jax.grad(none)(RATES), np.zeros_like(RATES))
