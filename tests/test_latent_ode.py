"""Latent ODEs and their encoders: what a series may look like, the bound, and what is learnt."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxode as jo
from jaxode.nn.encoders import ODERNNEncoder, RNNEncoder
from jaxode.nn.latent_ode import LatentODE
from jaxode.nn.series import Series

KEY = jax.random.key(0)
SIZES = {"width": 5, "depth": 1}
OPTIONS = {"solver": "midpoint", "dt": 0.1}


def series(channels=2, batch=3, n=5):
    rng = np.random.default_rng(1)
    ts = np.sort(rng.uniform(0.0, 3.0, (batch, n)), 1)
    mask = rng.uniform(size=(batch, n, channels)) < 0.7
    mask[:, 0], mask[1, 2] = True, False
    return ts, rng.normal(size=(batch, n, channels)), mask


@pytest.fixture(scope="module")
def model():
    """One with an ODE-RNN, and dimensions added."""
    return LatentODE(2, 3, 4, encoder="ode_rnn", augment=1, key=KEY, **SIZES, **OPTIONS)


@pytest.fixture(scope="module")
def plain():
    """One with the tanh network of the paper's spirals, and a time for the latent state."""
    encoder = RNNEncoder(2, 3, 4, cell="tanh", key=KEY)
    return LatentODE(2, 3, encoder=encoder, t0=1.0, key=KEY, **SIZES, **OPTIONS)


@pytest.mark.parametrize("name", ["model", "plain"])
def test_what_is_masked_out_or_padding_does_not_matter(name, request):
    model = request.getfixturevalue(name)
    ts, xs, mask = series()
    expected = model.reconstruct(ts, xs, mask)
    assert expected.shape == (3, 5, 2)
    hidden = np.where(mask, xs, np.nan)
    np.testing.assert_array_equal(model.reconstruct(ts, hidden, mask), expected)
    order = np.array([2, 0, 1])
    moved = model.reconstruct(ts[order], xs[order], mask[order])
    np.testing.assert_allclose(moved, expected[order], rtol=1e-12, atol=1e-14)
    others = np.arange(3)[:, None] > 0
    mixed = model.reconstruct(ts + 2.0 * others, xs + 3.0 * others[..., None], mask)
    np.testing.assert_allclose(mixed[0], expected[0], rtol=1e-12, atol=1e-14)
    assert not np.allclose(mixed[1], expected[1], rtol=1e-2)
    late = np.concatenate([ts[:, :3], ts[:, 3:] + 7.0], 1)
    padded = model.encode(late, np.where(mask, xs, 1e3), mask, np.array([3, 3, 3]))
    alone = model.encode(ts[:1, :3], xs[:1, :3], mask[:1, :3])
    for got, want in zip(padded, alone, strict=True):
        assert got.shape == (3, 3)
        np.testing.assert_allclose(got[:1], want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["model", "plain"])
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
    z = eqx.filter_jit(model.states)(z0, jnp.stack([t0, t], -1)).y1
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


def test_float32_data_give_float32(plain):
    ts, xs, mask = series()
    got = plain.reconstruct(jnp.float32(ts), jnp.float32(xs), mask)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, plain.reconstruct(ts, xs, mask), atol=1e-3)


def sines(seed, batch=32, n=8, noise=0.1):
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.uniform(0.0, 4.0, (batch, n)), 1)
    clean = np.sin(1.5 * ts + rng.uniform(0.0, 2 * np.pi, (batch, 1)))[..., None]
    return ts, clean + noise * rng.normal(size=clean.shape), clean


def test_gradients_are_right_and_noisy_sines_are_learnt():
    options = {"solver": "midpoint", "dt": 0.25}
    model = LatentODE(1, 3, 12, key=KEY, width=16, depth=1, **options)
    ts, xs, _ = sines(0)
    value_and_grad = eqx.filter_jit(
        eqx.filter_value_and_grad(lambda model, key: model.elbo_loss(ts, xs, key=key, noise=0.2))
    )
    assert_gradient(lambda model: value_and_grad(model, KEY), model)
    model, losses = trained(value_and_grad, model, 200)
    assert np.mean(losses[-10:]) < 0.25 * losses[0]
    ts, xs, clean = sines(1)
    error = np.sqrt(np.mean((np.asarray(model.reconstruct(ts, xs)) - clean) ** 2))
    assert error < 0.5 * np.std(clean)


def assert_gradient(value_and_grad, model):
    """Along one direction, against central differences."""
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    flat, back = ravel_pytree(arrays)
    way = jnp.sin(1.0 + jnp.arange(flat.size))
    slope = ravel_pytree(eqx.filter(value_and_grad(model)[1], eqx.is_inexact_array))[0] @ way
    ends = [value_and_grad(eqx.combine(back(flat + h * way), rest))[0] for h in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-5)


def trained(value_and_grad, model, steps):
    optimizer = optax.adam(2e-2)

    @eqx.filter_jit
    def update(model, gradient, state):
        moves, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, moves), state

    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    for i in range(steps):
        loss, gradient = value_and_grad(model, jax.random.key(i))
        model, state = update(model, gradient, state)
        losses.append(float(loss))
    return model, losses


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
