"""The continuous adjoint begins again from states that the forward solve kept.

Where solutions contract by exp(-n), the error of a state that is integrated backwards grows by
exp(n): between two kept states that is little, and where it is not, the gradient is NaN.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.sensitivity.continuous.restarts import RestartSchedule
from tests.support.sweeps import few

RATES = (0.5, 2.0, 6.0, 8.0, 11.0, 15.0, 20.0)
# In tolerances of the gradient's norm; measured: 65 by Bosh3 at 1e-6, 15 by all others.
ALLOWED = 100.0


def driven(t, y, p):
    """Follow a sine at a rate: solutions converge by exp(-rate * t)."""
    return -p["rate"] * (y - p["size"] * jnp.sin(3 * t))


def exact(p, t):
    """The closed form of the solution from `p["y0"]` at t = 0."""
    rate, scale = p["rate"], p["size"] / (p["rate"] ** 2 + 9) * p["rate"]
    steady = scale * (rate * jnp.sin(3 * t) - 3 * jnp.cos(3 * t))
    return steady + (p["y0"] + 3 * scale) * jnp.exp(-rate * t)


def point(rate: float, dtype: Any = jnp.float64) -> dict[str, Any]:
    return {name: jnp.asarray(x, dtype) for name, x in (("rate", rate), ("size", 1.3), ("y0", 1.0))}


@functools.cache
def gradient(method: str, solver: str = "tsit5", save: str = "end"):
    ts = jnp.array([0.0, 2.0]) if save == "end" else jnp.array([0.0, 0.7, 0.7001, 2.0])

    def loss(p, tolerance):
        return jnp.sum(
            jo.solve(
                driven, p["y0"], ts, p, rtol=tolerance, atol=tolerance, solver=solver,
                sensitivity=jo.Continuous(method), throw=False,
            ).ys[1:]
        )  # fmt: skip

    truth = jax.jit(jax.grad(lambda p: jnp.sum(jax.vmap(lambda t: exact(p, t))(ts[1:]))))
    return jax.jit(jax.grad(loss)), truth


def off(found: Any, expected: Any) -> float:
    """By how much a gradient is off, relative to its norm; NaN if a part of it is."""
    found, expected = (np.array(jax.tree.leaves(x), float) for x in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("dtype", few([jnp.float64, jnp.float32], jnp.float64))
@pytest.mark.parametrize("method", few(["quadrature", "backsolve"], "quadrature"))
def test_a_contraction_by_up_to_forty_orders_has_its_gradient(method, dtype):
    run, truth = gradient(method)
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-6, 1e-8):
        if dtype == jnp.float32 and tolerance < 1e-5:
            continue
        for rate in RATES:
            p = point(rate, dtype)
            assert off(run(p, tolerance), truth(point(rate))) <= ALLOWED * tolerance


@pytest.mark.slow
@pytest.mark.parametrize("save", ["end", "values"])
@pytest.mark.parametrize("solver", ["dopri8", "rodas5p", "kvaerno5", "bosh3"])
@pytest.mark.parametrize("method", ["quadrature", "backsolve"])
def test_a_gradient_is_right_or_nan_however_strong_the_contraction(method, solver, save):
    run, truth = gradient(method, solver, save)
    numbers = 0
    for tolerance in (1e-2, 1e-4, 1e-6):
        for rate in (*RATES, 60.0, 300.0, 1e4):
            error = off(run(point(rate), tolerance), truth(point(rate)))
            assert np.isnan(error) or error <= ALLOWED * tolerance
            numbers += not np.isnan(error) and rate in RATES
    assert numbers >= 3 * len(RATES) - 1


def test_each_trajectory_of_a_batch_has_its_own_states():
    """Also under `vmap` of a gradient, backwards in time, and with times of their own."""
    rates = jnp.array(RATES[::-1])
    start = jnp.linspace(0.5, 1.5, rates.size)
    ts = jnp.stack([jnp.zeros(rates.size), jnp.linspace(2.0, 1.0, rates.size)], axis=1)
    tolerance = 1e-5

    def end(y0, ts, p):
        sensitivity = "adjoint"
        options: Any = {"rtol": tolerance, "atol": tolerance, "sensitivity": sensitivity}
        return jo.solve(driven, y0, ts, p, **options).y1

    def of_one(p, ts):
        return jax.grad(lambda p: end(p["y0"], ts, p))(p)

    one = jnp.ones(rates.size)
    p = {"rate": rates, "size": 1.3 * one, "y0": start}
    found = jax.jit(jax.vmap(of_one))(p, ts)
    expected = jax.vmap(jax.grad(exact))(p, ts[:, 1])
    for i in range(rates.size):
        row = jax.tree.map(lambda x: x[i], (found, expected))  # noqa: B023
        assert off(*row) <= ALLOWED * tolerance


def test_without_kept_states_it_is_nan():
    def loss(p, restarts):
        sensitivity = jo.Continuous(restarts=restarts)
        return jo.solve(driven, p["y0"], (0.0, 2.0), p, sensitivity=sensitivity).y1

    kept, none = (jax.jit(jax.grad(lambda p, n=n: loss(p, n)))(point(20.0)) for n in (16, 0))
    assert np.all(np.isfinite(jax.tree.leaves(kept)))
    assert np.all(np.isnan(jax.tree.leaves(none)))


def pulsed(t, y, p):
    """Decay, and a pulse at t = 1 that steps of the tail are too long to see."""
    return -y + p * jnp.exp(-((100 * (t - 1)) ** 2))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("method", ["quadrature", "backsolve"])
def test_a_step_back_that_misses_what_happened_is_refused(method, batched):
    """No estimate of its error sees the pulse; the known state that it passes or ends at does."""
    ts, sizes = jnp.array([0.9, 4.0]), (0.5, 60.0)
    # The integral of exp(t - 1) times the pulse; at both ends the pulse is zero to rounding.
    expected = np.array([np.exp(-0.1), np.sqrt(np.pi) / 100 * np.exp(1 / 40_000)])

    def loss(inputs, tolerance, restarts):
        sensitivity = jo.Continuous(method, restarts=restarts)
        options: Any = {"rtol": tolerance, "atol": 1e-8, "dt": 2e-3, "sensitivity": sensitivity}
        y0, p = inputs
        if batched:
            return jnp.mean(jo.solve_batch(pulsed, y0 * jnp.ones(3), ts, p, **options).y1)
        return jo.solve(pulsed, y0, ts, p, **options).y1

    for restarts in (0, 16):
        gradient = jax.jit(jax.grad(functools.partial(loss, restarts=restarts)))
        for tolerance in (1e-3, 1e-4):
            found = np.exp(3.0) * np.array(gradient(sizes, tolerance))
            np.testing.assert_allclose(found, expected, rtol=ALLOWED * tolerance)


@pytest.mark.parametrize("rows", [1, 2, 4, 16])
def test_kept_steps_are_evenly_spread(rows):
    """After any number of steps: at most twice as far apart at one place as at another."""
    schedule, kept = RestartSchedule(rows), {}
    for index, row in enumerate(np.asarray(jax.vmap(schedule.row)(jnp.arange(1000)))):
        if row < rows:
            kept[int(row)] = index
        steps = [0, *sorted(kept.values())]
        distances = np.diff([*steps, max(index, steps[-1])])
        assert len(kept) == len(set(steps)) - 1 < max(rows, 2)
        if len(steps) > 2:
            assert distances[:-1].max() <= 2 * distances[:-1].min()
            assert distances[-1] < 2 * distances[:-1].max()
        if rows > 1:
            assert len(kept) >= min(index, rows // 2 - 1)


@pytest.mark.parametrize("restarts", [-1, 2.5, "16", True])
def test_a_bad_number_of_states_is_refused(restarts):
    with pytest.raises(jo.OptionError, match=r"restarts of jo.Continuous must be an integer"):
        jo.Continuous(restarts=restarts)
