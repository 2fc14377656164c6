"""The baselines: values that can be told by hand, other code's, and refusals."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

import jaxode as jo
from jaxode import baselines
from tests.support.wrong_arguments import faults_of, parameters_of, public_functions

RNG = np.random.default_rng(0)
YS = RNG.normal(size=(3, 14, 2))
TS = np.cumsum(RNG.uniform(0.5, 1.5, 14))


def test_persistence_repeats_the_last_value():
    found = baselines.persistence(YS, 4)
    assert found.shape == (3, 4, 2)
    np.testing.assert_allclose(found, np.repeat(YS[:, -1:], 4, axis=1), rtol=1e-6)


def test_seasonal_naive_repeats_the_last_period():
    found = baselines.seasonal_naive(YS, 7, period=3)
    places = [11, 12, 13, 11, 12, 13, 11]
    np.testing.assert_allclose(found, YS[:, places], rtol=1e-6)
    np.testing.assert_allclose(baselines.seasonal_naive(YS, 2, 14), YS[:, :2], rtol=1e-6)


def test_interpolation_is_that_of_numpy_and_scipy():
    gaps = YS.copy()
    gaps[:, 4:6, 0] = np.nan
    gaps[1, -1, 1] = np.nan
    for sample in range(3):
        for channel in range(2):
            seen = np.isfinite(gaps[sample, :, channel])
            known = TS[seen], gaps[sample, seen, channel]
            inside = np.clip(TS, known[0][0], known[0][-1])
            for method, wanted in (
                ("linear", np.interp(TS, *known)),
                ("spline", CubicSpline(*known, bc_type="natural")(inside)),
            ):
                found = baselines.interpolate(TS, gaps, method=method)  # pyright: ignore
                np.testing.assert_allclose(found[sample, :, channel], wanted, rtol=1e-5, atol=1e-6)


def test_interpolation_at_other_times_of_each_sample():
    ts = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]])
    ys = np.array([[[0.0], [1.0], [2.0]], [[0.0], [np.nan], [4.0]]])
    times = np.array([[1.5, -1.0], [3.0, 9.0]])
    for method in ("linear", "spline"):
        found = baselines.interpolate(ts, ys, times, method)
        np.testing.assert_allclose(found[..., 0], [[1.5, 0.0], [3.0, 4.0]], atol=1e-6)
    one = baselines.interpolate(np.arange(2), np.array([[[3.0], [np.nan]]]), method="spline")
    np.testing.assert_allclose(one, 3.0)


def test_autoregression_goes_on_with_a_recurrence_that_is_exact():
    waves = np.cos(0.7 * np.arange(40)), 350 + 0.1 * np.arange(40)
    ys = np.stack(waves, -1)[None]
    for order in (2, 5):  # a sine and a line obey a recurrence of order two
        found = baselines.autoregression(ys[:, :30], 10, order)
        np.testing.assert_allclose(found, ys[:, 30:], rtol=1e-5, atol=1e-5)
    many = np.concatenate([ys[:, k : k + 12] for k in range(3)])
    found = baselines.autoregression(many, 4, 2, fitted_to=ys[:, :30])
    for k in range(3):
        np.testing.assert_allclose(found[k], ys[0, k + 12 : k + 16], rtol=1e-5, atol=1e-5)


def test_autoregression_is_least_squares():
    y = np.zeros(4000)
    for k in range(2, 4000):
        y[k] = 1.0 + 0.5 * y[k - 1] - 0.3 * y[k - 2] + RNG.normal()
    start = np.array([0.0, 2.0])[None, :, None]
    found = baselines.autoregression(start, 1, 2, fitted_to=y[None, :, None])
    inputs = np.stack([np.ones(3998), y[1:-1], y[:-2]], -1)
    weights = np.linalg.lstsq(inputs, y[2:], rcond=None)[0]
    np.testing.assert_allclose(found[0, 0, 0], weights @ [1.0, 2.0, 0.0], rtol=1e-5)
    assert abs(float(found[0, 0, 0]) - 2.0) < 0.15


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: baselines.persistence(YS[0], 1), r"ys must have shape \(batch, times, channels\)"),
        (lambda: baselines.persistence(YS * np.nan, 1), r"\(0, 0, 0\).*interpolate fills gaps"),
        (lambda: baselines.seasonal_naive(YS, 1, 15), "fewer than the period of 15"),
        (lambda: baselines.autoregression(YS, 1, 14), "order 14 needs more times"),
        (lambda: baselines.autoregression(YS, 1, 2, fitted_to=YS[..., :1]), "fitted_to 1"),
        (lambda: baselines.interpolate(TS[1:], YS), r"ts must have shape \(14,\) or \(3, 14\)"),
        (lambda: baselines.interpolate(TS[::-1], YS), "ts must be finite and increase"),
        (lambda: baselines.interpolate(TS, YS, np.array([np.nan])), "times must be finite"),
        (lambda: baselines.interpolate(TS, YS * [1, np.nan]), "sample 0 of ys .* channel 1"),
        (lambda: jax.jit(baselines.persistence, static_argnums=1)(jnp.ones((1, 2, 1)), 1), "jit"),
    ],
)
def test_series_that_do_not_fit_are_refused(call: Callable, words: str) -> None:
    with pytest.raises(jo.DataError, match=words):
        call()


TAKES: dict[str, Any] = {
    "ys": {"rank three"},
    "fitted_to": {"None"},
    "ts": set(),
    "times": {"None", "pair", "seven numbers"},
    "horizon": {"1", "huge"},
    "period": {"1"},
    "order": {"1"},
    "method": set(),
}
NEEDED: dict[str, dict[str, Any]] = {
    "persistence": {"ys": YS, "horizon": 2},
    "seasonal_naive": {"ys": YS, "horizon": 2, "period": 3},
    "autoregression": {"ys": YS, "horizon": 2, "order": 3},
    "interpolate": {"ts": TS, "ys": YS},
}


@pytest.mark.parametrize("name", public_functions(baselines, set()))
def test_wrong_values_raise_errors_of_jaxode_before_a_compilation(name):
    function = getattr(baselines, name)
    taken = {argument: TAKES[argument] for argument in parameters_of(function)}
    assert not faults_of(name, function, NEEDED[name], taken)
