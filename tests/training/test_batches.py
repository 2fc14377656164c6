"""Where the batches of `fit` come from: epochs, iterators, irregular series with shared times."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of
from tests.support.one_weight import fit, weight

ZEROS = jnp.zeros(4)


def logged_means(model, batch):
    """A loss that tells the batch: samples are powers of two."""
    return model.value, {"sum": jnp.sum(batch)}


def test_an_epoch_goes_once_through_the_samples_in_a_new_order():
    data = 2.0 ** jnp.arange(6)
    _, log = fit(data, loss=logged_means, epochs=3, batch_size=2, key=jax.random.key(4))
    sums = log.history["sum"].reshape(3, 3).astype(int)
    np.testing.assert_array_equal(sums.sum(axis=1), 63)
    assert len({tuple(sorted(row)) for row in sums.tolist()}) > 1
    # Of seven samples the three batches leave out one in each epoch, not always the same.
    _, log = fit(2.0 ** jnp.arange(7), loss=logged_means, epochs=4, batch_size=2)
    sums = log.history["sum"].reshape(4, 3).astype(int).sum(axis=1)
    assert all(int(127 - total).bit_count() == 1 for total in sums)
    assert len(set(sums.tolist())) > 1


def test_a_seed_is_the_key_of_that_seed():
    def sums(**options):
        data = 2.0 ** jnp.arange(6)
        return fit(data, loss=logged_means, steps=3, batch_size=3, **options)[1].history["sum"]

    np.testing.assert_array_equal(sums(seed=5), sums(key=jax.random.key(5)))
    np.testing.assert_array_equal(sums(seed=0), sums())
    assert (sums(seed=5) != sums()).any()


class Loader:
    """What can be iterated over again and again, as PyTorch's loaders can."""

    def __iter__(self):
        for number in range(3):
            yield [Tensor(np.full((2, 1), float(number))), Tensor(np.zeros((2, 1)))]


