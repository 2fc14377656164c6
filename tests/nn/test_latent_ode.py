"""Latent ODEs and their encoders: what a series may look like, the bound, and what is learnt."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.nn.encoders import ODERNNEncoder, RNNEncoder
from jaxode.nn.latent_ode import LatentODE
from jaxode.nn.series import Series
from tests.support.differences import assert_gradient
from tests.support.irregular import (
    assert_what_is_masked_out_and_other_samples_do_not_matter,
    series,
    sines,
    trained,
)

KEY = jax.random.key(0)
SIZES = {"width": 5, "depth": 1}
OPTIONS = {"solver": "midpoint", "dt": 0.1}


@pytest.fixture(scope="module")
def model():
    """One with an ODE-RNN, and dimensions added."""
    return LatentODE(2, 3, 4, encoder="ode_rnn", augment=1, key=KEY, **SIZES, **OPTIONS)


@pytest.fixture(scope="module")
def plain():
    """One with the tanh network of the paper's spirals, and a time for the latent state."""
    encoder = RNNEncoder(2, 3, 4, cell="tanh", key=KEY)
    return LatentODE(2, 3, encoder=encoder, t0=1.0, key=KEY, **SIZES, **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", pytest.param("plain", marks=pytest.mark.slow)])
def test_what_is_masked_out_or_padding_does_not_matter(name, request):
    model = request.getfixturevalue(name)
    expected = assert_what_is_masked_out_and_other_samples_do_not_matter(model.reconstruct)
    assert expected.shape == (3, 5, 2)
    ts, xs, mask = series()
    late = np.concatenate([ts[:, :3], ts[:, 3:] + 7.0], 1)
    padded = model.encode(late, np.where(mask, xs, 1e3), mask, np.array([3, 3, 3]))
    alone = model.encode(ts[:1, :3], xs[:1, :3], mask[:1, :3])
    for got, want in zip(padded, alone, strict=True):
        assert got.shape == (3, 3)
        np.testing.assert_allclose(got[:1], want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [pytest.param("model", marks=pytest.mark.slow), "plain"])
def test_an_encoder_passes_over_places_where_nothing_was_observed(name, request):
    encoder = request.getfixturevalue(name).encoder
    ts, xs, mask = (jnp.asarray(x) for x in series())
    mask = mask.at[:, 3].set(False)
    fewer = [jnp.delete(x, 3, axis=1) for x in (ts, xs, mask)]
    t0 = ts[:, 0] - 0.5
    found = eqx.filter_jit(encoder)(Series(ts, xs, mask), t0)
    expected = eqx.filter_jit(encoder)(Series(*fewer), t0)
    for one, two in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_an_encoder_reads_from_the_last_observation_to_the_first():
    """Without a field it is a GRU on the series in reverse."""
    encoder = ODERNNEncoder(2, 3, 4, field=lambda h: 0 * h, key=KEY, **OPTIONS)
    ts, xs, mask = (jnp.asarray(x) for x in series())
    shown = Series(ts, jnp.where(mask, xs, 0), mask)
    mean, log_variance, _ = eqx.filter_jit(encoder)(shown, ts[:, 0] - 0.5)
    for i in range(3):
        h = jnp.zeros(4)
        for j in reversed(range(5)):
            inputs = jnp.concatenate([jnp.where(mask[i, j], xs[i, j], 0), 1.0 * mask[i, j]])
            h = encoder.rnn.cell(inputs, h) if mask[i, j].any() else h
        expected = jnp.split(encoder.rnn.readout(h), 2)
        np.testing.assert_allclose(mean[i], expected[0], rtol=1e-12)
        np.testing.assert_allclose(log_variance[i], expected[1], rtol=1e-12)


def test_predictions_lie_on_one_trajectory_forwards_and_backwards(plain):
    ts, xs, mask = series()
    times = np.array([2.5, -1.0, 1.0, 0.2, 3.0])
    got = plain.predict(ts, xs, times, mask)
    z0, _ = plain.encode(ts, xs, mask)

    def field(t, z, args):
        return plain.field(z)

    for i, t in enumerate(times):
        z = z0 if t == 1.0 else jo.solve_batch(field, z0, (1.0, t), rtol=1e-8).y1
        np.testing.assert_allclose(got[:, i], jax.vmap(plain.decoder)(z), rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(plain(ts, xs, times[::-1], mask)[:, ::-1], got, rtol=1e-12)


def test_the_inverse_leads_back_to_the_latent_state(model):
    z0 = jax.random.normal(KEY, (3, 4))
    t0, t = jnp.array([0.0, 1.0, 2.0]), jnp.array([1.5, 0.0, 3.0])
    z = eqx.filter_jit(model.solve_latent)(z0, jnp.stack([t0, t], -1)).y1
    assert np.min(np.max(np.abs(z - z0), -1)) > 0.05
    np.testing.assert_allclose(model.inverse(z, t, t0), z0, atol=1e-2)


def test_the_bound_by_hand(model):
    ts, xs, mask = series()
    mean, log_variance = model.encode(ts, xs, mask)
    draw, _ = jax.random.split(jax.random.key(3))
    z0 = mean + jnp.exp(log_variance / 2) * jax.random.normal(draw, mean.shape)
    decoded = np.asarray(model.decode(z0, ts))
    got = model.elbo(ts, xs, mask, key=jax.random.key(3), noise=0.5, kl_weight=0.25)
    for i in range(3):
        errors = (xs[i] - decoded[i])[mask[i]]
        likelihood = np.sum(-(errors**2) / (2 * 0.25) - 0.5 * np.log(2 * np.pi * 0.25))
        m, v = np.asarray(mean[i]), np.exp(np.asarray(log_variance[i]))
        divergence = 0.5 * np.sum(m**2 + v - 1 - np.log(v))
        np.testing.assert_allclose(got[i], likelihood - 0.25 * divergence, rtol=1e-9)
    loss = model.elbo_loss(ts, xs, mask, key=jax.random.key(3), noise=0.5, kl_weight=0.25)
    np.testing.assert_allclose(loss, -np.mean(got), rtol=1e-12)


def test_imputing_fills_what_is_missing_and_nothing_else(model):
    ts, xs, mask = series()
    filled = model.impute(ts, np.where(mask, xs, np.nan))
    expected = np.where(mask, xs, model.reconstruct(ts, xs, mask))
    np.testing.assert_array_equal(filled, expected)


def test_samples_of_the_prior_differ_and_start_at_the_first_time(model):
    times = np.array([1.0, 2.0, 4.0, 5.0, 6.0])
    drawn = model.sample(KEY, 3, times)
    assert drawn.shape == (3, 5, 2)
    assert np.min(np.std(drawn, 0)) > 1e-3
    z0 = jax.random.normal(jax.random.split(KEY)[0], (3, 3))
    np.testing.assert_allclose(model.decode(z0, times, 1.0), drawn, rtol=1e-12)


@pytest.mark.slow
def test_float32_data_give_float32(plain):
    ts, xs, mask = series()
    got = plain.reconstruct(jnp.float32(ts), jnp.float32(xs), mask)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, plain.reconstruct(ts, xs, mask), atol=1e-3)


@pytest.mark.slow
def test_gradients_are_right_and_noisy_sines_are_learnt():
    options = {"solver": "midpoint", "dt": 0.25}
    model = LatentODE(1, 3, 12, key=KEY, width=16, depth=1, **options)
    ts, xs, _ = sines(0, 0.1)
    value_and_grad = eqx.filter_jit(
        eqx.filter_value_and_grad(lambda model, key: model.elbo_loss(ts, xs, key=key, noise=0.2))
    )
    assert_gradient(lambda model: value_and_grad(model, KEY), model)
    model, losses = trained(value_and_grad, model, 200)
    assert np.mean(losses[-10:]) < 0.25 * losses[0]
    ts, xs, clean = sines(1, 0.1)
    error = np.sqrt(np.mean((np.asarray(model.reconstruct(ts, xs)) - clean) ** 2))
    assert error < 0.5 * np.std(clean)


def test_bad_input_is_refused_by_name(model):
    ts, xs, mask = series()
    lstm: Any = "lstm"
    with pytest.raises(jo.TimesError, match="sample 1"):
        model.elbo(ts[[0, 1]] * np.array([[1.0], [-1.0]]), xs[:2], mask[:2], key=KEY)
    with pytest.raises(jo.DataError, match="2 channels, xs has 1"):
        model.encode(ts, xs[..., :1])
    with pytest.raises(jo.DataError, match="times must have shape"):
        model.predict(ts, xs, np.zeros((2, 4)), mask)
    with pytest.raises(jo.StateError, match=r"\(batch, 3\)"):
        model.decode(np.zeros((2, 4)), ts)
    with pytest.raises(jo.OptionError, match="no t0 of its own"):
        model.inverse(np.zeros((2, 4)), 1.0)
    with pytest.raises(jo.OptionError, match="ode_rnn"):
        LatentODE(2, 3, encoder="odernn", key=KEY)
    with pytest.raises(jo.OptionError, match="cell"):
        RNNEncoder(2, 3, cell=lstm, key=KEY)
    with pytest.raises(jo.OptionError, match="latent"):
        ODERNNEncoder(2, 0, key=KEY)
    with pytest.raises(jo.OptionError, match="augment"):
        LatentODE(2, 3, augment=-1, key=KEY)
