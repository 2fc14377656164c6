"""What implicit steps ask of a field in time: no derivative, no value outside of the solve."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.sweeps import few

TOLERANCES: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-9}
# Rosenbrock methods need the derivative by time, which is infinite at 0.
WITHOUT_DERIVATIVE = [
    "kvaerno3", "kvaerno4", "kvaerno5", "kencarp3", "kencarp4", "kencarp5", "trbdf2", "sdirk2",
    "radau_iia3", "radau_iia5", "implicit_euler", "bdf",
]  # fmt: skip


def root(t, y, k):
    return -k * jnp.sqrt(t) * y


@pytest.mark.parametrize(
    "name", few({n: n for n in WITHOUT_DERIVATIVE}, "kvaerno5", "radau_iia5", "bdf")
)
def test_a_field_without_a_derivative_by_time_at_the_start(name):
    loose: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}
    options = TOLERANCES if name != "implicit_euler" else loose

    def end(k):
        return jo.solve(root, jnp.array([1.0]), (0.0, 1.0), k, solver=name, **options).y1[0]

    value, derivative = jax.value_and_grad(end)(1.0)
    error = 1e-2 if name == "implicit_euler" else 1e-5
    assert value == pytest.approx(np.exp(-2 / 3), abs=error)
    assert derivative == pytest.approx(-2 / 3 * np.exp(-2 / 3), abs=error)


def driven(t, y, end):
    """Known from 0 to `end` alone."""
    return jnp.where((t >= 0) & (t <= end), jnp.cos(7 * t), jnp.nan) - y


def driven_end(t, y0=1.0):
    """The solution of y' = cos 7t - y."""
    steady = lambda t: (np.cos(7 * t) + 7 * np.sin(7 * t)) / 50  # noqa: E731
    return steady(t) + (y0 - steady(0.0)) * np.exp(-t)


@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint", jo.Continuous("interpolate")])
def test_kvaerno5_stays_inside_of_the_solve(sensitivity):
    def end(y0):
        options = {"solver": "kvaerno5", "sensitivity": sensitivity, **TOLERANCES}
        return jo.solve(driven, y0, (0.0, 1.0), 1.0, **options).y1[0]

    value, derivative = jax.value_and_grad(end)(jnp.array([1.0]))
    assert value == pytest.approx(driven_end(1.0), abs=1e-5)
    assert derivative[0] == pytest.approx(np.exp(-1.0), abs=1e-5)


@pytest.mark.slow
def test_kvaerno5_stays_inside_in_lanes_with_times_of_their_own_and_backwards():
    ends = jnp.array([1.0, 2.0, 0.5])
    spans = jnp.stack([jnp.zeros(3), ends], 1)

    def solved(starts, spans):
        options = {"solver": "kvaerno5", "in_axes": (0, 0, 0), **TOLERANCES}
        return jo.solve_batch(driven, starts, spans, ends, **options).y1

    y1 = solved(jnp.ones((3, 1)), spans)
    np.testing.assert_allclose(y1[:, 0], driven_end(np.asarray(ends)), atol=1e-5)
    np.testing.assert_allclose(solved(y1, spans[:, ::-1]), 1.0, atol=1e-5)
    derivatives = jax.grad(lambda starts: solved(starts, spans).sum())(jnp.ones((3, 1)))
    np.testing.assert_allclose(derivatives[:, 0], np.exp(-ends), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("own_times", [False, True])
@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint", jo.Continuous("interpolate")])
def test_gradients_in_lanes_stay_inside_too(sensitivity, own_times):
    """The field is unknown on both sides, so that the way back stays inside as well."""
    spans = jnp.array([[0.0, 1.0], [0.2, 1.0]]) if own_times else jnp.array([0.0, 1.0])
    axes = (0, 0 if own_times else None, None)

    def total(starts):
        options = {"solver": "kvaerno5", "sensitivity": sensitivity, **TOLERANCES}
        return jo.solve_batch(driven, starts, spans, 1.0, in_axes=axes, **options).y1.sum()

    value, derivatives = jax.value_and_grad(total)(jnp.ones((2, 1)))
    assert np.isfinite(value)
    lengths = np.array([1.0, 0.8 if own_times else 1.0])
    np.testing.assert_allclose(derivatives[:, 0], np.exp(-lengths), atol=2e-5)


def test_bands_of_a_single_unknown():
    for solver in (jo.Rodas5P, jo.Kvaerno5, jo.BDF):
        own = solver(linear_solver=jo.Banded(0, 0))
        sol = jo.solve(root, jnp.array([1.0]), (0.5, 1.0), 9.0, solver=own, **TOLERANCES)
        assert sol.y1[0] == pytest.approx(np.exp(-6 * (1 - 0.5**1.5)), abs=1e-5)


@pytest.mark.parametrize("name", ["rodas5p", "kvaerno5", "bdf", "adams"])
def test_leaves_of_two_precisions(name):
    y0 = {"a": jnp.array([1.0], jnp.float32), "b": jnp.array([2.0])}
    field = lambda t, y: {"a": -y["a"], "b": -y["b"] * y["a"].astype(float)}  # noqa: E731

    def end(y0):
        y1 = jo.solve(field, y0, (0.0, 1.0), solver=name, rtol=1e-6, atol=1e-8).y1
        return y1["b"][0], y1

    derivative, y1 = jax.grad(end, has_aux=True)(y0)
    assert {key: x.dtype for key, x in y1.items()} == {"a": jnp.float32, "b": jnp.float64}
    assert y1["a"][0] == pytest.approx(np.exp(-1.0), rel=1e-5)
    # b = 2 exp(a0 (exp(-t) - 1)).
    factor = np.exp(np.exp(-1.0) - 1)
    assert y1["b"][0] == pytest.approx(2 * factor, rel=1e-5)
    assert derivative["b"][0] == pytest.approx(factor, rel=1e-5)
    assert derivative["a"][0] == pytest.approx(2 * factor * (np.exp(-1.0) - 1), rel=1e-5)
