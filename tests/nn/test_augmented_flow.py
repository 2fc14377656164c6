"""A CNF with appended noise: bounds that are tight where they must be, samples, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.stats

import jaxode as jo

A = np.array([[0.4, -1.1, 0.3], [0.3, -0.7, -0.5], [0.6, 0.2, 0.1]])
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 2))
TIGHT: Any = {"rtol": 1e-9, "atol": 1e-9}


def linear(t, y, args):
    return jnp.asarray(A, y.dtype) @ y


MIXED = jo.nn.CNF(linear, 2, augment=1, **TIGHT)


def exact():
    """What the flow of three dimensions makes of the two of a sample: a normal distribution."""
    flow: Any = scipy.linalg.expm(A)
    return scipy.stats.multivariate_normal(np.zeros(2), (flow @ flow.T)[:2, :2])


@pytest.mark.slow
def test_noise_that_the_field_leaves_alone_changes_nothing():
    def apart(t, y, args):
        return jnp.append(jnp.asarray(A[:2, :2]) @ y[:2], 0.0)

    def alone(t, y, args):
        return jnp.asarray(A[:2, :2]) @ y

    plain = jo.nn.CNF(alone, 2, **TIGHT).log_prob(X)
    model = jo.nn.CNF(apart, 2, augment=1, **TIGHT)
    np.testing.assert_allclose(model.log_prob(X, key=KEY), plain, rtol=1e-7)
    np.testing.assert_allclose(model.log_prob(X[0], key=KEY), plain[0], rtol=1e-7)


def test_its_mean_is_a_lower_bound_and_that_of_its_exponential_the_density():
    many = jnp.broadcast_to(X[0], (20_000, 2))
    found = np.asarray(MIXED.log_prob(many, key=KEY))
    density = exact().pdf(np.asarray(X[0]))
    drawn = np.exp(found)
    error = np.std(drawn) / np.sqrt(drawn.size)
    assert error < 0.05 * density
    np.testing.assert_allclose(drawn.mean(), density, atol=4 * error)
    assert found.mean() < np.log(density) - 10 * np.std(found) / np.sqrt(found.size)


def test_samples_have_the_marginal_distribution():
    samples = MIXED.sample(KEY, 20_000)
    covariance = exact().cov
    bound = 5 * np.sqrt(2.0 / 20_000) * np.max(covariance)
    np.testing.assert_allclose(jnp.cov(samples.T), covariance, atol=bound)


def test_forward_and_inverse_are_each_others():
    z = MIXED.forward(X, key=KEY)
    assert z.shape == (8, 3)
    np.testing.assert_allclose(MIXED.inverse(z), X, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_it_trains_by_either_loss():
    model = jo.nn.FFJORD(2, (16,), augment=2, key=KEY, rtol=1e-4, atol=1e-4)
    data = 3 + 0.5 * X

    def matched(model, x, key):
        return jo.nn.flow_matching_loss(model, x, key)

    def likelihood(model, x, key):
        return jo.nn.negative_log_likelihood(model, x, key)

    for loss, steps in ((matched, 200), (likelihood, 20)):
        fitted, _ = jo.fit(
            model, data, loss=loss, steps=steps, optimizer=optax.adam(1e-2), key=KEY,
            progress=False,
        )  # fmt: skip
        before, after = (jnp.mean(m.log_prob(data, key=KEY)) for m in (model, fitted))
        assert after > before + 1


def test_what_it_cannot_do_is_refused_by_name():
    with pytest.raises(jo.OptionError, match="give it a key="):
        MIXED.log_prob(X)
    with pytest.raises(jo.OptionError, match="sample"):
        MIXED.sample_and_log_prob(KEY, 4)
    with pytest.raises(jo.DataError, match=r"\(n, 3\)"):
        MIXED.inverse(X)
    with pytest.raises(jo.OptionError, match="augment must be an integer"):
        jo.nn.CNF(linear, 2, augment=-1)
