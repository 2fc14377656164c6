"""CNF: densities against closed forms and numerical Jacobians, traces, gradients, sampling."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.stats

import jaxode as jo
from jaxode.nn.cnf import CNF, FFJORD, negative_log_likelihood
from jaxode.nn.per_solve_random import draw
from jaxode.nn.traces import ExactTrace, HutchinsonTrace
from jaxode.problem.errors import DataError, FieldError, OptionError

A = np.array([[0.4, -1.1], [0.3, -0.7]])
X = jax.random.normal(jax.random.key(0), (16, 2))


class Network(eqx.Module):
    """A random smooth field of time and state, strong enough to bend the density."""

    mlp: eqx.nn.MLP

    def __init__(self, size=2, gain=2.0):
        mlp = eqx.nn.MLP(size + 1, size, 8, 1, activation=jnp.tanh, key=jax.random.key(3))
        self.mlp = jax.tree.map(lambda x: gain * x if eqx.is_array(x) else x, mlp)

    def __call__(self, t, y):
        return self.mlp(jnp.append(y, t))


def linear(t, y, args):
    return jnp.asarray(A, y.dtype) @ y


TIGHT: Any = {"rtol": 1e-9, "atol": 1e-9}
NETWORK = CNF(Network(), 2, **TIGHT)
LINEAR = CNF(linear, 2, **TIGHT)


def test_the_base_is_the_standard_normal_unless_another_is_given():
    assert LINEAR.base == jo.nn.StandardNormal(2)
    exact = scipy.stats.multivariate_normal(np.zeros(2)).logpdf(np.asarray(X[0]))
    np.testing.assert_allclose(LINEAR.base.log_prob(X[0]), exact, rtol=1e-12)
    assert LINEAR.base.sample(jax.random.key(0), 3).shape == (3, 2)


def test_a_linear_field_gives_the_normal_distribution_of_its_matrix_exponential():
    flow: Any = scipy.linalg.expm(A)
    covariance: Any = flow @ flow.T
    exact = scipy.stats.multivariate_normal(np.zeros(2), covariance).logpdf(np.asarray(X))
    np.testing.assert_allclose(LINEAR.log_prob(X), exact, rtol=1e-7)
    np.testing.assert_allclose(LINEAR.log_prob(X[0]), exact[0], rtol=1e-7)
    np.testing.assert_allclose(LINEAR.forward(X), X @ np.linalg.inv(flow).T, rtol=1e-6)


def test_the_span_and_the_base_are_those_that_were_given():
    class Wide(eqx.Module):
        def log_prob(self, z):
            return jnp.sum(jax.scipy.stats.norm.logpdf(z, 1.0, 3.0))

        def sample(self, key, n):
            return 1.0 + 3.0 * jax.random.normal(key, (n, 2))

    model = CNF(linear, 2, t0=-1.0, t1=1.0, base=Wide(), **TIGHT)
    flow: Any = scipy.linalg.expm(2 * A)
    covariance: Any = 9 * flow @ flow.T
    exact = scipy.stats.multivariate_normal(flow @ np.ones(2), covariance)
    np.testing.assert_allclose(model.log_prob(X), exact.logpdf(np.asarray(X)), rtol=1e-7)


def test_trajectories_pass_through_their_times():
    flow = lambda t: X @ scipy.linalg.expm(t * A).T  # noqa: E731
    ts = jnp.array([1.0, 0.5, 0.0])
    forward = LINEAR.forward(X, ts=ts)
    assert forward.shape == (16, 3, 2)
    for i, t in enumerate(ts):
        np.testing.assert_allclose(forward[:, i], flow(float(t) - 1.0), rtol=1e-6)
    solution = LINEAR.solve(X, ts=ts)
    np.testing.assert_allclose(solution.ys[1], -np.trace(A) * (1 - ts) + 0 * X[:, :1], atol=1e-7)
    drawn = LINEAR.sample(jax.random.key(1), 16, ts=ts[::-1])
    np.testing.assert_allclose(drawn[:, 2], drawn[:, 0] @ scipy.linalg.expm(A).T, rtol=1e-6)
    with pytest.raises(jo.TimesError, match="must be monotone"):
        LINEAR.forward(X, ts=ts[::-1])


def test_inverse_undoes_forward():
    np.testing.assert_allclose(NETWORK.inverse(NETWORK.forward(X)), X, atol=1e-7)


def test_the_density_changes_by_the_determinant_of_the_flow():
    step = 1e-4
    shifts = step * jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
    ends = NETWORK.forward((X[:, None] + shifts).reshape(-1, 2)).reshape(-1, 4, 2)
    jacobians = (ends[:, :2] - ends[:, 2:]) / (2 * step)
    z = NETWORK.forward(X)
    expected = jax.vmap(NETWORK.base.log_prob)(z) + jnp.linalg.slogdet(jacobians)[1]
    np.testing.assert_allclose(NETWORK.log_prob(X), expected, atol=1e-5)
    assert float(jnp.std(jnp.linalg.slogdet(jacobians)[1])) > 0.1  # no trivial flow


def test_the_density_integrates_to_one():
    axis = jnp.linspace(-9.0, 9.0, 61)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    model = CNF(Network(), 2, rtol=1e-6, atol=1e-6)
    mass = jnp.sum(jnp.exp(model.log_prob(grid))) * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)


def test_samples_have_the_moments_and_the_densities_of_the_model():
    model = CNF(linear, 2)
    samples, densities = model.sample_and_log_prob(jax.random.key(1), 20_000)
    flow: Any = scipy.linalg.expm(A)
    covariance = flow @ flow.T
    # Five standard errors of the largest entry.
    bound = 5 * np.sqrt(2.0 / 20_000) * np.max(covariance)
    np.testing.assert_allclose(jnp.cov(samples.T), covariance, atol=bound)
    np.testing.assert_allclose(jnp.mean(samples, 0), 0.0, atol=5 * np.sqrt(covariance.max() / 2e4))
    np.testing.assert_allclose(model.log_prob(samples[:16]), densities[:16], atol=1e-3)
    np.testing.assert_array_equal(model.sample(jax.random.key(1), 16).shape, (16, 2))


def test_both_ways_agree_on_the_densities_of_samples():
    samples, densities = NETWORK.sample_and_log_prob(jax.random.key(1), 16)
    np.testing.assert_allclose(NETWORK.log_prob(samples), densities, atol=1e-6)
    drawn = NETWORK.sample(jax.random.key(1), 16)
    np.testing.assert_allclose(drawn, samples, atol=1e-6)


@pytest.mark.parametrize("size", [2, 7])
def test_exact_trace(size):
    field, y = Network(size), jnp.linspace(-1.0, 1.0, size)
    value, trace = ExactTrace()(lambda y: field(0.3, y), y)
    np.testing.assert_allclose(value, field(0.3, y), rtol=1e-12)
    jacobian = jax.jacfwd(lambda y: field(0.3, y))(y)
    np.testing.assert_allclose(trace, jnp.trace(jacobian), rtol=1e-12)


@pytest.mark.parametrize(("kind", "samples"), [("rademacher", 1), ("gaussian", 1), ("gaussian", 3)])
def test_hutchinson_is_unbiased(kind, samples):
    field, y = Network(5), jnp.linspace(-1.0, 1.0, 5)
    trace = HutchinsonTrace(kind, samples, size=5)
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.vmap(lambda key: draw(trace, key)(lambda y: field(0.3, y), y)[1])(keys)
    exact = ExactTrace()(lambda y: field(0.3, y), y)[1]
    error = float(jnp.std(found)) / np.sqrt(4000)
    np.testing.assert_allclose(jnp.mean(found), exact, atol=4 * error)
    J = np.asarray(jax.jacfwd(lambda y: field(0.3, y))(y))
    variance = np.sum((J + J.T) ** 2) / 2 / samples
    if kind == "rademacher":
        variance -= 2 * np.sum(np.diag(J) ** 2)
    np.testing.assert_allclose(jnp.var(found), variance, rtol=0.15)


def test_a_probe_is_fixed_within_a_solve_and_each_sample_has_its_own():
    model = CNF(linear, 2, trace="hutchinson", **TIGHT)
    change = model.solve(X, key=jax.random.key(2)).y1[1]
    # With one probe of signs throughout, the integral is one of two numbers; else between them.
    both = -np.trace(A) + np.array([1, -1]) * (A[0, 1] + A[1, 0])
    distance = jnp.abs(change[:, None] - both)
    np.testing.assert_allclose(jnp.min(distance, axis=1), 0.0, atol=1e-9)
    assert jnp.unique(jnp.argmin(distance, axis=1)).size == 2
    again = model.log_prob(X, key=jax.random.key(2))
    np.testing.assert_array_equal(model.log_prob(X, key=jax.random.key(2)), again)
    assert bool(jnp.any(model.log_prob(X, key=jax.random.key(5)) != again))


def test_hutchinson_density_is_right_in_the_mean():
    model = CNF(Network(), 2, trace=HutchinsonTrace(samples=2), rtol=1e-6, atol=1e-6)
    many = jnp.broadcast_to(X[0], (2000, 2))
    found = model.log_prob(many, key=jax.random.key(0))
    error = float(jnp.std(found)) / np.sqrt(2000)
    assert error > 1e-4
    np.testing.assert_allclose(jnp.mean(found), NETWORK.log_prob(X)[0], atol=4 * error)


@pytest.mark.slow
def test_gradient_of_the_likelihood_against_differences_and_the_adjoint():
    def loss(model):
        return negative_log_likelihood(model, X[:4])

    def model(sensitivity):
        return CNF(Network(), 2, sensitivity=sensitivity, **TIGHT)

    found, adjoint = (
        jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(loss))(model(name)))
        for name in ("discrete", "adjoint")
    )
    for a, b in zip(found, adjoint, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    params, static = eqx.partition(NETWORK, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    along = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    value = eqx.filter_jit(
        lambda step: loss(
            eqx.combine(
                jax.tree.unflatten(structure, [x + step * v for x, v in zip(leaves, along)]),  # noqa: B905
                static,
            )
        )
    )
    difference = (value(jnp.array(1e-4)) - value(jnp.array(-1e-4))) / 2e-4
    slope = sum(jnp.vdot(a, v) for a, v in zip(found, along, strict=True))
    np.testing.assert_allclose(slope, difference, rtol=1e-5)


@pytest.mark.slow
def test_densities_are_conditional_on_args():
    model = CNF(lambda t, y, shift: shift + 0.0 * y, 2, **TIGHT)
    shifts = jnp.linspace(0.0, 3.0, 32).reshape(16, 2)
    found = model.log_prob(X, shifts, args_axes=0)
    normal = scipy.stats.multivariate_normal(np.zeros(2))
    np.testing.assert_allclose(found, normal.logpdf(np.asarray(X - shifts)), rtol=1e-7)
    same = model.sample(jax.random.key(0), 16, shifts, args_axes=0) - shifts
    np.testing.assert_allclose(same, model.sample(jax.random.key(0), 16, jnp.zeros(2)), atol=1e-9)


def spike(t, y, args):
    """A fast divergence that the sample, which starts near zero, hardly sees."""
    return jnp.cos(40.0 * t) * 40.0 * y


@pytest.mark.slow
def test_error_control_of_the_sample_alone():
    both, alone = (
        CNF(linear, 2, rtol=1e-6, atol=1e-6, control_density=c).solve(X) for c in (True, False)
    )
    np.testing.assert_allclose(alone.y1[0], both.y1[0], atol=1e-4)

    seen, unseen = (CNF(spike, 2, control_density=c).solve(1e-9 * X) for c in (True, False))
    assert int(jnp.sum(unseen.stats.num_evaluations)) < int(jnp.sum(seen.stats.num_evaluations))


@pytest.mark.slow
def test_fit_takes_samples_alone_and_its_likelihood_rises():
    data = 0.5 * X + 1.0
    model = CNF(Network(gain=1.0), 2, trace="hutchinson", rtol=1e-3, atol=1e-3)
    _, log = jo.fit(
        model,
        data,
        loss=negative_log_likelihood,
        steps=30,
        optimizer=optax.adam(1e-2),
        progress=False,
    )
    assert log.loss[-1] < log.loss[0] - 0.3


@pytest.mark.slow
def test_ffjord_has_a_concat_squash_network():
    model = FFJORD(2, (8,), key=jax.random.key(0), rtol=1e-6, atol=1e-6)
    samples, densities = model.sample_and_log_prob(jax.random.key(1), 16)
    np.testing.assert_allclose(model.log_prob(samples), densities, atol=1e-4)
    with pytest.raises(OptionError, match="widths"):
        FFJORD(2, (8, 0), key=jax.random.key(0))


def test_float32():
    model = CNF(linear, 2)
    found = model.log_prob(X.astype(jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, LINEAR.log_prob(X), atol=2e-3)
    probed = CNF(linear, 2, trace="hutchinson")
    assert probed.log_prob(X.astype(jnp.float32), key=jax.random.key(0)).dtype == jnp.float32


def test_bad_input_is_refused_by_name():
    with pytest.raises(DataError, match=r"batch \(n, 2\).*\(4, 3\)"):
        LINEAR.log_prob(jnp.zeros((4, 3)))
    with pytest.raises(DataError, match="got list"):
        LINEAR.log_prob([1.0, 2.0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="no trace called 'exakt'"):
        CNF(linear, 2, trace="exakt")  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="trace must be"):
        CNF(linear, 2, trace=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="kind of probe"):
        HutchinsonTrace("uniform")  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="samples"):
        HutchinsonTrace(samples=0)
    with pytest.raises(OptionError, match="size must be"):
        CNF(linear, 0)
    with pytest.raises(OptionError, match="base must"):
        CNF(linear, 2, base=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(FieldError, match="field must be"):
        CNF(3, 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(FieldError, match="key="):
        CNF(linear, 2, trace="hutchinson").log_prob(X)
