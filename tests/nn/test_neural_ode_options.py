"""What a NeuralODE can do beyond a flow over a given time: learned times, order, integral loss."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo

X = jax.random.normal(jax.random.key(0), (4, 2))
TIGHT: Any = {"rtol": 1e-9, "atol": 1e-9}


def decay(y):
    return -y


@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint"])
def test_an_array_for_a_time_is_a_parameter_with_its_gradient(sensitivity):
    def total(model):
        return jnp.sum(model(X))

    t0, t1 = jnp.array(0.5), jnp.array(1.3)
    model = jo.NeuralODE(decay, t0=t0, t1=t1, sensitivity=sensitivity, **TIGHT)
    value, gradient = eqx.filter_value_and_grad(total)(model)
    expected = np.exp(-0.8) * np.sum(X)
    np.testing.assert_allclose(value, expected, rtol=1e-7)
    np.testing.assert_allclose(gradient.t1, -expected, rtol=1e-6)
    np.testing.assert_allclose(gradient.t0, expected, rtol=1e-6)


def test_a_time_is_learned_and_a_number_is_not():
    model = jo.NeuralODE(decay, t1=jnp.array(1.0), solver="rk4", dt=0.25)
    parameters = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    assert len(parameters) == 1
    assert jax.tree.leaves(eqx.filter(jo.NeuralODE(decay, t1=1), eqx.is_inexact_array)) == []
    assert jo.NeuralODE(decay, t1=np.float64(2.0)).t1 == 2.0
    data = X, np.exp(-2.0) * X
    trained, _ = jo.fit(
        model, data, loss="mse", steps=80, optimizer=optax.adam(5e-2), progress=False
    )
    np.testing.assert_allclose(trained.t1, 2.0, atol=0.05)


def test_a_time_may_be_traced():
    @jax.jit
    def end(t1):
        return jo.NeuralODE(decay, t1=t1, **TIGHT)(X)

    np.testing.assert_allclose(end(0.7), np.exp(-0.7) * X, rtol=1e-7)
    np.testing.assert_allclose(end(jnp.array(2)), np.exp(-2.0) * X, rtol=1e-7)
    with pytest.raises(jo.TimesError, match="t1 must be one finite time"):
        jo.NeuralODE(decay, t1=jnp.ones(2))


def test_the_state_of_a_higher_order_is_a_value_and_its_derivatives():
    # q''' = 6 from q = 1, q' = 2, q'' = 3, for two features at once.
    model = jo.NeuralODE(lambda y: 6.0 + 0 * y[:2], order=3, t1=1.5, **TIGHT)
    y0 = jnp.repeat(jnp.array([1.0, 2.0, 3.0]), 2)
    t = 1.5
    expected = np.repeat([1 + 2 * t + 1.5 * t**2 + t**3, 2 + 3 * t + 3 * t**2, 3 + 6 * t], 2)
    np.testing.assert_allclose(model(y0), expected, rtol=1e-9)
    images = jnp.broadcast_to(y0[:, None, None], (6, 2, 2))
    found = jo.nn.HigherOrder(lambda y: 6.0 + 0 * y[:2], 3)(jnp.array(0.0), images)
    np.testing.assert_allclose(found[:, 1, 0], [2, 2, 3, 3, 6, 6])


def test_order_two_is_that_of_second_order_fields():
    network = eqx.nn.MLP(4, 2, 4, 1, jnp.tanh, key=jax.random.key(1))
    y0 = jnp.concatenate([X, -X], axis=1)
    found = jo.NeuralODE(network, order=2, **TIGHT)(y0)
    np.testing.assert_array_equal(found, jo.NeuralODE(jo.nn.SecondOrder(network), **TIGHT)(y0))
    # With zeros appended for the derivatives it starts at rest.
    resting = jo.NeuralODE(network, order=2, augment=2, **TIGHT)(X)
    from_rest = jo.NeuralODE(network, order=2, **TIGHT)(jnp.pad(X, ((0, 0), (0, 2))))
    np.testing.assert_allclose(resting, from_rest, rtol=1e-12)


def test_states_that_an_order_does_not_divide_are_refused():
    model = jo.NeuralODE(lambda y: y[:1], order=2)
    with pytest.raises(jo.FieldError, match=r"multiple of 2; got shape \(3,\)"):
        model(jnp.ones(3))
    with pytest.raises(jo.FieldError, match=r"network must return shape \(2,\), got \(1,\)"):
        model(jnp.ones(4))


def energy(t, y, args):
    return args * jnp.sum(y**2)


def test_a_cost_is_integrated_beside_the_state():
    model = jo.NeuralODE(decay, integral_loss=energy, t1=2.0, **TIGHT)
    ts = jnp.array([0.0, 0.5, 2.0])
    solution = model.solve(X, ts, args=3.0)
    states, integrals = solution.ys
    expected = 1.5 * np.sum(X**2, axis=1)[:, None] * (1 - np.exp(-2 * ts))
    assert states.shape == (4, 3, 2)
    np.testing.assert_allclose(integrals, expected, atol=1e-8)
    np.testing.assert_allclose(states, model(X, ts, args=3.0), rtol=1e-12)
    np.testing.assert_allclose(model(X, args=3.0), np.exp(-2.0) * X, rtol=1e-7)
    np.testing.assert_allclose(model.inverse(model(X, args=3.0), args=3.0), X, rtol=1e-6)
    np.testing.assert_allclose(model.solve(X[0], args=3.0).y1[1], expected[0, -1], atol=1e-8)
    with pytest.raises(jo.FieldError, match="integral_loss must return a scalar"):
        jo.NeuralODE(decay, integral_loss=lambda y: y)(X)


def test_a_cost_of_the_slope_reaches_the_field():
    class Rate(eqx.Module):
        rate: jax.Array

        def __call__(self, y):
            return -self.rate * y

    def kinetic(t, y, args, slope):
        return jnp.sum(slope**2)

    def mean_cost(model):
        return jnp.mean(model.solve(X).y1[1])

    model = jo.NeuralODE(Rate(jnp.array(0.8)), integral_loss=kinetic, t1=2.0, **TIGHT)
    value, gradient = eqx.filter_value_and_grad(mean_cost)(model)
    squares = np.mean(np.sum(X**2, axis=1))
    np.testing.assert_allclose(value, squares * 0.4 * (1 - np.exp(-3.2)), rtol=1e-7)
    slope = 0.5 * (1 - np.exp(-3.2)) + 1.6 * np.exp(-3.2)
    np.testing.assert_allclose(gradient.field.rate, squares * slope, rtol=1e-6)


def test_fit_adds_the_integral_to_a_loss_by_name():
    model = jo.NeuralODE(decay, integral_loss=lambda y: jnp.sum(y**2), t1=2.0, **TIGHT)
    _, log = jo.fit(model, (X, X), loss="mse", steps=1, progress=False)
    integral = np.mean(np.sum(X**2, axis=1)) * (1 - np.exp(-4.0)) / 2
    error = np.mean((np.exp(-2.0) * X - X) ** 2)
    np.testing.assert_allclose(log.history["integral_loss"], [integral], rtol=1e-6)
    np.testing.assert_allclose(log.loss, [error + integral], rtol=1e-6)
