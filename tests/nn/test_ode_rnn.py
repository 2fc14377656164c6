"""ODE-RNN and GRU-ODE-Bayes: what they take, what they compute, and what they learn."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.nn.gru_ode_bayes import GRUODE, GRUODEBayes, kl_of_normals, posterior
from jaxode.nn.ode_rnn import ODERNN
from jaxode.nn.series import prepare_series
from tests.support.differences import assert_gradient
from tests.support.irregular import (
    assert_what_is_masked_out_and_other_samples_do_not_matter,
    series,
    sines,
    trained,
)

KEY = jax.random.key(0)
OPTIONS = {"solver": "midpoint", "dt": 0.1}


@pytest.fixture(scope="module")
def rnn():
    return ODERNN(2, 4, 3, key=KEY, **OPTIONS)


@pytest.fixture(scope="module")
def bayes():
    return GRUODEBayes(2, 4, key=KEY, **OPTIONS)


def answers(model, *args):
    """What either model says at every place, behind what is observed there."""
    if isinstance(model, ODERNN):
        return model(*args)
    return jnp.concatenate(model(*args), -1)


@pytest.mark.parametrize("name", ["rnn", "bayes"])
def test_what_is_masked_out_or_padding_does_not_matter(name, request):
    model = request.getfixturevalue(name)
    expected = assert_what_is_masked_out_and_other_samples_do_not_matter(partial(answers, model))
    assert expected.shape == (3, 5, 3 if name == "rnn" else 4)
    ts, xs, mask = series()
    lengths = np.array([5, 3, 4])
    late = np.where(np.arange(5) < lengths[:, None], ts, ts + 7.0)
    padded = answers(model, late, np.where(mask, xs, 1e3), mask, lengths)
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(padded[i, :length], expected[i, :length], rtol=1e-12, atol=1e-14)


def test_the_last_output_of_a_series_alone_is_the_one_of_its_last_place(rnn):
    ts, xs, mask = series()
    every = rnn(ts, xs, mask)
    last = rnn(ts[1:2], xs[1:2], mask[1:2], np.array([4]), outputs="last")
    np.testing.assert_allclose(last[0], every[1, 3], rtol=1e-12)


def test_without_a_field_an_ode_rnn_is_a_gru():
    model = ODERNN(2, 4, 3, field=lambda h: 0 * h, key=KEY, **OPTIONS)
    ts, xs, mask = series()
    got = model(ts, xs, mask)
    for i in range(3):
        h = jnp.zeros(4)
        for j in range(5):
            inputs = jnp.concatenate([jnp.where(mask[i, j], xs[i, j], 0), 1.0 * mask[i, j]])
            h = model.cell(inputs, h) if mask[i, j].any() else h
            np.testing.assert_allclose(got[i, j], model.readout(h), rtol=1e-12)


def test_between_observations_the_state_follows_the_field():
    ts, xs = np.array([[0.5, 2.0]]), np.array([[[1.0, -2.0], [0.0, 0.0]]])
    tight = {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-11}
    model = ODERNN(2, 4, 3, field=lambda t, h: -t * h, key=KEY, **tight)
    before = model(ts, xs, outputs="before")[0, 1]
    h = model.cell(jnp.array([1.0, -2.0, 1.0, 1.0]), jnp.zeros(4))
    expected = model.readout(h * np.exp(-(2.0**2 - 0.5**2) / 2))
    np.testing.assert_allclose(before, expected, rtol=1e-7)


def test_predictions_see_what_was_observed_until_then(rnn):
    ts, xs, mask = series()
    times = np.stack([ts[:, 3], ts[:, 0] - 1.0, ts[:, 4] + 1.0], 1)
    got = rnn.predict(ts, xs, times, mask)
    np.testing.assert_allclose(got[:, 0], rnn(ts, xs, mask)[:, 3], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got[:, 1], np.tile(rnn.readout(jnp.zeros(4)), (3, 1)), rtol=1e-12)
    longer = np.concatenate([ts, times[:, 2:]], 1), np.concatenate([xs, xs[:, :1]], 1)
    seen = np.concatenate([mask, mask[:, :1]], 1)
    ahead = rnn(*longer, seen, outputs="before")[:, 5]
    np.testing.assert_allclose(got[:, 2], ahead, rtol=1e-3, atol=1e-4)
    assert not np.allclose(got[:, 2], rnn(ts, xs, mask)[:, 4], rtol=1e-2)


def test_float32_data_give_float32(rnn, bayes):
    ts, xs, mask = series()
    ts, xs = jnp.float32(ts), jnp.float32(xs)
    got = rnn(ts, xs, mask)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, rnn(*series()), atol=1e-3)
    mean, _ = bayes(ts, xs, mask)
    assert mean.dtype == jnp.float32
    np.testing.assert_allclose(mean, bayes(*series())[0], atol=1e-3)


def test_the_field_of_a_gru_keeps_its_state_between_minus_one_and_one():
    field = GRUODE(4, key=KEY)
    field = jax.tree.map(lambda x: 5 * x, field)
    starts = jnp.sign(jax.random.normal(KEY, (8, 4)))
    ys = jo.solve_batch(
        lambda t, h, args: field(h), starts, jnp.linspace(0.0, 20.0, 41), rtol=1e-8
    ).ys
    assert np.max(np.abs(ys)) <= 1 + 1e-8


def test_the_field_of_a_gru_without_weights_forgets_half_of_its_state():
    """Its gate is open by half, and its candidate zero."""
    field = jax.tree.map(jnp.zeros_like, GRUODE(4, key=KEY))
    h = jnp.array([1.0, -0.5, 0.2, 0.0])
    np.testing.assert_allclose(field(h), -0.5 * h)


def test_the_loss_of_gru_ode_bayes_by_hand(bayes):
    ts, xs, mask = series()
    states = bayes.hidden_states(prepare_series(ts, xs, mask))
    mean, log_variance = (np.asarray(x) for x in bayes.distribution(states.before))
    after, log_after = (np.asarray(x) for x in bayes.distribution(states.after))
    total = 0.0
    for i, j, c in np.argwhere(mask):
        v, m, x = np.exp(log_variance[i, j, c]), mean[i, j, c], xs[i, j, c]
        total += 0.5 * ((x - m) ** 2 / v + np.log(2 * np.pi * v))
        v_bayes = 1 / (1 / v + 1 / 0.2**2)
        m_bayes = v_bayes * (m / v + x / 0.2**2)
        w, a = np.exp(log_after[i, j, c]), after[i, j, c]
        total += 0.5 * 0.5 * (v_bayes / w + (m_bayes - a) ** 2 / w - 1 + np.log(w / v_bayes))
    loss = bayes.loss(ts, xs, mask, noise=0.2, weight=0.5)
    np.testing.assert_allclose(loss, total / mask.sum(), rtol=1e-10)


def test_posterior_and_divergence_at_known_values():
    mean, log_variance = posterior(jnp.array(1.0), jnp.log(4.0), jnp.array(3.0), jnp.array(2.0))
    np.testing.assert_allclose([mean, np.exp(log_variance)], [2.0, 2.0], rtol=1e-12)
    assert kl_of_normals(mean, log_variance, mean, log_variance) == pytest.approx(0, abs=1e-15)
    kl = kl_of_normals(*(jnp.array(x) for x in (1.0, 0.0, 0.0, np.log(4.0))))
    np.testing.assert_allclose(kl, np.log(2.0) + 2 / 8 - 0.5, rtol=1e-12)


def next_loss(model, ts, xs):
    """Squares of the errors of the next values; the first three places are for looking."""
    return jnp.mean((model(ts, xs, outputs="before") - xs)[:, 3:] ** 2)


def bayes_loss(model, ts, xs):
    return model.loss(ts, xs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "loss"),
    [("rnn", next_loss), pytest.param("bayes", bayes_loss, marks=pytest.mark.slow)],
)
def test_gradients_are_right_and_the_next_value_is_learnt(kind, loss):
    options = {"solver": "midpoint", "dt": 0.5}
    model: Any
    if kind == "rnn":
        model = ODERNN(1, 8, 1, key=KEY, **options)
    else:
        model = GRUODEBayes(1, 8, key=KEY, **options)
    ts, xs, _ = sines(0, 0.05)
    value_and_grad = eqx.filter_jit(eqx.filter_value_and_grad(loss))
    assert_gradient(lambda model: value_and_grad(model, ts, xs), model)
    model, _ = trained(lambda model, key: value_and_grad(model, ts, xs), model, 120)
    ts, xs, clean = sines(1, 0.05)
    got = model(ts, xs, outputs="before") if isinstance(model, ODERNN) else model(ts, xs)[0]
    error = np.sqrt(np.mean((np.asarray(got) - clean)[:, 3:] ** 2))
    persistence = np.sqrt(np.mean((xs[:, 2:-1] - clean[:, 3:]) ** 2))
    assert error < 0.6 * persistence


def test_bad_input_is_refused_by_name(rnn, bayes):
    ts, xs, mask = series()
    misspelt: Any = {"rtoll": 1e-3}
    no_instance: Any = eqx.nn.MLP
    for model in (rnn, bayes):
        with pytest.raises(jo.TimesError, match="sample 1"):
            model(ts[[0, 1]] * np.array([[1.0], [-1.0]]), xs[:2], mask[:2])
        with pytest.raises(jo.DataError, match="sample 2"):
            model(ts, np.where(np.arange(3)[:, None, None] == 2, np.nan, xs), mask)
        with pytest.raises(jo.DataError, match="at least 1"):
            model(ts[:, :0], xs[:, :0])
        with pytest.raises(jo.DataError, match="lengths"):
            model(ts, xs, mask, np.array([5, 0, 4]))
        with pytest.raises(jo.DataError, match="2 channels, xs has 1"):
            model(ts, xs[..., :1])
        with pytest.raises(jo.TimesError, match="times has inf"):
            model.predict(ts, xs, np.array([np.inf]), mask)
        with pytest.raises(jo.DataError, match="times must have shape"):
            model.predict(ts, xs, np.zeros((2, 4)), mask)
    with pytest.raises(jo.OptionError, match="hidden"):
        ODERNN(2, 0, 3, key=KEY)
    with pytest.raises(jo.OptionError, match="rtoll"):
        GRUODEBayes(2, 4, key=KEY, **misspelt)
    with pytest.raises(jo.OptionError, match="outputs"):
        rnn(ts, xs, mask, outputs="all")
    with pytest.raises(jo.FieldError, match="callable"):
        ODERNN(2, 4, 3, field=no_instance, key=KEY)


def test_a_solve_that_fails_says_where():
    model = ODERNN(1, 2, 1, field=lambda h: 0 * h + jnp.nan, key=KEY, max_steps=8)
    with pytest.raises(jo.SolveError, match="sample 0, in the gap before place 1"):
        model(np.array([0.0, 1.0]), np.ones((2, 2, 1)))
