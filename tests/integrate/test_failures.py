"""Solves that cannot end well: a status and NaN, or an error that says what and where."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.sweeps import few

Y0 = jnp.array([1.0, 2.0])
SAVES = ["ts", "steps", "dense", lambda t, y, args: {"sum": jnp.sum(y)}]


def decay(t, y, args):
    return -y


def blow_up(t, y, args):
    """Infinite at t = 1 from one."""
    return y**2


def breaks(t, y, args):
    """NaN from t = 0.5 on."""
    return jnp.where(t > 0.5, jnp.nan, -y)


def overflows(t, y, args):
    return 1e300 * y**3


def is_nan(t, y, args):
    return y * jnp.nan


TS = jnp.linspace(0.0, 2.0, 5)
FAILURES = {
    "max_steps": (decay, {"max_steps": 3, "rtol": 1e-10}, jo.Status.MAX_STEPS),
    "max_steps, fixed": (decay, {"solver": "rk4", "dt": 0.1, "max_steps": 3}, jo.Status.MAX_STEPS),
    "blow-up": (blow_up, {}, jo.Status.STEP_UNDERFLOW),
    "NaN field": (breaks, {}, jo.Status.NOT_FINITE),
    "NaN field, fixed": (breaks, {"solver": "euler", "dt": 0.1}, jo.Status.NOT_FINITE),
    "NaN field, Fixed": (breaks, {"controller": jo.Fixed(0.1)}, jo.Status.NOT_FINITE),
    "overflow, fixed": (overflows, {"solver": "rk4", "dt": 0.1}, jo.Status.NOT_FINITE),
    "dtmin": (blow_up, {"controller": jo.PID(dtmin=1e-3)}, jo.Status.STEP_UNDERFLOW),
    "NaN y0": (is_nan, {}, jo.Status.NOT_FINITE),
}
TOLD = {
    jo.Status.MAX_STEPS: "max_steps was reached: raise max_steps, loosen rtol and atol",
    jo.Status.STEP_UNDERFLOW: "the step size fell below what the time can resolve",
    jo.Status.NOT_FINITE: "the vector field or the state became NaN or infinite",
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure_raises_outside_jit_and_says_where(case):
    f, options, status = FAILURES[case]
    with pytest.raises(jo.SolveError, match=f"{status.name}: at t = .* steps {TOLD[status]}"):
        jo.solve(f, Y0, TS, **options)


@pytest.mark.parametrize(
    "case", few(FAILURES, "max_steps", "blow-up", "NaN field, fixed", "dtmin", "NaN y0")
)
def test_failure_is_a_status_and_nan_where_nothing_is_thrown(case):
    f, options, status = FAILURES[case]
    sol = jo.solve(f, Y0, TS, throw=False, **options)
    inside = jax.jit(lambda y: jo.solve(f, y, TS, **options))(Y0)
    for one in (sol, inside):
        assert one.status == status
        assert not one.success
        assert np.all(np.isnan(one.y1))
        beyond = np.asarray(one.ts > one.stats.t_reached)
        assert np.all(np.isnan(one.ys[beyond]))
        assert np.all(np.isfinite(one.ys[~beyond]))


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("f", few([blow_up, breaks], breaks))
def test_every_save_mode_ends_in_nan(f, save):
    sol = jo.solve(f, Y0, (0.0, 0.2, 2.0), save=save, throw=False)
    assert sol.status != jo.Status.SUCCESS
    assert np.all(np.isnan(sol.y1))
    assert all(np.all(np.isnan(leaf[-1])) for leaf in jax.tree.leaves(sol.ys))
    assert all(np.all(np.isfinite(leaf[0])) for leaf in jax.tree.leaves(sol.ys))


def test_the_message_names_the_time():
    with pytest.raises(jo.SolveError, match=r"at t = 0\.5"):
        jo.solve(blow_up, Y0, (0.0, 2.0))
    with pytest.raises(jo.SolveError, match=r"at t = 0\.3 after 3 steps"):
        jo.solve(decay, Y0, (0.0, 2.0), solver="rk4", dt=0.1, max_steps=3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_state_that_is_nan_from_the_start(sign):
    sol = jo.solve(decay, Y0 * jnp.nan, (0.0, sign), throw=False)
    assert sol.status == jo.Status.NOT_FINITE


def test_a_state_that_is_nan_with_no_time_to_cross():
    sol = jo.solve(decay, Y0 * jnp.nan, (1.0, 1.0), throw=False)
    assert sol.status == jo.Status.NOT_FINITE


def test_a_field_that_is_infinite_at_the_start():
    sol = jo.solve(lambda t, y, args: y / t, Y0, (0.0, 1.0), throw=False)
    assert sol.status == jo.Status.NOT_FINITE


BAD_TIMES = {
    "not monotone": [0.0, 2.0, 1.0, 3.0],
    "there and back": [0.0, 1.0, 0.0],
    "there and back after a repeat": [0.0, 0.0, 1.0, 0.0],
    "back before the start": [0.0, -1.0, 1.0],
    "NaN inside": [0.0, np.nan, 1.0],
    "NaN at the end": [0.0, 1.0, np.nan],
    "NaN at the start": [np.nan, 1.0, 2.0],
}


@pytest.mark.parametrize("save", SAVES)
def test_bad_times_under_jit_are_a_status(save):
    run = jax.jit(lambda ts: jo.solve(decay, Y0, ts, save=save, max_steps=64))
    for name, times in BAD_TIMES.items():
        sol = run(jnp.array([*times, *times[-1:] * (4 - len(times))]))
        assert sol.status == jo.Status.BAD_TIMES, name
        for leaf in jax.tree.leaves((sol.ys, sol.y1)):
            assert np.all(np.isnan(leaf)), name


def test_an_infinite_last_time_under_jit_is_never_reached():
    sol = jax.jit(lambda ts: jo.solve(decay, Y0, ts, max_steps=64))(jnp.array([0.0, 1.0, np.inf]))
    assert not sol.success
    assert np.all(np.isnan(sol.y1))


def test_bad_times_leave_no_dense_output():
    sol = jax.jit(lambda ts: jo.solve(decay, Y0, ts, save="dense"))(jnp.array([0.0, 2.0, 1.0, 3.0]))
    assert np.all(np.isnan(sol(0.5)))


def test_bad_tolerances_under_jit_are_a_status_or_the_right_answer():
    run = jax.jit(lambda rtol, atol: jo.solve(decay, Y0, (0.0, 1.0), rtol=rtol, atol=atol))
    for rtol, atol in [(-1e-3, -1e-3), (jnp.nan, 1e-6), (1e-3, jnp.nan), (0.0, 0.0)]:
        sol = run(rtol, atol)
        right_or_missing(sol)


def right_or_missing(sol):
    if sol.status == jo.Status.SUCCESS:
        np.testing.assert_allclose(sol.y1, np.exp(-1.0) * Y0, rtol=1e-3)
    else:
        assert np.all(np.isnan(sol.y1))


@pytest.mark.parametrize("solver", ["rk4", "tsit5"])
def test_bad_steps_under_jit_are_a_status_or_the_right_answer(solver):
    run = jax.jit(lambda dt: jo.solve(decay, Y0, (0.0, 1.0), solver=solver, dt=dt))
    for dt in (-0.1, 0.0, np.nan):
        right_or_missing(run(dt))


@functools.cache
def on_a_grid() -> Callable[[Any], jo.Solution]:
    """A solve that takes the steps of a grid, compiled once for each length of grids."""

    def solve(times):
        grid = jo.Grid(times)
        return jo.solve(decay, Y0, (0.0, 1.0), solver="dopri8", controller=grid, max_steps=64)

    return jax.jit(solve)


@pytest.mark.parametrize(
    "grid", [[0.0, 0.5], [0.0, 0.7, 0.5, 1.0], [1.0, 0.5, 0.0], [0.0, np.nan, 1.0], [0.0, 2.0]]
)
def test_bad_grids_under_jit_never_miss_the_last_time(grid):
    """A grid that ends early goes on by its last gap; where that fails there is a status."""
    right_or_missing(on_a_grid()(jnp.array(grid)))


@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint"])
def test_gradient_of_a_failed_solve_is_nan(sensitivity):
    def loss(y, rate):
        sol = jo.solve(
            lambda t, y, args: args * y**2, y, (0.0, 2.0), rate, sensitivity=sensitivity,
            max_steps=64,
        )  # fmt: skip
        return jnp.sum(sol.y1)

    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(Y0, jnp.array(1.0)):
        assert np.all(np.isnan(gradient))


def test_a_backward_solve_that_fails_is_nan():
    """Forwards it contracts; backwards the state leaves every bound, unless it begins again."""

    def gradient(restarts):
        def loss(y):
            sensitivity = jo.Continuous(restarts=restarts)
            field = lambda t, y, args: -1e3 * y**3  # noqa: E731
            sol = jo.solve(field, y, (0.0, 5.0), sensitivity=sensitivity, max_steps=300)
            return jnp.sum(sol.y1)

        return jax.jit(jax.grad(loss))(Y0)

    assert np.all(np.isnan(gradient(0)))
    np.testing.assert_allclose(gradient(16), (1 + 1e4 * Y0**2) ** -1.5, rtol=0.05)


def test_one_failing_trajectory_spoils_no_other():
    run = jax.jit(jax.vmap(lambda y: jo.solve(blow_up, y, (0.0, 2.0))))
    sol = run(jnp.array([0.1, 1.0, 0.2]))
    np.testing.assert_array_equal(sol.success, [True, False, True])
    np.testing.assert_allclose(sol.y1[jnp.array([0, 2])], [1 / 8, 1 / 3], rtol=1e-3)
    assert np.isnan(sol.y1[1])
