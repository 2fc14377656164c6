"""Flow matching: the minimiser in closed form, couplings, and a density that is learnt."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from jaxode.nn.cnf import CNF
from jaxode.nn.flow_matching import flow_matching_loss, sinkhorn_plan, stratified_uniform
from jaxode.problem.errors import DataError, OptionError

loss_of = eqx.filter_jit(flow_matching_loss)
MEAN, DEVIATION = jnp.array([1.5, -0.5]), 0.4


def optimal(t, y):
    """The velocity that carries the standard normal to `N(MEAN, DEVIATION**2)`."""
    variance = (1 - t) ** 2 + t**2 * DEVIATION**2
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (y - t * MEAN)


def target(key, n):
    return MEAN + DEVIATION * jax.random.normal(key, (n, 2))


def features(t, y):
    return jnp.stack([jnp.ones(()), t, y[0], y[1], t * y[0], t * t * y[1], jnp.sin(3 * y[0] + t)])


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (-1.0, 3.0)])
def test_the_minimiser_is_the_closed_form_velocity(t0, t1):
    """The loss of `optimal + weights @ features` is quadratic: its minimum is at no weights."""

    def loss(weights, key):
        data_key, key = jax.random.split(key)

        def field(t, y):
            share = (t - t0) / (t1 - t0)
            return (optimal(share, y) + weights @ features(share, y)) / (t1 - t0)

        model = CNF(field, 2, t0=t0, t1=t1)
        return flow_matching_loss(model, target(data_key, 4000), key) * (t1 - t0) ** 2

    zero = jnp.zeros((2, 7))
    keys = jax.random.split(jax.random.key(0), 25)
    found = jax.jit(lambda keys: jax.lax.map(lambda k: jax.value_and_grad(loss)(zero, k), keys))
    values, slopes = found(keys)
    error = jnp.std(slopes, 0) / np.sqrt(25)
    assert float(jnp.max(jnp.abs(jnp.mean(slopes, 0)) / error)) < 5.0
    assert float(jnp.max(error)) < 0.05
    # What is left is the variance of the target, whose integral over time is known.
    t = (np.arange(2000) + 0.5) / 2000
    variance = (1 - t) ** 2 + t**2 * DEVIATION**2
    left = 1 + DEVIATION**2 - (t * DEVIATION**2 - (1 - t)) ** 2 / variance
    np.testing.assert_allclose(jnp.mean(values), 2 * np.mean(left), rtol=0.02)


def test_the_closed_form_velocity_carries_the_base_to_the_data():
    x = target(jax.random.key(0), 16)
    exact = jnp.sum(jax.scipy.stats.norm.logpdf(x, MEAN, DEVIATION), axis=-1)
    found = CNF(optimal, 2, rtol=1e-8, atol=1e-8).log_prob(x)
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def transport(x, key, coupling):
    """The mean squared length of the paths, read off a field that stands still."""
    loss = flow_matching_loss if coupling == "exact" else loss_of
    return loss(lambda t, y: 0.0 * y, x, key, coupling=coupling)


@pytest.mark.slow
def test_optimal_pairs_have_shorter_paths():
    x, key = 2.0 * jnp.sign(target(jax.random.key(0), 64) - MEAN), jax.random.key(1)
    independent, plan, exact = (
        float(transport(x, key, name)) for name in ("independent", "ot", "exact")
    )
    assert exact < plan < 1.3 * exact
    assert plan < 0.5 * independent


def test_the_assignment_is_the_same_under_jit_and_a_gradient():
    x, key = target(jax.random.key(0), 16), jax.random.key(1)
    loss = functools.partial(flow_matching_loss, x=x, key=key, coupling="exact")
    outside = loss(lambda t, y: 0.0 * y)
    inside, slope = jax.jit(jax.value_and_grad(lambda a: loss(lambda t, y: a * y)))(0.0)
    np.testing.assert_allclose(inside, outside, rtol=1e-6)
    assert jnp.isfinite(slope)


def test_the_plan_has_both_marginals_and_draws_keep_the_base():
    z, x = jax.random.normal(jax.random.key(0), (128, 2)), target(jax.random.key(1), 128)
    plan_of = jax.jit(sinkhorn_plan)
    plan = jnp.exp(plan_of(z, x))
    np.testing.assert_allclose(jnp.sum(plan, 0), 1 / 128, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(plan, 1), 1 / 128, rtol=0.05)
    rectangle = jnp.exp(plan_of(z[:50], x))
    np.testing.assert_allclose(jnp.sum(rectangle, 0), 1 / 128, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(rectangle, 1), 1 / 50, rtol=0.05)


def test_a_velocity_trained_on_optimal_pairs_has_the_right_density():
    """A straight path between two normals: the velocity that optimal pairs are to give."""

    def exact(t, y):
        scale = 1 - t + t * DEVIATION
        return MEAN + (DEVIATION - 1) * (y - t * MEAN) / scale

    x, key = target(jax.random.key(0), 512), jax.random.key(1)
    left = flow_matching_loss(exact, x, key, coupling="exact")
    independent = loss_of(optimal, x, key)
    assert float(left) < 0.1 * float(independent)


def test_times_are_uniform_and_one_in_each_part():
    times = stratified_uniform(jax.random.key(0), 100, jnp.float32)
    assert times.dtype == jnp.float32
    np.testing.assert_array_equal(jnp.sort(jnp.floor(100 * times)), jnp.arange(100))
    assert float(jnp.abs(jnp.corrcoef(times, jnp.arange(100.0))[0, 1])) < 0.5


def test_noise_about_the_paths_and_own_couplings():
    x, key = target(jax.random.key(0), 64), jax.random.key(1)
    seen = {}

    def same(z, x, key):
        seen["z"] = z
        return jnp.zeros(x.shape[0], int)

    found = flow_matching_loss(lambda t, y: 0.0 * y, x, key, coupling=same)
    np.testing.assert_allclose(found, jnp.mean(jnp.sum((x - seen["z"][0]) ** 2, -1)), rtol=1e-6)
    plain, noisy = (loss_of(optimal, x, key, sigma=s) for s in (0.0, 0.5))
    assert float(noisy) > float(plain)


def test_conditional_arguments_stay_with_their_samples():
    labels = jnp.arange(64.0) % 2
    x = jnp.stack([labels, -labels], -1) * 8.0

    def field(t, y, label):  # what a path to a known point is on average
        return (jnp.stack([label, -label]) * 8.0 - y) / jnp.maximum(1 - t, 1e-3)

    for coupling in ("independent", "ot"):
        found = loss_of(field, x, jax.random.key(0), coupling=coupling, args=labels, args_axes=0)
        np.testing.assert_allclose(found, 0.0, atol=1e-6)


def moons(key, n):
    angle_key, side_key, noise_key = jax.random.split(key, 3)
    angle = jnp.pi * jax.random.uniform(angle_key, (n, 1))
    upper = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
    side = jax.random.bernoulli(side_key, shape=(n, 1))
    points = jnp.where(side, upper, jnp.array([1.0, 0.5]) - upper)
    return (points + 0.1 * jax.random.normal(noise_key, (n, 2))) * 2 + jnp.array([-1.0, -0.2])


def single(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_array(x) else x, tree)


class Network(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, t, y):
        return self.mlp(jnp.append(y, t))


@pytest.mark.slow
def test_moons_are_learnt_in_seconds():
    mlp = eqx.nn.MLP(3, 2, 64, 2, activation=jax.nn.silu, key=jax.random.key(0))
    model = CNF(Network(single(mlp)), 2, rtol=1e-4, atol=1e-4)
    schedule = optax.cosine_decay_schedule(1e-2, 800)
    trained, _ = jo.fit(
        model,
        moons(jax.random.key(1), 2000).astype(jnp.float32),
        loss=flow_matching_loss,
        steps=800,
        batch_size=256,
        optimizer=optax.adam(schedule),
        progress=False,
    )
    fresh = moons(jax.random.key(2), 1000).astype(jnp.float32)
    before, after = (-float(jnp.mean(m.log_prob(fresh))) for m in (model, trained))
    # The entropy, which no density is better than, is 2.39 nats; a normal density reaches 3.4.
    assert before > 3.5
    assert after < 2.9


def test_bad_input_is_refused_by_name():
    key = jax.random.key(0)
    with pytest.raises(DataError, match=r"\(n, 2\), got shape \(4, 3\)"):
        flow_matching_loss(CNF(optimal, 2), jnp.zeros((4, 3)), key)
    with pytest.raises(DataError, match=r"\(n, size\), got shape \(4,\)"):
        flow_matching_loss(optimal, jnp.zeros(4), key)
    with pytest.raises(OptionError, match="no coupling called 'otto'"):
        flow_matching_loss(optimal, jnp.zeros((4, 2)), key, coupling="otto")  # pyright: ignore[reportArgumentType]
