"""`odeint` beside `jax.experimental.ode.odeint`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint as reference

import jaxode as jo
from tests.support.differences import assert_close, weighted

Y0 = jnp.array([0.7, -0.3])
TS = jnp.array([0.2, 0.5, 0.9, 1.4])
RATE, BEND = jnp.array(2.0), jnp.array([1.1, 0.9])
TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def field(y, t, rate, bend):
    return bend * jnp.stack([y[1], -rate * jnp.sin(y[0]) + jnp.sin(3 * t) * y[0] ** 2])


def test_values_are_those_of_jax():
    ours, theirs = (solve(field, Y0, TS, RATE, BEND) for solve in (jo.odeint, reference))
    np.testing.assert_allclose(ours, theirs, rtol=3e-7)


def test_gradients_to_every_input_are_those_of_jax():
    def loss(solve, *inputs):
        return weighted(solve(field, *inputs, **TIGHT))

    argnums = (1, 2, 3, 4)
    ours, theirs = (
        jax.jit(jax.grad(loss, argnums=argnums), static_argnums=0)(solve, Y0, TS, RATE, BEND)
        for solve in (jo.odeint, reference)
    )
    # JAX reads its times off an interpolant of order four.
    assert_close(ours, theirs, 2e-8)


def test_backwards_in_time_undoes_forwards():
    there = jo.odeint(field, Y0, TS, RATE, BEND, **TIGHT)
    back = jo.odeint(field, there[-1], TS[::-1], RATE, BEND, **TIGHT)
    np.testing.assert_allclose(back, there[::-1], rtol=1e-10)


def test_pytrees_float32_and_no_arguments():
    y0 = {"a": jnp.ones(2, jnp.float32), "b": jnp.float32(3.0)}
    ys = jo.odeint(lambda y, t: jax.tree.map(lambda x: -x, y), y0, jnp.linspace(0, 1, 4))
    assert ys["a"].dtype == ys["b"].dtype == jnp.float32
    fall = np.exp(-np.linspace(0, 1, 4))
    np.testing.assert_allclose(ys["a"], np.stack([fall, fall], axis=1), rtol=1e-6)
    np.testing.assert_allclose(ys["b"], 3 * fall, rtol=1e-6)


def test_closed_over_arrays_get_gradients():
    gradient = jax.grad(
        lambda k: jo.odeint(lambda y, t: k * y, jnp.array(1.0), jnp.array([0.0, 1.0]))[-1]
    )(0.3)
    np.testing.assert_allclose(gradient, np.exp(0.3), rtol=1e-6)


def test_largest_step_and_most_steps():
    with pytest.raises(jo.SolveError, match="MAX_STEPS"):
        jo.odeint(field, Y0, TS, RATE, BEND, hmax=0.01, mxstep=50)
    ys = jo.odeint(field, Y0, TS, RATE, BEND, hmax=0.01, mxstep=200)
    np.testing.assert_allclose(ys, jo.odeint(field, Y0, TS, RATE, BEND), rtol=1e-6)
