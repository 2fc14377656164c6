"""Losses of the user: which of their arguments is the key, and data with missing values."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo

X = jax.random.normal(jax.random.key(0), (8, 2))
KEY = jax.random.key(3)
# What the first step of `fit` gives a loss.
LOSS_KEY = jax.random.split(jax.random.fold_in(KEY, 0))[1]


class Factor(eqx.Module):
    """One weight."""

    weight: jax.Array


def drawn(key: jax.Array) -> Any:
    return jax.random.uniform(key, dtype=jnp.result_type(float))


def third(model, batch, key):
    return model.weight * drawn(key)


def third_by_another_name(model, batch, rng, /):
    return model.weight * drawn(rng)


def with_default(model, batch, key=None):
    return model.weight * drawn(key)  # pyright: ignore[reportArgumentType]


def by_name(model, batch, *, key):
    return model.weight * drawn(key)


def after_a_bound_default(model, batch, scale=2.0, key=None):
    return scale / 2 * model.weight * drawn(key)  # pyright: ignore[reportArgumentType]


def with_scale(model, batch, scale, key):
    return scale * model.weight * drawn(key)


WITH_KEY = {
    "the third": third,
    "the third, of another name": third_by_another_name,
    "with a default": with_default,
    "by name": by_name,
    "after a bound default": after_a_bound_default,
    "beside what is bound": functools.partial(with_scale, scale=1.0),
    "of a jitted function": jax.jit(third),
}
WITHOUT_KEY = {
    "a bound default": lambda model, batch, w=0.1: w * model.weight,
    "two bound defaults": lambda model, batch, w=0.1, b=0.0: w * model.weight + b,
    "a bound argument": functools.partial(lambda model, batch, w: w * model.weight, w=0.1),
    "a key that is bound": functools.partial(
        lambda model, batch, key=None: 0.1 * model.weight + (key is None), key=jax.random.key(7)
    ),
    "options": lambda model, batch, **options: 0.1 * model.weight + len(options),
    "more": lambda model, batch, *more: 0.1 * model.weight + len(more),
}


def first_loss(loss: Any) -> float:
    """The loss of a model whose weight is 3, by the first of the keys that `fit` draws."""
    model = Factor(jnp.array(3.0))
    return float(jo.fit(model, X, loss=loss, steps=1, key=KEY, progress=False)[1].loss[0])


@pytest.mark.parametrize("case", WITH_KEY)
def test_a_loss_is_given_the_key(case):
    np.testing.assert_allclose(first_loss(WITH_KEY[case]), 3.0 * drawn(LOSS_KEY), rtol=1e-12)


@pytest.mark.parametrize("case", WITHOUT_KEY)
def test_what_is_bound_is_not_the_key(case):
    np.testing.assert_allclose(first_loss(WITHOUT_KEY[case]), 0.3, rtol=1e-12)


def test_data_of_a_function_may_hold_nan():
    x = X.at[2, 0].set(jnp.nan)

    def masked(model, batch):
        seen = ~jnp.isnan(batch)
        errors = jnp.where(seen, (jnp.where(seen, batch, 0.0) - model.weight) ** 2, 0.0)
        return jnp.sum(errors) / jnp.sum(seen)

    model = Factor(jnp.array(3.0))
    expected = np.nanmean((np.asarray(x) - 3.0) ** 2)
    optimizer = optax.sgd(0.5)
    trained, log = jo.fit(model, x, loss=masked, steps=1, optimizer=optimizer, progress=False)
    np.testing.assert_allclose(log.loss, [expected], rtol=1e-12)
    np.testing.assert_allclose(trained.weight, np.nanmean(x), rtol=1e-12)  # Newton's step
    with pytest.raises(jo.SolveError, match="not finite at step 0"):
        jo.fit(model, x, loss=lambda m, b: jnp.mean(b) * m.weight, steps=1, progress=False)
    with pytest.raises(jo.DataError, match="not finite at sample 2, which a loss by name needs"):
        jo.fit(lambda x: x, (x, x), loss="mse", steps=1, progress=False)


@pytest.mark.slow
def test_a_model_of_series_learns_from_missing_values():
    ts, xs, labels = jo.datasets.spiral_chirality(4, key=KEY, missing=0.5)
    assert bool(jnp.isnan(xs).any())
    options: Any = {"solver": "euler", "dt": 0.5, "control": "hermite"}
    model = jo.nn.NeuralCDE.mlp(2, 2, hidden=2, width=4, key=KEY, **options)

    def loss(model, batch):
        logits = model(ts[:20], batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    data = xs[:, :20], labels
    _, log = jo.fit(model, data, loss=loss, steps=2, progress=False)
    np.testing.assert_allclose(log.loss[0], loss(model, data), rtol=1e-6)
    assert log.loss[1] < log.loss[0]
