"""Validation data of `fit`: the best model, patience, the split, and what the log says."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.one_weight import fit, weight

# The weight goes 0.9**step, from 1 to 0; on the validation data 0.5 is the best.
ZEROS, HALVES = jnp.zeros(6), jnp.full(3, 0.5)


def test_the_best_model_is_kept_and_patience_ends_the_training():
    trained, log = fit(ZEROS, steps=30, validation=HALVES, validate_every=1, patience=3)
    np.testing.assert_allclose(trained.value, 0.9**7, rtol=1e-12)
    assert (log.best_step, log.ended, log.loss.size) == (7, "patience", 10)
    np.testing.assert_array_equal(log.validation["step"], np.arange(1, 11))
    expected = 0.5 * (0.9 ** np.arange(1, 11) - 0.5) ** 2
    np.testing.assert_allclose(log.validation["loss"], expected, rtol=1e-9)
    assert "the best" in log.summary()


def test_without_patience_the_last_step_is_validated_too():
    trained, log = fit(ZEROS, steps=13, validation=HALVES)
    np.testing.assert_array_equal(log.validation["step"], [10, 13])
    np.testing.assert_allclose(trained.value, 0.9**10, rtol=1e-12)
    assert (log.best_step, log.ended) == (10, "steps")


def test_a_share_is_split_by_the_key():
    def loss(model, batch):
        return model.value + jnp.mean(batch)

    def parts(**options):
        log = fit(jnp.arange(10.0), loss=loss, steps=1, validation=0.3, **options)[1]
        return float(log.loss[0]) - 1.0, float(log.validation["loss"][0]) - 0.9

    training, held_out = parts(seed=1)
    assert (7 * training + 3 * held_out) == pytest.approx(45.0)
    assert parts(seed=1) == (training, held_out)
    assert parts(seed=2) != (training, held_out)


def test_validation_by_an_iterator_weighs_batches_by_their_samples():
    def batches():
        yield np.zeros(3)
        yield np.ones(1)

    _, log = fit(ZEROS, steps=2, validation=batches, validate_every=1)
    expected = [0.5 * (0.75 * w**2 + 0.25 * (w - 1) ** 2) for w in (0.9, 0.81)]
    np.testing.assert_allclose(log.validation["loss"], expected, rtol=1e-9)


def test_metrics_of_validation_are_logged():
    x = jnp.ones((4, 1))
    _, log = fit((x, 0 * x), loss="mse", metric="mse", steps=1, validation=(2 * x, 0 * x))
    np.testing.assert_allclose(log.validation["mse"], log.validation["loss"])
    np.testing.assert_allclose(log.validation["loss"], [4 * 0.8**2])


def test_validation_that_is_never_finite_leaves_the_last_model():
    trained, log = fit(ZEROS, steps=3, validation=HALVES * jnp.nan, validate_every=1)
    np.testing.assert_allclose(trained.value, 0.9**3, rtol=1e-12)
    assert log.best_step is None


REFUSED = {
    "patience alone": ({"patience": 3}, jo.OptionError, "patience needs validation data"),
    "every alone": ({"validate_every": 3}, jo.OptionError, "validate_every needs validation"),
    "a share of all": ({"validation": 1.0}, jo.OptionError, "between 0 and 1, got 1.0"),
    "too small a share": ({"validation": 0.01}, jo.DataError, "leaves 0 for validation and 6"),
    "too large a share": ({"validation": 0.99}, jo.DataError, "leaves 6 for validation and 0"),
    "no batch left": (
        {"validation": 0.5, "batch_size": 4},
        jo.OptionError,
        "between 1 and 3 samples, got 4",
    ),
    "another structure": (
        {"validation": (ZEROS, ZEROS)},
        jo.DataError,
        "must have the structure of the data",
    ),
    "a generator": ({"validation": iter([ZEROS])}, jo.DataError, "again and again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        fit(ZEROS, **options)


def test_validation_data_of_a_loss_by_name_are_checked_too():
    x, labels = jnp.ones((4, 2)), jnp.array([0, 1, 1, 0])
    for other, message in (
        ((x, labels + 1), "labels of validation must lie between 0 and 1"),
        ((x.at[2, 0].set(jnp.nan), labels), "array 0 of validation is not finite at sample 2"),
    ):
        with pytest.raises(jo.DataError, match=message):
            fit((x, labels), loss="cross_entropy", validation=other)


def test_a_share_of_an_iterator_is_refused():
    with pytest.raises(jo.DataError, match="a share for validation needs data in memory"):
        fit(lambda: iter([ZEROS]), validation=0.5)


def test_the_given_model_is_unchanged():
    model = weight()
    fit(ZEROS, model=model, steps=2)
    assert model.value == 1.0
