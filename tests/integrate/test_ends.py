"""Solves from `t0` to `t1` whose saved times lie inside."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of
from tests.support.differences import central, weighted

Y0 = jnp.array([1.0, 0.5])
INSIDE = np.array([0.3, 0.7])


def field(t, y, k=1.3):
    return jnp.stack([y[1] + jnp.sin(t), -k * y[0]])


WHOLE = np.array([0.0, 0.3, 0.7, 1.0])
WAYS = {
    "both ends": ({"ts": INSIDE, "t0": 0.0, "t1": 1.0}, slice(1, 3)),
    "a list": ({"ts": [0.3, 0.7], "t0": 0, "t1": 1}, slice(1, 3)),
    "the first end": ({"ts": [0.3, 0.7, 1.0], "t0": 0.0}, slice(1, 4)),
    "the last end": ({"ts": [0.0, 0.3, 0.7], "t1": 1.0}, slice(0, 3)),
    "one time": ({"ts": [0.7], "t0": 0.0, "t1": 1.0}, slice(2, 3)),
    "no times": ({"t0": 0.0, "t1": 1.0}, slice(0, 4, 3)),
    "the ends twice": ({"ts": WHOLE, "t0": 0.0, "t1": 1.0}, slice(0, 4)),
    "one time, the end": ({"ts": jnp.array([1.0]), "t0": 0.0}, slice(3, 4)),
    "an empty list": ({"ts": [], "t0": 0.0, "t1": 1.0}, slice(0, 0)),
}


@pytest.mark.parametrize("case", WAYS)
def test_saved_times_inside_of_a_solve(case):
    times, rows = WAYS[case]
    whole = jo.solve(field, Y0, WHOLE)
    for save in ("ts", "dense"):
        sol = jo.solve(field, Y0, save=save, max_steps=64, **times)
        np.testing.assert_allclose(sol.ts, WHOLE[rows])
        assert sol.ys.shape == whole.ys[rows].shape
        np.testing.assert_allclose(sol.ys, whole.ys[rows], rtol=1e-6)
        np.testing.assert_allclose(sol.y1, whole.y1, rtol=1e-6)
    np.testing.assert_allclose(sol(1.0), whole.y1, rtol=1e-6)


def test_backwards_of_steps_and_of_a_function():
    whole = jo.solve(field, Y0, WHOLE[::-1])
    sol = jo.solve(field, Y0, INSIDE[::-1], t0=1.0, t1=0.0)
    np.testing.assert_allclose(sol.ys, whole.ys[1:3], rtol=1e-6)
    first = jo.solve(field, Y0, INSIDE, t0=0.0, t1=1.0, save=lambda t, y: {"q": y[0]})
    assert first.ys["q"].shape == (2,)
    steps = jo.solve(field, Y0, [0.5], t0=0.0, t1=1.0, save="steps", max_steps=64)
    assert steps.ts[0] == 0.0
    assert steps.ts[int(steps.stats.num_accepted)] == 1.0


@pytest.mark.parametrize(
    "sensitivity",
    ["discrete", *(pytest.param(s, marks=pytest.mark.slow) for s in ("adjoint", "forward"))],
)
def test_gradients_by_traced_ends(sensitivity):
    def loss(inputs):
        sol = jo.solve(
            field, inputs["y0"], inputs["ts"], t0=inputs["t0"], t1=inputs["t1"],
            sensitivity=sensitivity, rtol=1e-9, atol=1e-9,
        )  # fmt: skip
        return weighted(sol.ys) + jnp.sum(sol.y1)

    inputs = {"y0": Y0, "ts": jnp.asarray(INSIDE), "t0": jnp.array(0.0), "t1": jnp.array(1.0)}
    derivative = jax.jacfwd if sensitivity == "forward" else jax.grad
    gradient = jax.jit(derivative(loss))(inputs)
    expected = central(loss, inputs)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), gradient, expected
    )


def test_events_and_doses_beyond_the_saved_times():
    event = jo.Event(lambda t, y: t - 0.5, terminal=True)
    sol = jo.solve(field, Y0, [0.3, 0.7], t0=0.0, t1=1.0, events=event)
    assert np.isfinite(sol.ys[0]).all() and np.isnan(sol.ys[1]).all()
    np.testing.assert_allclose(sol.stats.t_reached, 0.5)
    dose = jo.Jumps([0.0, 0.5, 1.0], lambda t, y: y + 1.0)
    still = lambda t, y: jnp.zeros_like(y)  # noqa: E731
    sol = jo.solve(still, 0.0, [0.3, 0.7], t0=0.0, t1=1.0, jumps=dose)
    np.testing.assert_allclose(sol.ys, [1.0, 2.0])
    np.testing.assert_allclose(sol.y1, 3.0)


def test_no_last_time():
    event = jo.Event(lambda t, y: y - 0.25, terminal=True)
    times: dict = {"t0": 0.0, "t1": np.inf}
    sol = jo.solve(lambda t, y: -y, 1.0, [0.5, 2.0], events=event, rtol=1e-8, **times)
    np.testing.assert_allclose(sol.ys, [np.exp(-0.5), np.nan], rtol=1e-6)
    np.testing.assert_allclose(sol.stats.t_reached, np.log(4.0), rtol=1e-6)
    times["t1"] = np.array([np.inf, 1.0])
    y0 = jnp.array([1.0, 2.0])
    sols = jo.solve_batch(lambda t, y: -y, y0, [0.5], events=event, rtol=1e-8, **times)
    np.testing.assert_allclose(sols.ys, np.exp(-0.5) * y0[:, None], rtol=1e-6)
    np.testing.assert_allclose(sols.stats.t_reached, [np.log(4.0), 1.0], rtol=1e-6)
    with pytest.raises(jo.TimesError, match=r"of trajectory 0: t1 is inf"):
        jo.solve_batch(lambda t, y: -y, y0, [0.5], **times)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"t1": np.ones((2, 2))}, r"t1 must be one time, or a vector .* got shape \(2, 2\)"),
        ({"t1": [1.0, 1.0], "in_axes": (0, 0, None)}, r"mapped ts must have shape .* got \(1,\)"),
        ({"t1": [1.0, 1.0], "ts": ["a"]}, r"ts must hold real numbers"),
    ],
)
def test_ends_of_no_batch(times: dict[str, Any], message):
    with pytest.raises(jo.TimesError, match=message):
        jo.solve_batch(field, jnp.ones((2, 2)), **{"ts": np.array([0.5]), "t0": 0.0, **times})


@pytest.mark.parametrize("start", [0.0, 1.7e9])
def test_conditions_in_a_list_whose_map_takes_the_entry(start):
    with jax.enable_x64(start == 0.0):
        event = jo.Event(
            lambda t, y: [y[0] - 0.5, y[1] - 0.25],
            apply=lambda t, y, args, entry: y.at[entry].set(2.0),
        )
        times: dict = {"t0": start, "t1": start + 2.0}
        sol = jo.solve(lambda t, y: -y, jnp.ones(2), [start + 1.0], events=event, **times)
        assert sol.events is not None
        np.testing.assert_array_equal(sol.events.entry[: int(sol.events.count)], [0, 1])
        reached = [4 * np.exp(-1.0), np.exp(-1.0)]  # y[0] is 2 from log(2) on, y[1] from log(4)
        np.testing.assert_allclose(sol.ys, [reached], rtol=1e-3)
        np.testing.assert_allclose(sol.y1, [4 * np.exp(-2.0), 8 * np.exp(-2.0)], rtol=1e-3)


def test_far_from_zero():
    with jax.enable_x64(False):
        start = 1.7e9
        sol = jo.solve(lambda t, y: -y, 1.0, [start + 0.5], t0=start, t1=start + 1.0)
        assert sol.ts.dtype == np.float64
        np.testing.assert_array_equal(sol.ts, [start + 0.5])
        np.testing.assert_allclose(sol.ys, [np.exp(-0.5)], rtol=1e-3)
        np.testing.assert_allclose(sol.y1, np.exp(-1.0), rtol=1e-3)


ENDS = jnp.array([1.0, 2.0, 3.0])
BATCHES = {
    "shared": ({"ts": INSIDE, "t0": 0.0, "t1": 1.0}, None),
    "ends of each": ({"ts": INSIDE, "t0": 0.0, "t1": ENDS}, None),
    "times of each": ({"ts": INSIDE * ENDS[:, None], "t0": 0.0, "t1": 3.0}, 0),
    "all of each": ({"ts": INSIDE * ENDS[:, None], "t0": -ENDS, "t1": np.asarray(ENDS)}, 0),
    "no times": ({"t0": 0.0, "t1": ENDS}, None),
    "one time": ({"ts": [1.0], "t1": ENDS, "t0": 0}, None),
}


@pytest.mark.parametrize("case", BATCHES)
def test_each_trajectory_of_a_batch(case):
    times, axis = BATCHES[case]
    y0 = ENDS[:, None] * Y0
    sols = jo.solve_batch(field, y0, in_axes=(0, axis, None), **times)
    for i in range(3):
        own = {
            name: x[i] if (name == "ts" and axis == 0) or (name != "ts" and np.ndim(x)) else x
            for name, x in times.items()
        }
        alone = jo.solve(field, y0[i], **own)
        np.testing.assert_allclose(sols.ys[i], alone.ys, rtol=1e-6)
        np.testing.assert_allclose(sols.y1[i], alone.y1, rtol=1e-6)
        np.testing.assert_allclose(sols.ts if sols.ts.ndim == 1 else sols.ts[i], alone.ts)


def test_a_kernel():
    sols = jo.solve_batch(
        field, ENDS[:, None] * Y0, [0.5, 0.8], t0=0.0, t1=ENDS, kernel=True, lanes=4, max_steps=64
    )
    alone = jo.solve(field, 2 * Y0, [0.5, 0.8], t0=0.0, t1=2.0)
    np.testing.assert_allclose(sols.ys[1], alone.ys, rtol=1e-6)
    np.testing.assert_allclose(sols.y1[1], alone.y1, rtol=1e-6)


def test_other_ends_do_not_compile_again():
    def call(t1):
        return jo.solve(field, Y0, [0.2, 0.4], t0=0.0, t1=t1).ys

    call(1.0)
    assert compilations_of(call, 2.0) == 0


WRONG = {
    "nothing": ({}, r"ts is None: expected times such as \(t0, t1\), or t0= and t1="),
    "one end": ({"t0": 0.0}, r"neither ts nor t1 is given"),
    "the other end": ({"t1": 0.0}, r"neither ts nor t0 is given"),
    "one time": ({"ts": [0.0]}, r"at least two times, got 1; for fewer give t0= and t1="),
    "before the start": (
        {"ts": [-1.0, 0.5], "t0": 0.0, "t1": 1.0},
        r"monotone, but go from t0 = 0 to ts\[0\] = -1 while running from 0 to 1",
    ),
    "after the end": ({"ts": [0.5, 2.0], "t1": 1.0}, r"go from ts\[1\] = 2 to t1 = 1"),
    "backwards": ({"ts": [0.7, 0.3], "t0": 0.0, "t1": 1.0}, r"go from ts\[0\] = 0.7 to ts\[1\]"),
    "no number": ({"ts": [0.5, np.nan], "t0": 0.0, "t1": 1.0}, r"ts\[1\] is nan"),
    "infinite": ({"t0": 0.0, "t1": np.inf, "ts": [0.5]}, r"t1 is inf: every time must be finite"),
    "a vector": ({"t0": jnp.zeros(3), "t1": 1.0}, r"t0 must be one time, got shape \(3,\)"),
    "a table": ({"ts": np.zeros((2, 2)), "t1": 1.0}, r"one-dimensional; got shape \(2, 2\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_times_that_contradict_each_other(case):
    times, message = WRONG[case]
    with pytest.raises(jo.TimesError, match=message):
        jo.solve(field, Y0, **times)


def test_times_of_batches_that_contradict_each_other():
    y0 = jnp.ones((3, 2))
    with pytest.raises(jo.TimesError, match=r"of trajectory 1: .* ts\[0\] = 2.5 to t1 = 2"):
        jo.solve_batch(field, y0, [2.5], t0=0.0, t1=jnp.array([3.0, 2.0, 3.0]))
    with pytest.raises(jo.BatchError, match=r"differ in their number of trajectories"):
        jo.solve_batch(field, y0, [0.5], t0=jnp.zeros(2), t1=ENDS)
    with pytest.raises(jo.TimesError, match=r"neither ts nor t1"):
        jo.solve_batch(field, y0, t0=jnp.zeros(3))
    with pytest.raises(jo.TimesError, match=r"t0 must be one time, or a vector of that of each"):
        jo.solve_batch(field, y0, t0=jnp.zeros((3, 1)), t1=1.0)
    with pytest.raises(jo.TimesError, match=r"ts must be one-dimensional, got \(3, 1\)"):
        jo.solve_batch(field, y0, np.ones((3, 1)), t0=jnp.zeros(3))
