"""Bounds of steps: the smallest size accepted, times on which steps end, no largest number."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close, central
from tests.support.problems import brusselator
from tests.support.sweeps import few

Y0 = jnp.array([1.5, 3.0])
LANDINGS = jnp.array([2.5, 0.7, 1.1, 9.0])  # the last lies outside of the solves


def decay(t, y, args):
    return -y


def grid_of(t1=3.0, **options: Any):
    sol: Any = jo.solve(brusselator, Y0, (0.0, t1), save="steps", max_steps=256, **options)
    return sol, np.asarray(sol.ts[: int(sol.stats.num_accepted) + 1])


# Steps of the smallest size.


def test_steps_of_the_smallest_size_are_accepted_on_request():
    options: Any = {"rtol": 1e-9, "atol": 1e-9}
    sol, ts = grid_of(controller=jo.PID(dtmin=0.2, force=True), **options)
    assert sol.success
    sizes = np.diff(ts)
    assert np.all(sizes[:-1] >= 0.2 * (1 - 1e-9))
    exact: Any = jo.solve(brusselator, Y0, (0.0, 3.0), **options)
    error = float(jnp.max(jnp.abs(sol.y1 - exact.y1)))
    assert 1e-8 < error < 1e-3
    with pytest.raises(jo.SolveError, match=r"STEP_UNDERFLOW: .* or below dtmin"):
        grid_of(controller=jo.PID(dtmin=0.2), **options)


def test_a_forced_step_that_is_not_finite_is_no_step():
    broken = lambda t, y, args: jnp.where(t > 0.5, jnp.nan, -y)  # noqa: E731
    controller = jo.PID(dtmin=0.01, force=True)
    sol = jo.solve(broken, Y0, (0.0, 1.0), controller=controller, throw=False)
    assert sol.status == jo.Status.NOT_FINITE
    assert sol.stats.num_steps < 100


def test_force_needs_a_size():
    with pytest.raises(jo.OptionError, match="give dtmin= too"):
        jo.PID(force=True)


# Steps that no clock resolves.


@pytest.mark.parametrize(
    "options",
    [
        {"controller": jo.PID(dtmax=1e-20)},
        {"controller": jo.Fixed(1e-20)},
        {"solver": "rk4", "dt": 1e-20},
    ],
)
@pytest.mark.parametrize("ts", few([[0.0, 1.0], [1.0, 0.0], [5.0, 6.0]], [0.0, 1.0]))
def test_steps_that_are_too_small_for_the_clock_end_a_solve_at_once(options, ts):
    sol = jo.solve(decay, Y0, ts, throw=False, **options)
    assert sol.status == jo.Status.STEP_UNDERFLOW
    assert sol.stats.num_steps == 0
    assert np.all(np.isnan(sol.y1))
    sols = jo.solve_batch(decay, jnp.stack([Y0, Y0]), ts, **options)
    np.testing.assert_array_equal(sols.status, jo.Status.STEP_UNDERFLOW)


def test_a_small_bound_over_a_small_span_is_none():
    sol = jo.solve(decay, Y0, (0.0, 1e-19), controller=jo.PID(dtmax=1e-20))
    assert sol.success and sol.stats.num_steps >= 10
    assert jo.solve(decay, Y0, (2.0, 2.0), controller=jo.PID(dtmax=1e-20)).success


# Steps that end on given times.


@pytest.mark.parametrize("solver", few(["tsit5", "rodas5p", "adams", "bdf"], "tsit5"))
def test_steps_end_on_given_times_without_a_restart(solver):
    controller = jo.PID(step_ts=LANDINGS)
    sol, ts = grid_of(solver=solver, controller=controller, rtol=1e-7, atol=1e-7)
    for time in np.sort(LANDINGS)[:-1]:
        assert time in ts
    plain, _ = grid_of(solver=solver, rtol=1e-7, atol=1e-7)
    restarted, _ = grid_of(solver=solver, rtol=1e-7, atol=1e-7, jumps=LANDINGS)
    np.testing.assert_allclose(sol.y1, plain.y1, rtol=1e-5)
    evaluations = [int(s.stats.num_evaluations) for s in (sol, restarted)]
    assert evaluations[0] < evaluations[1]


def test_they_end_there_backwards_and_in_lanes():
    controller = jo.PID(step_ts=[1.5, 0.5])
    back: Any = jo.solve(
        decay, Y0, (2.0, 0.0), save="steps", controller=controller, max_steps=64, rtol=1e-8
    )
    assert {1.5, 0.5} <= set(np.asarray(back.ts).tolist())
    rates = jnp.array([0.3, 1.0, 7.0])
    field = lambda t, y, rate: -rate * y  # noqa: E731
    sols: Any = jo.solve_batch(
        field, Y0, (0.0, 2.0), rates, in_axes=(None, None, 0), save="steps", lanes=2,
        controller=controller, max_steps=64,
    )  # fmt: skip
    for ts in np.asarray(sols.ts):
        assert {1.5, 0.5} <= set(ts.tolist())
    np.testing.assert_allclose(sols.y1, Y0 * np.exp(-2 * rates)[:, None], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", few(["discrete", "adjoint", "forward"], "discrete"))
def test_they_have_gradients(mode):
    def loss(a):
        controller = jo.PID(step_ts=LANDINGS)
        field = lambda t, y, a: jnp.stack([y[1], -a * jnp.sin(y[0])])  # noqa: E731
        options: Any = {"controller": controller, "sensitivity": mode, "rtol": 1e-9, "atol": 1e-9}
        return jnp.sum(jo.solve(field, Y0, (0.0, 3.0), a, **options).y1 ** 2)

    derivative = jax.jacfwd if mode == "forward" else jax.grad
    a = jnp.asarray(1.3)
    assert_close(jax.jit(derivative(loss))(a), central(loss, a, 1e-4), 1e-6)


def test_the_digits_of_large_times_are_kept():
    start = 1.6e9
    y0 = Y0.astype(jnp.float32)
    sol: Any = jo.solve(
        decay, y0, (start, start + 2.0), save="steps", max_steps=64,
        controller=jo.PID(step_ts=[start + 0.5, start + 1.5]),
    )  # fmt: skip
    assert {start + 0.5, start + 1.5} <= set(np.asarray(sol.ts).tolist())


# No largest number of steps.


def test_no_bound_of_the_number_of_steps():
    free: Any = {"max_steps": None, "controller": jo.PID(dtmax=2e-4)}
    sol: Any = jo.solve(decay, 1.0, (0.0, 1.0), **free)
    assert sol.success and 5_000 <= sol.stats.num_steps < 5_200


@pytest.mark.slow
def test_gradients_without_such_a_bound():
    small: Any = {"max_steps": None, "rtol": 1e-8, "atol": 1e-8}
    grad = jax.grad(lambda y: jnp.sum(jo.solve(decay, y, (0.0, 1.0), **small).y1))
    np.testing.assert_allclose(grad(Y0), np.exp(-1.0), rtol=1e-7)
    large = jnp.linspace(1.0, 2.0, 300)  # a state whose steps are recorded one by one otherwise
    np.testing.assert_allclose(grad(large), np.exp(-1.0), rtol=1e-7)
    sols = jo.solve_batch(decay, jnp.stack([Y0, 2 * Y0]), (0.0, 1.0), max_steps=2**40)
    assert np.all(sols.success)


@pytest.mark.parametrize(
    "options",
    [
        {"save": "steps"},
        {"save": "dense"},
        {"sensitivity": jo.Discrete(memory="steps")},
        {"sensitivity": jo.Discrete(memory=8)},
        {"sensitivity": "reversible"},
        {"sensitivity": jo.Continuous("interpolate")},
    ],
)
def test_rows_for_every_step_need_a_bound(options):
    with pytest.raises(jo.OptionError, match="keeps rows for max_steps steps: give a bound"):
        jo.solve(decay, Y0, (0.0, 1.0), max_steps=None, **options)


# Norms of pytrees.


def test_a_norm_of_the_tree_sees_its_parts():
    y0 = {"slow": jnp.array([1.0]), "fast": jnp.array([1.0, 0.0])}

    def field(t, y, args):
        return {"slow": -0.1 * y["slow"], "fast": 20.0 * jnp.stack([y["fast"][1], -y["fast"][0]])}

    def slow_alone(error):
        assert set(error) == {"slow", "fast"} and error["fast"].shape == (2,)
        return jnp.abs(error["slow"][0])

    def steps(**options):
        controller = jo.PID(**options)
        sol: Any = jo.solve(field, y0, (0.0, 1.0), controller=controller, max_steps=256)
        return int(sol.stats.num_steps)

    assert steps(norm=slow_alone, norm_of_tree=True) < 12 < 30 < steps()
    worst = lambda e: jnp.maximum(jnp.abs(e["slow"][0]), jnp.max(jnp.abs(e["fast"])))  # noqa: E731
    assert steps(norm=worst, norm_of_tree=True) == steps(norm="max")
    with pytest.raises(jo.OptionError, match="norm_of_tree=True needs a function"):
        jo.PID(norm_of_tree=True)


def test_a_norm_of_the_tree_in_lanes_and_in_an_adjoint():
    y0 = {"x": jnp.ones((3, 2)), "v": jnp.zeros(3)}

    def field(t, y, a):
        return {"x": -a * y["x"], "v": jnp.sum(y["x"])}

    def norm(error):
        return jnp.sqrt(jnp.mean(error["x"] ** 2) + error["v"] ** 2)

    def loss(a):
        sols: Any = jo.solve_batch(
            field, y0, (0.0, 1.0), a, sensitivity=jo.Continuous("backsolve", seminorm=False),
            controller=jo.PID(norm=norm, norm_of_tree=True), rtol=1e-7, atol=1e-7, max_steps=128,
        )  # fmt: skip
        return jnp.sum(sols.y1["v"])

    a = jnp.asarray(1.5)
    exact = lambda a: 6 * (1 - jnp.exp(-a)) / a  # noqa: E731
    assert_close(jax.jit(jax.value_and_grad(loss))(a), jax.value_and_grad(exact)(a), 1e-5)


def test_a_norm_returns_a_real_scalar():
    wrong = {
        "vector": lambda x: x,
        "complex": lambda x: jnp.sum(x) * 1j,
        "two arguments": lambda x, y: jnp.sum(x),
        "a number of Python": lambda x: 1.0,
    }
    for norm in wrong.values():
        with pytest.raises(jo.OptionError, match=r"norm\(x\)"):
            jo.solve(decay, Y0, (0.0, 1.0), controller=jo.PID(norm=norm))
