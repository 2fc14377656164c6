"""What torchdiffeq's tests guard and no other test here does."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.sweeps import few

Y0 = jnp.array([1.0, 0.5])
TS = jnp.array([0.0, 0.4, 1.0])
TIGHT: Any = {"rtol": 1e-9, "atol": 1e-11}


def field(t, y, rate):
    return jnp.stack([y[1] + jnp.sin(t), -rate * y[0]])


def test_the_values_do_not_depend_on_how_they_are_differentiated():
    expected = jo.solve(field, Y0, TS, 1.3).ys
    for sensitivity in ("adjoint", jo.Continuous("backsolve"), "forward"):
        ys = jo.solve(field, Y0, TS, 1.3, sensitivity=sensitivity).ys
        np.testing.assert_allclose(ys, expected, rtol=1e-13)


@pytest.mark.parametrize("sensitivity", few(["discrete", "adjoint"], "discrete"))
def test_frozen_parameters_have_no_gradient(sensitivity):
    """The parameters that are trained get the same one as if all were."""
    network = eqx.nn.MLP(2, 2, 3, 1, activation=jnp.tanh, key=jax.random.key(0))
    trained = jax.tree.map(lambda _: False, network)
    trained = eqx.tree_at(lambda n: n.layers[1].weight, trained, True)

    def loss(network):
        return jnp.sum(jo.solve(lambda t, y: network(y), Y0, TS, sensitivity=sensitivity).y1)

    one, rest = eqx.partition(network, trained)
    part = eqx.filter_jit(eqx.filter_grad(lambda one: loss(eqx.combine(one, rest))))(one)
    whole = eqx.filter_jit(eqx.filter_grad(loss))(network)
    assert len(jax.tree.leaves(part)) == 1
    weight = part.layers[1].weight
    np.testing.assert_allclose(weight, whole.layers[1].weight, rtol=1e-6)


def test_a_constant_start_passes_no_gradient_on():
    def end(y0, rate):
        return jnp.sum(jo.solve(field, jax.lax.stop_gradient(y0), TS, rate).y1)

    by_y0, by_rate = jax.jit(jax.grad(end, argnums=(0, 1)))(Y0, 1.3)
    np.testing.assert_array_equal(by_y0, 0.0)
    assert by_rate != 0.0


def test_values_between_fixed_steps_have_the_order_of_the_method():
    """Halving the steps of a method of order four divides the error by about sixteen."""
    ts = jnp.linspace(0.0, 2.0, 81)

    def error(dt):
        sol = jo.solve(lambda t, y: jnp.cos(t) * y, 1.0, ts, solver="rk4", dt=dt)
        return np.max(np.abs(sol.ys - np.exp(np.sin(ts))))

    assert 12 < error(0.2) / error(0.1) < 24


def test_times_may_be_coarser_than_the_state():
    sol = jo.solve(field, Y0, TS.astype(jnp.float32), 1.3, **TIGHT)
    assert sol.y1.dtype == jnp.float64
    exact = jo.solve(field, Y0, np.asarray(TS, np.float32).astype(float), 1.3, **TIGHT)
    np.testing.assert_allclose(sol.y1, exact.y1, rtol=1e-7)


def test_the_first_of_several_conditions_ends_the_solve():
    """As an event function that returns several numbers, the first of which to be zero counts."""
    levels = jnp.array([0.2, 0.7, 0.4])
    event = jo.Event(lambda t, y: y[0] - levels, terminal=True)
    sol: Any = jo.solve(lambda t, y: -y, Y0, (0.0, jnp.inf), events=event, **TIGHT)
    np.testing.assert_allclose(sol.stats.t_reached, -np.log(0.7), rtol=1e-8)
    assert sol.events.entry[0] == 1


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("sensitivity", few(["discrete", "adjoint"], "discrete"))
def test_the_time_of_an_event_has_its_gradient_in_both_directions(sign, sensitivity):
    def time(rate, bound):
        event = jo.Event(lambda t, y, args: y - args[1], terminal=True)
        sol = jo.solve(
            lambda t, y, args: -sign * args[0] * y, 1.0, (0.0, 9.0 * sign), (rate, bound),
            events=event, sensitivity=sensitivity, max_events=1, **TIGHT,
        )  # fmt: skip
        return sign * sol.stats.t_reached

    value, (by_rate, by_bound) = jax.jit(jax.value_and_grad(time, argnums=(0, 1)))(2.0, 0.5)
    np.testing.assert_allclose(value, np.log(2) / 2, rtol=1e-7)
    np.testing.assert_allclose([by_rate, by_bound], [-np.log(2) / 4, -1.0], rtol=1e-6)


def test_a_step_size_that_does_not_divide_the_span():
    """Steps of 0.3 and a last one of 0.1, each by Euler's rule."""
    sol = jo.solve(lambda t, y: -y, 1.0, (0.0, 1.0), solver="euler", dt=0.3)
    np.testing.assert_allclose(sol.y1, 0.7**3 * 0.9, rtol=1e-14)
