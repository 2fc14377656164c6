"""Samples and steps that fail in `fit`: left out and counted, or the end."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from tests.support.one_weight import fit, squares

GOOD = jnp.array([1.0, 2.0, 4.0])
MIXED = jnp.array([1.0, -1.0, 2.0, -3.0, 4.0])  # samples below zero fail


def of_samples(model, batch):
    """The losses of the samples; not finite where one is negative, and so is its gradient."""
    return 0.5 * (model.value - batch) ** 2 * jnp.where(batch < 0, jnp.nan, 1.0)


def test_failed_samples_are_left_out_and_counted():
    trained, log = fit(MIXED, loss=of_samples, steps=4, on_failure="skip")
    expected, good = fit(GOOD, steps=4)
    np.testing.assert_allclose(trained.value, expected.value, rtol=1e-12)
    np.testing.assert_allclose(log.loss, good.loss, rtol=1e-12)
    np.testing.assert_array_equal(log.history["failed"], [2, 2, 2, 2])
    assert "8 samples failed in all" in log.summary()


def test_nothing_is_counted_where_nothing_fails():
    trained, log = fit(GOOD, loss=of_samples, steps=2, on_failure="skip")
    np.testing.assert_allclose(trained.value, fit(GOOD, steps=2)[0].value, rtol=1e-12)
    np.testing.assert_array_equal(log.history["failed"], [0, 0])


@pytest.mark.parametrize("loss", ["mse", "own"])
def test_a_solve_that_fails_does_not_poison_its_minibatch(loss):
    """y' = w y**2 overflows at the largest starts."""
    x = jnp.array([[0.2], [1e200], [0.4], [1e300]])
    options: dict[str, Any] = {"solver": "euler", "dt": 0.5}

    def own(model, batch):
        return jnp.mean((model(batch[0]) - batch[1]) ** 2, axis=1)

    def train(x, **more):
        model = jo.NeuralODE(_Square(jnp.array(1.0)), **options)
        given = own if loss == "own" and more else "mse"
        optimizer = optax.sgd(0.1)
        return jo.fit(
            model, (x, 0.1 * x), loss=given, steps=2, optimizer=optimizer, progress=False, **more
        )

    trained, log = train(x, on_failure="skip")
    expected, good = train(x[::2])
    np.testing.assert_array_equal(log.history["failed"], [2, 2])
    np.testing.assert_allclose(log.loss, good.loss, rtol=1e-9)
    np.testing.assert_allclose(trained.field.weight, expected.field.weight, rtol=1e-9)
    assert trained.field.weight < 1.0


class _Square(eqx.Module):
    weight: Any

    def __call__(self, t, y, args):
        return self.weight * y**2


def broken_at(*steps):
    """Data by an iterator: batches of which those of some steps hold NaN."""

    def batches():
        for number in range(30):
            yield np.full(3, np.nan if number in steps else 0.0)

    return batches


def test_a_scalar_loss_leaves_out_the_whole_minibatch():
    trained, log = fit(broken_at(0, 2), steps=5, on_failure="skip")
    np.testing.assert_allclose(trained.value, 0.9**3, rtol=1e-12)
    np.testing.assert_array_equal(log.history["failed"], [3, 0, 3, 0, 0])
    np.testing.assert_array_equal(np.isnan(log.loss), [True, False, True, False, False])


def test_too_many_failures_in_a_row_are_an_error_that_has_the_model():
    with pytest.raises(jo.TrainingError, match="10 steps in a row failed; loss or grad") as caught:
        fit(broken_at(*range(2, 12)), steps=30, on_failure="skip")
    np.testing.assert_allclose(caught.value.model.value, 0.9**2, rtol=1e-12)
    assert caught.value.log.loss.size == 12
    assert caught.value.log.ended == "failure"
    assert fit(broken_at(*range(9)), steps=12, on_failure="skip")[1].loss.size == 12


def test_stop_ends_at_the_first_failure():
    with pytest.warns(jo.TrainingWarning, match="not finite at step 2"):
        trained, log = fit(broken_at(2), steps=5, on_failure="stop")
    np.testing.assert_allclose(trained.value, 0.9**2, rtol=1e-12)
    assert log.ended == "failure"
    assert "failed" not in log.history


def test_losses_of_samples_are_for_skipping():
    with pytest.raises(jo.OptionError, match="the loss must return a real scalar, or such"):
        fit(GOOD, loss=of_samples)
    with pytest.raises(jo.OptionError, match="real scalar, or the losses of 3 samples"):
        fit(GOOD, loss=lambda m, b: b[:2] * m.value, on_failure="skip")
    with pytest.raises(jo.OptionError, match="no on_failure called 'skp'; did you mean 'skip'"):
        fit(GOOD, loss=squares, on_failure="skp")
