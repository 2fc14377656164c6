"""Events in lanes: each trajectory has its own, and they are those of its own solve."""

import functools
from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.batches import in_tile, one_by_one
from tests.support.differences import assert_close
from tests.support.sweeps import few

HEIGHTS = jnp.linspace(3.5, 40.0, 11)
POINT = {"g": jnp.array(9.81), "e": jnp.linspace(0.75, 0.95, 11)}
AXES = {"g": None, "e": 0}
BOUNCE = jo.Event(
    lambda t, y, p: y[0],
    direction="down",
    apply=lambda t, y, p: jnp.stack([y[0], -p["e"] * y[1]]),
)
PASS = jo.Event(lambda t, y, p: y[0] - 3.0)


def falling(t, y, p):
    return jnp.stack([y[1], -p["g"] * jnp.ones_like(t)])


def options_of(**options: Any) -> dict[str, Any]:
    return {"events": [PASS, BOUNCE], "max_events": 24, "rtol": 1e-8, "atol": 1e-10, **options}


def one(height, e, g, ts, **options: Any) -> Any:
    start = jnp.stack([height, 0 * height])
    return jo.solve(falling, start, ts, {"g": g, "e": e}, throw=False, **options_of(**options))


def many(heights, p, ts, lanes=None, **options: Any) -> Any:
    start = jnp.stack([heights, 0 * heights], axis=1)
    return jo.solve_batch(
        falling, start, ts, p, in_axes=(0, None, AXES), lanes=lanes, **options_of(**options)
    )


def told(sol: Any) -> Any:
    """What is compared, the log without its unused places."""
    return sol.ys, sol.y1, sol.events.ts, sol.events.ys


@functools.cache
def of_single_solves(save: str) -> Any:
    ts, options = saved_as(save)
    return one_by_one(lambda h, e: one(h, e, 9.81, ts, **options), 0, HEIGHTS, POINT["e"])


def saved_as(save: str) -> tuple[Any, dict[str, Any]]:
    ts = jnp.linspace(0.0, 4.5, 5) if save == "ts" else jnp.array([0.0, 4.5])
    return ts, {"save": save, "max_steps": 96}


@pytest.mark.parametrize(
    ("save", "wide"),
    few(product(["ts", "steps", "dense"], [False, True]), ("steps", True)),
)
def test_every_lane_meets_its_own_events(save, wide):
    ts, options = saved_as(save)
    run = in_tile(wide, lambda h, p: many(h, p, ts, lanes=4, **options), HEIGHTS, POINT)
    got, expected = run(HEIGHTS, POINT), of_single_solves(save)
    np.testing.assert_array_equal(got.status, 0)
    assert len(set(np.asarray(got.events.count).tolist())) > 2
    np.testing.assert_array_equal(got.events.count, expected.events.count)
    np.testing.assert_array_equal(got.events.index, expected.events.index)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
        told(got), told(expected),
    )  # fmt: skip
    np.testing.assert_allclose(got.stats.num_steps, expected.stats.num_steps, atol=1)


def total(sol: Any) -> Any:
    """Something of all that comes out."""
    used = jnp.arange(sol.events.ts.shape[-1]) < sol.events.count[..., None]
    times = jnp.sum(jnp.where(used, jnp.sin(sol.events.ts), 0))
    states = jnp.sum(jnp.where(used[..., None], jnp.cos(sol.events.ys), 0))
    return times + states + jnp.sum(jnp.sin(sol.y1)) + jnp.sum(jnp.cos(sol.ys))


@functools.cache
def gradient_of_single_solves(solver: str) -> Callable:
    def singles(point):
        heights, p, ts = point
        solve = lambda h, e: one(h, e, p["g"], ts, solver=solver)  # noqa: E731
        return total(jax.vmap(solve)(heights, p["e"]))

    return jax.jit(jax.grad(singles))


