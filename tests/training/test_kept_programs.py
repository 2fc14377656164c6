"""A training whose step an earlier one has compiled compiles nothing; one that differs does."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (8, 2))


def model(seed=0):
    network = eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(seed))
    return jo.NeuralODE(network, solver="midpoint", dt=0.5)


def fit(model, data=X, rate=1e-2, **options: Any):
    options = {"loss": "mse", "steps": 3, "progress": False, "validation": 0.25} | options
    return jo.fit(model, (data, jnp.sin(data)), optimizer=optax.adam(rate), **options)


def test_the_second_training_compiles_nothing():
    """Of other weights, other data, another seed and another number of steps."""
    fit(model(0))
    data, other, later = 2 * X, model(1), []
    assert compilations_of(lambda: later.append(fit(other, data, seed=5, steps=4))) == 0
    jax.clear_caches()
    expected = fit(other, data, seed=5, steps=4)
    np.testing.assert_array_equal(later[0][1].loss, expected[1].loss)
    assert eqx.tree_equal(later[0][0], expected[0])


def test_what_the_loss_reads_is_seen():
    weight = {"of the square": 1.0}

    def loss(model, batch):
        return weight["of the square"] * jnp.mean((model(batch[0]) - batch[1]) ** 2)

    options: dict[str, Any] = {"loss": loss, "validation": None}
    first = fit(model(), **options)[1].loss[0]
    weight["of the square"] = 3.0
    assert fit(model(), **options)[1].loss[0] == pytest.approx(3 * first, rel=1e-12)


def test_another_rate_and_another_shape_are_other_programs():
    one, other = (fit(model(), rate=rate)[1].loss[-1] for rate in (1e-2, 1e-1))
    assert one != other
    assert fit(model(), X[:6])[1].loss.shape == (3,)


def test_without_jit_a_training_has_the_same_losses():
    options: dict[str, Any] = {"validation": None, "steps": 2}
    network = eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=KEY)
    expected = fit(network, **options)[1].loss
    with jax.disable_jit():
        found = fit(network, **options)[1].loss
    np.testing.assert_allclose(found, expected, rtol=1e-12)
