"""Optimisers of `fit`: L-BFGS, schedules and their values in the log, accumulated gradients."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of
from tests.support.one_weight import fit, squares

ZEROS = jnp.zeros(4)
START = jnp.array([-1.2, 1.0])


class Point(eqx.Module):
    """A point of the plane, and something that is no array."""

    xy: jax.Array
    name: str = "point"


def rosenbrock(model, batch):
    x, y = model.xy
    return jnp.mean(batch) * (100 * (y - x**2) ** 2 + (1 - x) ** 2)


def test_lbfgs_takes_the_steps_that_optax_takes():
    trained, log = jo.fit(
        Point(START), jnp.ones(3), loss=rosenbrock, steps=12, optimizer=optax.lbfgs(),
        progress=False,
    )  # fmt: skip
    by_hand, params = optax.lbfgs(), START
    state = by_hand.init(params)

    def value_fn(xy):
        return rosenbrock(Point(xy), jnp.ones(3))

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = by_hand.update(
            grad, state, params, value=value, grad=grad, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(12):
        params, state, value = step(params, state)
        losses.append(float(value))
    np.testing.assert_allclose(log.loss, losses, rtol=1e-6)
    np.testing.assert_allclose(trained.xy, params, rtol=1e-6)
    assert (log.history["learning_rate"] > 0).all()  # of the line search


def test_lbfgs_finds_the_minimum_with_one_program():
    point = Point(START)

    def run(steps):
        options: Any = {"loss": rosenbrock, "optimizer": "lbfgs", "progress": False}
        return jo.fit(point, jnp.ones(3), steps=steps, **options)[0].xy

    run(1)
    assert compilations_of(run, 3) == compilations_of(run, 1)
    np.testing.assert_allclose(run(50), [1.0, 1.0], atol=1e-8)


@pytest.mark.parametrize(
    ("data", "options"),
    [(ZEROS, {"batch_size": 2}), (lambda: iter([ZEROS]), {})],
    ids=["minibatches", "iterator"],
)
def test_lbfgs_needs_all_data(data, options):
    with pytest.raises(jo.OptionError, match="lbfgs compares losses of all data"):
        fit(data, optimizer="lbfgs", **options)


SCHEDULE = optax.cosine_decay_schedule(0.1, 4)
RATES = [float(jnp.asarray(SCHEDULE(i))) for i in range(4)]
WITH_RATES = {
    "a schedule": optax.sgd(SCHEDULE),
    "a chain": optax.chain(optax.clip(10.0), optax.sgd(SCHEDULE)),
    "injected": optax.inject_hyperparams(optax.sgd)(SCHEDULE),
}


@pytest.mark.parametrize("kind", WITH_RATES)
def test_the_value_of_a_schedule_is_logged(kind):
    _, log = fit(ZEROS, steps=4, optimizer=WITH_RATES[kind])
    np.testing.assert_allclose(log.history["learning_rate"], RATES, rtol=1e-6)
    weights = np.cumprod([1.0, *(1 - np.array(RATES[:3]))])
    np.testing.assert_allclose(log.loss, 0.5 * weights**2, rtol=1e-6)


def test_a_constant_rate_and_several_schedules_are_not_logged():
    both = optax.chain(optax.scale_by_schedule(SCHEDULE), optax.sgd(SCHEDULE))
    for optimizer in (optax.adam(0.1), both):
        assert "learning_rate" not in fit(ZEROS, steps=1, optimizer=optimizer)[1].history


def test_gradients_are_accumulated_by_optax():
    batches = [np.array([1.0]), np.array([3.0]), np.array([5.0]), np.array([7.0])]
    optimizer = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2)
    trained, _ = fit(iter(batches), steps=4, optimizer=optimizer)
    means = fit(iter([np.array([1.0, 3.0]), np.array([5.0, 7.0])]), steps=2)[0]
    np.testing.assert_allclose(trained.value, means.value, rtol=1e-7)


def test_transformations_that_need_the_value_get_it():
    optimizer = optax.polyak_sgd(max_learning_rate=10.0)
    trained, _ = fit(ZEROS, steps=1, optimizer=optimizer)
    # The step of Polyak is loss / gradient**2 = 1/2: halfway to zero.
    np.testing.assert_allclose(trained.value, 0.5, rtol=1e-6)
    with pytest.raises(jo.OptionError, match="no optimizer called 'lbfg'; did you mean 'lbfgs'"):
        fit(ZEROS, loss=squares, optimizer="lbfg")