WAYS: dict[str, tuple[bool, dict[str, Any]]] = {
    "narrow": (False, {}),
    "wide": (True, {}),
    "rodas5p": (False, {"solver": "rodas5p"}),
    "snapshots": (False, {"sensitivity": jo.Discrete(memory=3)}),
    "forward": (True, {"sensitivity": "forward"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_single_solves(way):
    wide, options = WAYS[way]
    derivative = jax.jacfwd if way == "forward" else jax.grad

    def batch(point):
        heights, p, ts = point
        return total(many(heights, p, ts, lanes=4, **options))

    point = HEIGHTS, POINT, jnp.linspace(0.0, 4.5, 4)
    got = in_tile(wide, derivative(batch), point)(point)
    expected = gradient_of_single_solves(options.get("solver", "tsit5"))(point)
    assert_close(got, expected, 1e-9)


@pytest.mark.slow
def test_the_second_derivative_is_that_of_the_closed_form():
    """The time of the second bounce, by the height."""

    def second(h):
        return jnp.sqrt(2 * h / 9.81) * (1 + 2 * 0.6)

    def sums(h):
        p = {"g": jnp.array(9.81), "e": jnp.full(3, 0.6)}
        return jnp.sum(many(h, p, (0.0, 3.2), events=BOUNCE).events.ts[:, 1])

    heights = jnp.array([5.0, 7.0, 9.0])
    expected = jnp.diag(jax.vmap(jax.grad(jax.grad(second)))(heights))
    assert_close(jax.jit(jax.hessian(sums))(heights), expected, 1e-8)


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_alone():
    """A ball that comes to rest, between two that do not."""
    p = {"g": jnp.array(9.81), "e": jnp.array([0.8, 0.3, 0.8])}

    def loss(p):
        sol = many(jnp.array([5.0, 5.0, 6.0]), p, (0.0, 3.0), events=BOUNCE)
        return jnp.sum(jnp.where(sol.success[:, None], sol.y1, 0.0)), sol

    (_, sol), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(p)
    np.testing.assert_array_equal(sol.success, [True, False, True])
    assert sol.status[1] in (jo.Status.TOO_MANY_EVENTS, jo.Status.EVENTS_ACCUMULATE)
    np.testing.assert_allclose(sol.stats.t_reached[1], 1.0096 * (1 + 2 * 0.3 / 0.7), rtol=1e-3)
    assert np.all(np.isfinite(np.asarray(grad["e"])[[0, 2]]))
    sum_of_one = lambda e: jnp.sum(one(5.0, e, 9.81, (0.0, 3.0), events=BOUNCE).y1)  # noqa: E731
    alone = jax.jit(jax.grad(sum_of_one))(0.8)
    np.testing.assert_allclose(grad["e"][0], alone, rtol=1e-9)


@pytest.mark.slow
def test_a_terminal_event_ends_its_own_trajectory():
    level = jo.Event(lambda t, y, p: y[0] - 3.0, terminal=True)
    sol = many(HEIGHTS, POINT, jnp.linspace(0.0, 2.0, 6), events=level, lanes=4)
    expected = np.sqrt(2 * (np.asarray(HEIGHTS) - 3.0) / 9.81)
    ended = expected < 2.0
    assert 2 < ended.sum() < 11
    assert np.all(sol.success)
    np.testing.assert_array_equal(sol.events.terminated, ended)
    np.testing.assert_allclose(sol.stats.t_reached, np.minimum(expected, 2.0), rtol=1e-9)
    reached = np.linspace(0.0, 2.0, 6) <= np.minimum(expected, 2.0)[:, None]
    np.testing.assert_array_equal(np.isfinite(sol.ys[..., 0]), reached)

    @jax.jit
    @jax.grad
    def gradient(h, weights):
        """By the heights, of the times and speeds at which the level is passed."""
        sol = many(h, POINT, (0.0, 9.0), events=level)
        return weights[0] * jnp.sum(sol.stats.t_reached) + weights[1] * jnp.sum(sol.y1[:, 1])

    times, speeds = gradient(HEIGHTS, (1.0, 0.0)), gradient(HEIGHTS, (0.0, 1.0))
    exact = 1 / np.sqrt(2 * 9.81 * (np.asarray(HEIGHTS) - 3))
    np.testing.assert_allclose(times, exact, rtol=1e-8)
    exact = -np.sqrt(9.81 / (2 * (np.asarray(HEIGHTS) - 3)))
    np.testing.assert_allclose(speeds, exact, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("dt", [None, 0.3, 10.0])
def test_no_bounce_of_ten_thousand_random_drops_is_missed_or_met_twice(dt):
    rng = np.random.default_rng(0)
    heights = jnp.asarray(rng.uniform(0.1, 100.0, 10_000))
    e = jnp.asarray(rng.uniform(0.3, 0.95, 10_000))
    first = jnp.sqrt(2 * heights / 9.81)
    flights = 2 * first[:, None] * e[:, None] ** jnp.arange(1, 11)
    times = first[:, None] + jnp.cumsum(flights, axis=1) - flights
    # Each solve ends somewhere between its tenth bounce and the one after it.
    share = jnp.asarray(rng.uniform(0.05, 0.95, 10_000))
    ends = times[:, 9] + share * flights[:, 9]
    start = jnp.stack([heights, 0 * heights], axis=1)
    ts = jnp.stack([0 * ends, ends], axis=1)
    sol: Any = jo.solve_batch(
        falling, start, ts, {"g": jnp.array(9.81), "e": e}, in_axes=(0, 0, AXES),
        events=BOUNCE, max_events=12, rtol=1e-8, atol=1e-10, dt=dt,
    )  # fmt: skip
    np.testing.assert_array_equal(sol.status, 0)
    np.testing.assert_array_equal(sol.events.count, 10)
    np.testing.assert_allclose(sol.events.ts[:, :10], times[:, :10], rtol=1e-9)
