"""cdeint: controlled equations with solutions in closed form, batches, and what it refuses."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.nn import (
    Control,
    HermiteInterpolation,
    LinearInterpolation,
    RectilinearInterpolation,
    cdeint,
)

RNG = np.random.default_rng(2)
TS = np.cumsum(RNG.uniform(0.2, 0.6, (3, 6)), axis=1)
TS = 2 * (TS - TS[:, :1]) / (TS[:, -1:] - TS[:, :1])  # each from 0 to 2
XS = 0.5 * RNG.normal(size=(3, 6, 1))
TIMES = jnp.array([0.0, 0.3, 0.9])
Z0 = jnp.asarray(RNG.normal(size=(3, 2)))
RATES = jnp.array([0.5, -1.0])
TIGHT: Any = {"rtol": 1e-9, "atol": 1e-11}


def field(z):
    return (RATES * z)[:, None]


def solution(values, z0):
    """z exp(rate (X(t) - X(0))), whatever the path."""
    return z0 * np.exp(RATES * (values - values[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [HermiteInterpolation, LinearInterpolation])
def test_one_channel_has_its_exponential(kind):
    control = kind(TS[0], XS[0])
    assert isinstance(control, Control)
    values = jax.vmap(control.evaluate)(TIMES)
    found = cdeint(control, field, Z0[0], TIMES, **TIGHT)
    np.testing.assert_allclose(found, solution(values, Z0[0]), rtol=1e-6)


@pytest.mark.slow
def test_each_sample_of_a_batch_has_its_path():
    controls = jax.vmap(HermiteInterpolation)(jnp.asarray(TS), jnp.asarray(XS))
    found = cdeint(controls, field, Z0, TIMES, **TIGHT)
    assert found.shape == (3, 3, 2)
    for sample in range(3):
        values = jax.vmap(HermiteInterpolation(TS[sample], XS[sample]).evaluate)(TIMES)
        np.testing.assert_allclose(found[sample], solution(values, Z0[sample]), rtol=1e-6)


@pytest.mark.slow
def test_a_path_of_one_sample_is_shared():
    control = HermiteInterpolation(TS[0], XS[0])
    found = cdeint(control, field, Z0, TIMES, **TIGHT)
    values = jax.vmap(control.evaluate)(TIMES)
    np.testing.assert_allclose(found[2], solution(values, Z0[2]), rtol=1e-6)


@pytest.mark.slow
def test_times_of_a_rectilinear_path_are_those_of_the_observations():
    controls = jax.vmap(RectilinearInterpolation)(jnp.asarray(TS), jnp.asarray(XS))

    def values_alone(z):
        return jnp.stack([jnp.zeros(2), RATES * z], axis=1)

    found = cdeint(controls, values_alone, Z0, (0.0, 2.0), **TIGHT)
    observed = XS[:, -1] - XS[:, 0]
    np.testing.assert_allclose(found[:, 1], Z0 * np.exp(RATES * observed), rtol=1e-6)


class Circle(eqx.Module):
    """A path of the user, without knots."""

    radius: jax.Array

    def derivative(self, t):
        return self.radius * jnp.stack([-jnp.sin(t), jnp.cos(t)])


def test_a_path_of_the_user_and_arguments():
    def area(t, z, args):
        return args * jnp.stack([-jnp.sin(t), jnp.cos(t)])[None]

    radii = jnp.array([1.0, 2.0, 0.5])
    found = cdeint(Circle(radii), area, jnp.zeros((3, 1)), TIMES, 0.5, **TIGHT)
    np.testing.assert_allclose(found[..., 0], 0.5 * radii[:, None] * TIMES, atol=1e-8)
    gradient = jax.grad(
        lambda r: cdeint(Circle(r), area, jnp.zeros(1), TIMES, 0.5, **TIGHT)[-1, 0]
    )(jnp.array(2.0))
    np.testing.assert_allclose(gradient, 0.45, rtol=1e-6)


@pytest.mark.slow
def test_the_hidden_states_of_a_neural_cde_are_those_of_cdeint():
    model = jo.nn.NeuralCDE.mlp(1, 1, hidden=2, width=4, key=jax.random.key(0), **TIGHT)
    hidden = model.solve(TS, XS, times=TS[:, 1:3]).ys
    start = hidden[:, 0]
    paths = model.path(TS, XS)
    found = cdeint(paths, model.field, start, (0.0, float(TS[0, 1])), **TIGHT)
    np.testing.assert_allclose(found[0, 1], hidden[0, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"control": 3.0}, jo.OptionError, "control must be a path"),
        ({"control": HermiteInterpolation}, jo.OptionError, "control must be a path"),
        ({"field": None}, jo.FieldError, "must be a callable"),
        ({"field": lambda z: z}, jo.FieldError, r"matrix of shape \(2, 2\).*got shape \(2,\)"),
        ({"z0": 1.0}, jo.DataError, r"z0 must be a state \(hidden,\)"),
        ({"z0": "a"}, jo.DataError, "z0 must hold real numbers"),
        ({"ts": (0.0, jnp.nan)}, jo.TimesError, "every time must be finite"),
        ({"rtoll": 1.0}, jo.OptionError, "'rtol'"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, words):
    given: dict[str, Any] = {"field": field, "z0": Z0[0], "ts": (0.0, 1.0)}
    given["control"] = HermiteInterpolation(TS[0], np.repeat(XS[0], 2, 1))
    with pytest.raises(error, match=words):
        cdeint(**{**given, **change})


@pytest.mark.parametrize("kind", [HermiteInterpolation, LinearInterpolation])
def test_paths_refuse_series_of_other_shapes(kind):
    with pytest.raises(jo.DataError, match=r"xs must have shape \(n, channels\), got \(6,\)"):
        kind(TS[0], XS[0, :, 0])
    with pytest.raises(jo.DataError, match=r"mask must have shape \(6, 1\), got \(2,\)"):
        kind(TS[0], XS[0], np.ones(2, bool))