class Tensor:
    """What NumPy turns into an array, as it does a tensor of PyTorch."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


STREAMS = {
    "a function": lambda: lambda: ((np.full((2, 1), float(i)), np.zeros((2, 1))) for i in range(3)),
    "a loader": Loader,
}


@pytest.mark.parametrize("kind", STREAMS)
def test_iterators_begin_again(kind):
    options = {"loss": "mse", "optimizer": optax.sgd(0.0)}
    _, log = fit(STREAMS[kind](), steps=7, **options)
    np.testing.assert_allclose(log.loss, [0, 1, 4, 0, 1, 4, 0])
    _, log = fit(STREAMS[kind](), epochs=2, **options)
    np.testing.assert_allclose(log.loss, [0, 1, 4, 0, 1, 4])
    assert log.ended == "steps"


def test_a_generator_ends_the_training_and_no_batch_too_many_is_drawn():
    batches = iter([ZEROS] * 5)
    _, log = fit(batches, steps=3)
    assert (log.loss.size, log.ended, len(list(batches))) == (3, "steps", 2)
    with pytest.warns(jo.TrainingWarning, match="the data ended after 2 of 7 steps"):
        _, log = fit(iter([ZEROS] * 2), steps=7)
    assert log.ended == "data"


def test_batches_of_one_shape_share_one_program():
    def run(steps):
        fit(iter([np.full(3, float(i)) for i in range(steps)]), steps=steps)

    run(1)
    assert compilations_of(run, 6) == compilations_of(run, 1)


def test_steps_share_their_programs_whatever_else_there_is():
    data = jnp.array([1.0, 2.0, -1.0, 3.0])

    def loss(model, batch):
        return (model.value - batch) ** 2 * jnp.where(batch < 0, jnp.nan, 1.0)

    def run(steps):
        _, log = fit(
            data, loss=loss, steps=steps, batch_size=2, on_failure="skip", validation=ZEROS,
            validate_every=1, callbacks=lambda state: None, optimizer=optax.adam(0.1),
        )  # fmt: skip
        return log.history["failed"]

    run(1)
    assert compilations_of(run, 8) == compilations_of(run, 1)
    assert {*run(8)} == {0, 1}


def test_data_that_raise_lose_nothing():
    def batches():
        yield ZEROS
        yield ZEROS
        raise OSError("the file is gone")

    with pytest.raises(jo.TrainingError, match="raised OSError at step 2: the file is") as caught:
        fit(batches)
    np.testing.assert_allclose(caught.value.model.value, 0.9**2, rtol=1e-12)
    with pytest.raises(jo.TrainingError, match="at step 1: a batch of data must agree in the numb"):
        fit(iter([(ZEROS, ZEROS), (ZEROS, ZEROS[:2])]), loss=lambda m, b: m.value)


REFUSED = {
    "no batches": (lambda: iter(()), {}, jo.DataError, "data has no batches"),
    "no iterator": (lambda: 3, {}, jo.DataError, "must return an iterator of batches, got 3"),
    "an array": (lambda: ZEROS, {}, jo.DataError, "must return an iterator of batches"),
    "numbers": (lambda: iter([1.0]), {}, jo.DataError, "a batch of data must be a pytree of arr"),
    "a batch size": (lambda: iter([ZEROS]), {"batch_size": 2}, jo.OptionError, "has batches alr"),
    "an epoch too many": (iter([ZEROS]), {"epochs": 2}, jo.DataError, "data that begin again"),
    "both lengths": (ZEROS, {"steps": 1, "epochs": 1}, jo.OptionError, "give one of them"),
    "both keys": (ZEROS, {"seed": 1, "key": jax.random.key(0)}, jo.OptionError, "give one of"),
    "an axis of one": (ZEROS, {"data_axes": 1}, jo.DataError, "data_axes must hold 0"),
    "other axes": ((ZEROS,), {"data_axes": (0, None)}, jo.DataError, "does not fit the struct"),
    "no axes": (ZEROS, {"data_axes": None}, jo.DataError, "no array has an axis of samples"),
    "unsaid axes": ((jnp.ones(7), ZEROS), {}, jo.DataError, "such as times, have None in data_ax"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    data, options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        fit(data, **options)


def series(shared):
    """Irregular series: the value at each time tells the sample and the time."""
    ts = jnp.linspace(0.0, 1.0, 4) if shared else jnp.arange(6.0)[:, None] + jnp.arange(4.0) / 10
    return ts, 2.0 ** jnp.arange(6)[:, None] * (1 + ts)


@pytest.mark.parametrize("shared", [True, False], ids=["shared times", "own times"])
@pytest.mark.parametrize("how", ["steps", "epochs"])
def test_times_and_values_are_cut_together(shared, how):
    def loss(model, batch):
        ts, xs = batch
        assert xs.shape == (2, 4)
        assert ts.shape == ((4,) if shared else (2, 4))
        samples = xs / (1 + ts)  # constant along the series: the times are those of the sample
        spread = jnp.max(jnp.ptp(samples, axis=1))
        return model.value * jnp.sum(samples[:, 0]), {"spread": spread}

    axes = (None, 0) if shared else 0
    options = {"batch_size": 2, "data_axes": axes, how: 2, "optimizer": optax.sgd(0.0)}
    _, log = fit(series(shared), loss=loss, **options)
    np.testing.assert_allclose(log.history["spread"], 0.0, atol=1e-12)
    assert all(round(total).bit_count() == 2 for total in log.loss)


def test_shared_times_stay_whole_in_validation_and_where_samples_are_left_out():
    ts, xs = jnp.arange(5.0), jnp.ones((5, 5)).at[1].set(jnp.nan)  # as many times as samples

    def loss(model, batch):
        assert batch[0].shape == (5,)
        return 0.5 * jnp.mean((model.value * batch[0] - batch[1] * batch[0]) ** 2, axis=1)

    options = {"data_axes": (None, 0), "optimizer": optax.sgd(0.1)}
    trained, log = fit(
        (ts, xs), model=weight(2.0), loss=loss, steps=1, on_failure="skip", **options
    )
    np.testing.assert_array_equal(log.history["failed"], [1])
    np.testing.assert_allclose(trained.value, 2.0 - 0.1 * jnp.mean(ts**2), rtol=1e-12)
    _, log = fit((ts, jnp.ones((5, 5))), loss=lambda m, b: jnp.mean(loss(m, b)), steps=1,
                 validation=0.4, **options)  # fmt: skip
    np.testing.assert_allclose(log.validation["loss"], [0.0], atol=1e-12)


def test_a_loss_by_name_maps_over_the_samples_alone():
    ts, xs = jnp.arange(3.0), jnp.ones((4, 1))

    class Slope(eqx.Module):
        value: jax.Array

        def __call__(self, x):
            ts, start = x
            return start + self.value * ts

    data = (ts, xs), jnp.zeros((4, 3))
    _, log = fit(data, model=Slope(jnp.array(1.0)), loss="mse", data_axes=((None, 0), 0), steps=1)
    np.testing.assert_allclose(log.loss, [np.mean((1.0 + np.arange(3.0)) ** 2)], rtol=1e-12)
