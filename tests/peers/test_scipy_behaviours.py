"""What SciPy's tests of `solve_ivp` and `odeint` guard and no other test here does."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array

import jaxode as jo
from tests.support.sweeps import few

EXPLICIT = ("RK23", "RK45", "DOP853")
METHODS = (*EXPLICIT, "Radau", "BDF", "LSODA")
TIGHT: Any = {"rtol": 1e-8, "atol": 1e-10}
START = [1.0, 0.5]


def falls_off(t, y):
    """Of a start `c` the flow is `c / (1 + c t)`."""
    return -(y**2)


def exact(t):
    """From `START` on, after a time `t`; a column for each time."""
    start = np.array(START)[:, None]
    return start / (1 + start * np.atleast_1d(t))


# Work and accuracy.


@pytest.mark.parametrize("method", few(METHODS, "RK45", "BDF"))
def test_a_smooth_problem_takes_few_evaluations(method):
    sol = jo.solve_ivp(falls_off, (0, 4), START, method)
    assert sol.nfev < (150 if method in ("BDF", "Radau") else 60)
    np.testing.assert_allclose(sol.y[:, -1], exact(4.0)[:, 0], rtol=5e-3)


def robertson(t, y):
    slow, fast, pair = 0.04 * y[0], 3e7 * y[1] ** 2, 1e4 * y[1] * y[2]
    return [pair - slow, slow - pair - fast, fast]


@pytest.mark.parametrize("method", few(["Radau", "BDF", "LSODA"], "BDF"))
def test_a_stiff_problem_over_nine_decades_takes_few_evaluations(method):
    sol = jo.solve_ivp(robertson, (0, 1e9), [1.0, 0.0, 0.0], method, rtol=1e-5, atol=1e-10)
    assert sol.success and sol.nfev < 5000
    np.testing.assert_allclose(np.sum(sol.y, axis=0), 1.0, rtol=1e-6)
    assert 0 < sol.y[0, -1] < 1e-4


# Times.


@pytest.mark.parametrize("span", [(0.0, 3.0), (3.0, 2.5)])
def test_steps_lead_from_one_end_to_the_other(span):
    sol = jo.solve_ivp(falls_off, span, START)
    assert (sol.t[0], sol.t[-1]) == span
    assert np.all(np.diff(sol.t) * (span[1] - span[0]) > 0)
    np.testing.assert_array_equal(sol.y[:, 0], START)


@pytest.mark.parametrize(
    ("span", "times"), [((0, 2), [2.0]), ((0, 2), [0.7]), ((2, 1.5), [1.8, 1.6]), ((0, 2), [])]
)
def test_states_at_given_times_alone(span, times):
    sol = jo.solve_ivp(falls_off, span, START, t_eval=times, **TIGHT)
    np.testing.assert_array_equal(sol.t, times)
    assert sol.y.shape == (2, len(times))
    np.testing.assert_allclose(sol.y, exact(np.subtract(times, span[0])), rtol=1e-6)


@pytest.mark.parametrize(
    ("span", "times"), [((0, 2), [1.0, 0.5]), ((2, 0), [0.5, 1.0]), ((0, 2), np.ones((2, 1)))]
)
def test_times_that_do_not_follow_the_solve_are_refused(span, times):
    with pytest.raises(jo.TimesError, match=r"monotone|one-dimensional"):
        jo.solve_ivp(falls_off, span, START, t_eval=times)


def test_no_time_to_cross():
    sol = jo.solve_ivp(falls_off, (1.0, 1.0), START, dense_output=True)
    assert sol.status == 0
    np.testing.assert_array_equal(sol.y[:, -1], START)
    np.testing.assert_array_equal(sol.sol(1.0), START)


# Dense output.


def test_dense_output_at_the_ends_of_steps_is_the_states_there():
    sol = jo.solve_ivp(falls_off, (0, 3), START, dense_output=True)
    np.testing.assert_allclose(sol.sol(sol.t), sol.y, rtol=1e-13)


def test_dense_output_takes_times_in_any_order():
    sol = jo.solve_ivp(falls_off, (0, 3), START, dense_output=True)
    times = np.array([2.0, 0.3, 0.3, 2.9, 0.0])
    one_by_one = np.stack([sol.sol(t) for t in times], axis=1)
    np.testing.assert_allclose(sol.sol(times), one_by_one, rtol=1e-14)


def test_dense_output_and_given_times_together():
    sol = jo.solve_ivp(falls_off, (0, 3), START, t_eval=[0.5, 2.5], dense_output=True, **TIGHT)
    np.testing.assert_array_equal(sol.t, [0.5, 2.5])
    np.testing.assert_allclose(sol.sol(1.0), exact(1.0)[:, 0], rtol=1e-6)


# States.


@pytest.mark.parametrize("method", few(["RK45", "BDF"], "RK45"))
def test_a_state_without_components(method):
    sol = jo.solve_ivp(lambda t, y: -y, (0, 1), [], method)
    assert sol.success and sol.t[-1] == 1.0
    assert sol.y.shape == (0, len(sol.t))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_start_that_is_not_finite_is_a_failure(value):
    sol = jo.solve_ivp(falls_off, (0, 1), [1.0, value])
    assert sol.status == -1 and not sol.success
    assert sol.message.startswith("NOT_FINITE")


# Options.


def test_further_arguments_reach_fun_jac_and_events():
    def fun(t, y, rate, rest):
        return [-rate * (y[0] - rest)]

    def jac(t, y, rate, rest):
        return [[-rate]]

    def half(t, y, rate, rest):
        return y[0] - rest - 0.5

    sol = jo.solve_ivp(fun, (0, 2), [3.0], "BDF", args=(2.0, 2.0), jac=jac, events=half, **TIGHT)
    np.testing.assert_allclose(sol.y[0, -1], 2 + np.exp(-4), rtol=1e-6)
    np.testing.assert_allclose(sol.t_events[0], [np.log(2) / 2], rtol=1e-6)


def test_a_tolerance_for_each_component():
    def fun(t, y):
        return jnp.stack([-y[0], jnp.cos(40 * t)])

    def steps(atol):
        return len(jo.solve_ivp(fun, (0, 2), START, rtol=1e-12, atol=atol).t)

    assert steps([1e-4, 1e3]) < 0.5 * steps([1e-4, 1e-6])
    with pytest.raises(jo.ToleranceError, match="atol must be a number or broadcast against y0"):
        steps([1e-4, 1e-4, 1e-4])


@pytest.mark.parametrize("name", ["max_step", "min_step", "first_step"])
@pytest.mark.parametrize("size", [-1.0, np.nan, "large"])
def test_sizes_of_steps_that_are_none_are_refused(name, size):
    options: Any = {name: size}
    with pytest.raises(jo.OptionError, match="must be a positive number"):
        jo.solve_ivp(falls_off, (0, 1), START, **options)


def test_a_first_step_beyond_the_end_is_cut():
    sol = jo.solve_ivp(falls_off, (0, 0.01), START, first_step=10.0)
    np.testing.assert_array_equal(sol.t, [0.0, 0.01])


def test_an_explicit_method_passes_over_a_jacobian():
    sol = jo.solve_ivp(falls_off, (0, 1), START, jac=lambda t, y: 1 / 0, **TIGHT)
    np.testing.assert_allclose(sol.y[:, -1], exact(1.0)[:, 0], rtol=1e-6)
    assert sol.njev == 0


N = 20
NEAR = np.abs(np.subtract.outer(np.arange(N), np.arange(N))) <= 1
BANDS = np.array([1.0, -2.0, 1.0])
MODE = np.sin(np.pi * np.arange(1, N + 1) / (N + 1))
RATE = 4 * np.sin(np.pi / (2 * (N + 1))) ** 2


def diffusion(t, y):
    return jnp.convolve(y, BANDS, mode="same")


@pytest.mark.parametrize(
    "known",
    [
        {"jac_sparsity": csr_array(NEAR)},
        {"lband": 1, "uband": 1},
        {"jac": csr_array(NEAR - 3.0 * np.eye(N))},
    ],
    ids=["a sparse pattern", "bands", "a sparse constant"],
)
def test_what_is_known_of_the_jacobian_of_diffusion(known: Any):
    sol = jo.solve_ivp(diffusion, (0, 30), MODE, "BDF", **known, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sol.y[:, -1], np.exp(-30 * RATE) * MODE, rtol=1e-4)


# `odeint`.


def test_repeated_times_repeat_the_state():
    ys = jo.odeint(lambda y, t: -y, jnp.ones(2), jnp.array([0.0, 0.5, 0.5, 1.0]))
    np.testing.assert_array_equal(ys[1], ys[2])
    np.testing.assert_allclose(ys[:, 0], np.exp([0, -0.5, -0.5, -1.0]), rtol=1e-6)


def test_whole_numbers_become_floats():
    ys = jo.odeint(lambda y, t: -y, 1, np.array([0, 1, 2]))
    np.testing.assert_allclose(ys, np.exp(-np.arange(3.0)), rtol=1e-6)
