"""Adams: its formulas order by order, at uneven steps; gradients; how few evaluations it takes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.multistep.adams import AdamsState
from tests.support.differences import assert_close, central, central_by_calls, weighted
from tests.support.sweeps import few


def curve(t):
    return jnp.stack([jnp.sin(t), jnp.exp(-0.5 * t)], axis=-1)


def follow(t, y, args):
    """Its solution is `curve`."""
    away = y - curve(t)
    return jax.jvp(curve, (t,), (jnp.ones_like(t),))[1] - away - away[::-1] ** 2


def kepler(t, y, args):
    """Period two pi, eccentricity 0.3."""
    return jnp.concatenate([y[2:], -y[:2] / jnp.sum(y[:2] ** 2) ** 1.5])


ORBIT = jnp.array([0.7, 0.0, 0.0, np.sqrt(1.3 / 0.7)])
UNEVEN = np.array([0.0, 1.0, 1.7, 2.9, 3.4, 4.4, 5.0, 6.2, 7.1, 7.7, 9.0, 9.5, 10.3])


@functools.partial(jax.jit, static_argnums=0)
def after_a_step(order, scale):
    """The errors inside and at the end of a step of `order` after exact values at uneven steps.

    The last of the values before it are made by the solver itself, from a slope that is exact.
    """
    solver: Any = jo.Adams(max_order=order)
    times = 2 + scale * (UNEVEN - UNEVEN[-2])

    def field(t, y):
        return jax.jvp(curve, (t,), (jnp.ones_like(t),))[1] + 0 * y

    def step(carry, ends):
        (t, after), h = ends, ends[1] - ends[0]
        made = solver.step(field, t, curve(t), h, carry, True)
        half = solver.interpolate(jnp.array(0.5), curve(t), h, made.dense)
        gaps = half - curve(t + h / 2), made.y1 - curve(after)
        return made.solver_state, jnp.stack([jnp.max(jnp.abs(gap)) for gap in gaps])

    carry = solver.init(field, times[0], curve(times[0]))
    return jax.lax.scan(step, carry, (times[:-1], times[1:]))[1][-1]


@pytest.mark.parametrize("order", few([1, 2, 3, 4, 6, 8], 1, 4, 8))
def test_each_formula_has_its_order_at_uneven_steps(order):
    """The error of a step, and inside it, goes as its power `order + 2`: one more than it has."""
    sizes = np.array([0.4, 0.33, 0.27]) if order > 4 else np.array([0.1, 0.08, 0.06])
    errors = np.array([after_a_step(order, size) for size in sizes])
    for column in errors.T:
        assert abs(np.polyfit(np.log(sizes), np.log(column), 1)[0] - (order + 2)) < 0.5


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_smooth_problems_take_few_evaluations(sign):
    """A fifth of those of Tsit5 at 1e-11, for an error about as large; backwards too."""
    ends, counts = [], []
    for name in ("tsit5", "adams"):
        sol = jo.solve(kepler, ORBIT, (0.0, sign * 10 * np.pi), solver=name, rtol=1e-11, atol=1e-11)
        ends.append(np.max(np.abs(sol.y1 - ORBIT)))
        counts.append(sol.stats.num_evaluations)
    assert ends[1] < 5 * ends[0]
    assert counts[1] < 0.2 * counts[0]
    assert sol.stats.num_rejected < 0.05 * sol.stats.num_steps


@pytest.mark.parametrize("rtol", [1e-4, 1e-7, 1e-10])
def test_errors_follow_the_tolerance(rtol):
    ts = jnp.linspace(0.0, 6.0, 50)
    sol = jo.solve(follow, curve(0.0), ts, solver="adams", rtol=rtol, atol=rtol)
    assert np.max(np.abs(sol.ys - curve(ts))) < 20 * rtol


def test_the_highest_order_is_kept():
    numbers = [
        jo.solve(follow, curve(0.0), (0.0, 9.0), solver=jo.Adams(max_order=most), rtol=1e-9,
                 atol=1e-9).stats.num_steps
        for most in (2, 4, 8)
    ]  # fmt: skip
    assert numbers[0] > 3 * numbers[1] > 4 * numbers[2]
    with pytest.raises(jo.OptionError, match="max_order of Adams must be 1 to 12, got 13"):
        jo.Adams(max_order=13)


def test_uneven_steps_have_the_exact_gradient():
    """By state, parameters and times, with the carry."""
    solver: Any = jo.Adams()

    @jax.jit
    @jax.value_and_grad
    def run(p):
        def field(t, y):
            return p["k"] * jnp.stack([y[1], -jnp.sin(y[0]) + jnp.cos(t)])

        def step(state, ends):
            (y, carry), (t, h) = state, ends
            made = solver.step(field, t, y, h, carry, True)
            inside = solver.interpolate(jnp.array(0.3), y, h, made.dense)
            return (made.y1, made.solver_state), inside

        start = p["y"], solver.init(field, p["ts"][0], p["y"])
        steps = p["ts"][:-1], jnp.diff(p["ts"])
        (y, carry), inside = jax.lax.scan(step, start, steps)
        return weighted((inside, y, carry.differences[0], carry.steps))

    p = {"y": jnp.array([1.2, 0.3]), "k": jnp.array(0.8), "ts": jnp.asarray(0.1 * UNEVEN[:5])}
    assert_close(run(p)[1], central_by_calls(lambda p: run(p)[0], p), 1e-8)


def forced_pendulum(t, y, k):
    return k * jnp.stack([y[1], -jnp.sin(y[0]) + jnp.cos(t)])


POINT = {"y": jnp.array([1.2, 0.3]), "k": jnp.array(0.8)}


def loss_of_pendulum(p, **options):
    ts, rtol = jnp.array([0.0, 1.0, 3.0]), 1e-10
    sol = jo.solve(forced_pendulum, p["y"], ts, p["k"], rtol=rtol, atol=rtol, **options)
    return weighted(sol.ys)


@functools.cache
def slopes_of_pendulum():
    return central(lambda p: loss_of_pendulum(p, solver="dopri8"), POINT)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["discrete", "adjoint"])
def test_adaptive_gradients_agree_with_differences(mode):
    got = jax.jit(jax.grad(lambda p: loss_of_pendulum(p, solver="adams", sensitivity=mode)))(POINT)
    assert_close(got, slopes_of_pendulum(), 1e-6)


def test_complex_states_and_single_precision():
    y0 = jnp.array([1.0 + 0.5j])
    sol = jo.solve(lambda t, y, args: 1j * y, y0, (0.0, 3.0), solver="adams", rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(sol.y1, y0 * np.exp(3j), atol=1e-6)
    single = ORBIT.astype(jnp.float32)
    sol = jo.solve(kepler, single, (0.0, 2 * np.pi), solver="adams", rtol=1e-5, atol=1e-5)
    assert sol.y1.dtype == jnp.float32
    np.testing.assert_allclose(sol.y1, ORBIT, atol=2e-2)


def test_a_carry_is_made_of_floats():
    """Its cotangents are added up, step by step."""
    carry = jo.Adams().init(lambda t, y: -y, jnp.array(0.0), jnp.ones(2))
    assert isinstance(carry, AdamsState)
    for leaf in jax.tree.leaves(carry):
        assert jnp.issubdtype(leaf.dtype, jnp.floating)
