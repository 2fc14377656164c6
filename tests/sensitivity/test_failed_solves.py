"""Gradients of solves that fail: of what was reached, exact zeros, and NaN where asked for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.batches import in_tile
from tests.support.sweeps import few

MODES: dict[str, Any] = {
    "discrete": "discrete",
    "thinned": jo.Discrete(memory=4),
    "stages": jo.Discrete(memory="stages"),
    "adjoint": "adjoint",
    "backsolve": jo.Continuous("backsolve"),
    "interpolate": jo.Continuous("interpolate"),
    "reversible": "reversible",
    "forward": "forward",
}
OPTIONS: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8, "max_steps": 128}
TS = jnp.array([0.0, 0.2, 0.4, 2.0])


def square(t, y, k):
    """From `y0` on it is `y0 / (1 - k t y0)`, up to the pole."""
    return k * y**2


def derivative(mode: str) -> Any:
    return jax.jacfwd if mode == "forward" else jax.grad


@pytest.mark.parametrize("mode", few(MODES, "discrete", "reversible"))
def test_values_reached_before_a_failure_have_their_gradient(mode):
    """And where a value that was not reached enters the loss, the gradient is NaN."""

    def loss(point, weights):
        y0, k = point
        sol = jo.solve(square, y0, TS, k, sensitivity=MODES[mode], **OPTIONS)
        ys = jnp.where(weights == 0, 0.0, weights * sol.ys)
        return jnp.sum(ys)

    def exact(point, weights):
        y0, k = point
        t = jnp.where(weights == 0, 0.0, TS)
        return jnp.sum(weights * y0 / (1 - k * t * y0))

    run = jax.jit(derivative(mode)(loss))
    point = jnp.array(1.0), jnp.array(1.0)
    for weights in ([0.3, 1.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]):
        expected = jax.grad(exact)(point, jnp.array(weights))
        np.testing.assert_allclose(run(point, jnp.array(weights)), expected, rtol=1e-5, atol=1e-12)
    np.testing.assert_array_equal(run(point, jnp.zeros(4)), 0.0)
    assert np.all(np.isnan(run(point, jnp.array([1.0, 0.0, 0.0, 1.0]))))


def test_fixed_steps_that_run_out_are_undone_as_they_were_made():
    """With a reversible solver, whose steps of a known size are not recorded."""

    def loss(k, mode):
        sol = jo.solve(
            lambda t, y, k: -k * y, 1.0, jnp.array([0.0, 0.2, 1.0]), k, solver="reversible_heun",
            controller=jo.Fixed(0.03), max_steps=10, sensitivity=mode,
        )  # fmt: skip
        return sol.ys[1]

    run = jax.jit(jax.grad(loss), static_argnums=1)
    got, expected = run(2.0, "reversible"), run(2.0, "discrete")
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    np.testing.assert_allclose(got, -0.2 * np.exp(-0.4), rtol=1e-2)


@pytest.mark.parametrize("save", few(["steps", "dense", "function"], "steps"))
def test_whatever_is_saved_of_a_failed_solve_has_its_gradient(save):
    what: Any = (lambda t, y, k: k * y) if save == "function" else save

    def loss(k, mode="discrete"):
        sol = jo.solve(square, 1.0, TS, k, save=what, sensitivity=mode, **OPTIONS)
        if save != "steps":
            return sol.ys[2]
        early = sol.ts < 0.4
        weights = jax.lax.stop_gradient(jnp.where(early, jnp.cos(3 * sol.ts), 0.0))
        return jnp.sum(weights * jnp.where(early, sol.ys, 0.0))

    got = jax.jit(jax.grad(loss))(1.0)
    expected = jax.jit(jax.jacfwd(lambda k: loss(k, "forward")))(1.0)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_what_no_rule_sees_missing_is_missing_in_the_gradient_too():
    """Times out of order, which only the run can know, and dense output beyond the end."""

    def solve(k, ts):
        return jo.solve(square, 1.0, ts, k, save="dense", max_steps=64)

    def of_rows(k, ts, row):
        return jnp.where(row < 0, 0.0, solve(k, ts).ys[row])

    run = jax.jit(jax.grad(of_rows))
    ts = jnp.array([0.0, 0.3, 0.5])
    assert np.isnan(run(1.0, ts[jnp.array([0, 2, 1])], 1))
    assert run(1.0, ts[jnp.array([0, 2, 1])], -1) == 0.0
    at = jax.jit(jax.grad(lambda k, t: solve(k, ts)(t)))
    assert np.isnan(at(1.0, 0.6))
    np.testing.assert_allclose(at(1.0, 0.3), 0.3 / 0.7**2, rtol=1e-2)


@pytest.mark.slow
def test_events_before_a_failure_have_their_gradient():
    """A bounce too many, and a map that makes no number of the last one."""

    def third(e, log_of):
        def apply(t, y, e):
            v = jnp.where(y[1] > log_of, -e * y[1], jnp.log(y[1])) if log_of else -e * y[1]
            return jnp.stack([y[0], v])

        bounce = jo.Event(lambda t, y, e: y[0], direction="down", apply=apply)
        sol: Any = jo.solve(
            lambda t, y, e: jnp.stack([y[1], -9.81 + 0 * t]), jnp.array([5.0, 0.0]), (0.0, 9.0), e,
            events=bounce, max_events=3, rtol=1e-8, atol=1e-10, save="steps", max_steps=64,
        )  # fmt: skip
        return sol.events.ts[2 if not log_of else 0]

    first = np.sqrt(10 / 9.81)
    got = jax.jit(jax.grad(lambda e: third(e, 0.0)))(0.8)
    np.testing.assert_allclose(got, first * 2 * (1 + 2 * 0.8), rtol=1e-7)
    at_once = jax.jit(jax.grad(lambda e: third(e, -1.0)))(0.8)
    assert at_once == 0.0


@pytest.mark.parametrize("wide", few([False, True], False))
@pytest.mark.parametrize("mode", few([m for m in MODES if m != "stages"], "discrete", "adjoint"))
def test_a_failed_trajectory_that_is_masked_adds_exactly_nothing(mode, wide):
    """Where the parameter comes in through mapped arguments, starts, and what all share."""
    ts = jnp.array([0.0, 0.25, 1.0])

    def batch(c, rows):
        ks, y0 = c * jnp.array([0.5, 2.0, 1.0, 0.25]), jnp.array([1.0, c, 1.0, c])
        ks = ks.at[2].set(jnp.nan)
        sol = jo.solve_batch(
            lambda t, y, a: a[1] * a[0] * y**2, y0, ts, (ks, c), in_axes=(0, None, (0, None)),
            sensitivity=MODES[mode], lanes=2, **OPTIONS,
        )  # fmt: skip
        return jnp.sum(jnp.where(rows, sol.ys, 0.0))

    def exact(c, rows):
        ks, y0 = c * jnp.array([0.5, 2.0, 0.0, 0.25]), jnp.array([1.0, c, 1.0, c])
        left = 1 - (c * ks * y0)[:, None] * jnp.where(rows, ts, 0)
        return jnp.sum(jnp.where(rows, y0[:, None] / left, 0.0))

    rows = np.ones((4, 3), bool)
    rows[1, 2] = rows[2] = False  # the one that fails in the end, and the one that never begins
    run = in_tile(wide, derivative(mode)(batch), 1.0, jnp.asarray(rows))
    np.testing.assert_allclose(run(1.0, rows), jax.grad(exact)(1.0, rows), rtol=1e-5)
    rows[1] = False
    np.testing.assert_allclose(run(1.0, rows), jax.grad(exact)(1.0, rows), rtol=1e-5)
    assert run(1.0, np.zeros_like(rows)) == 0.0
    assert np.isnan(run(1.0, np.ones_like(rows)))


def test_a_kernel_adds_exactly_nothing_of_a_failed_trajectory():
    def loss(c, kernel):
        sol = jo.solve_batch(
            square, jnp.ones(2), jnp.array([0.0, 0.25, 1.0]), c * jnp.array([0.5, 2.0]),
            in_axes=(0, None, 0), kernel=kernel, **OPTIONS,
        )  # fmt: skip
        return jnp.sum(jnp.where(sol.success, sol.y1, 0.0)) + jnp.sum(sol.ys[:, 1])

    exact = 2.0 + 0.125 / 0.875**2 + 0.5 / 0.5**2
    got = jax.jit(jax.grad(loss), static_argnums=1)(1.0, True)
    np.testing.assert_allclose(got, exact, rtol=1e-5)
