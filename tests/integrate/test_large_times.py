"""Times far from zero, such as seconds since 1970, and states in float32: closed forms.

With float64 enabled times are kept in it; else a solve counts from an origin that the host keeps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of
from tests.support.registry import REPRESENTATIVES, linear, step_of
from tests.support.sweeps import few

T = 1.7e9  # where numbers of float32 are 128 apart
SPAN = np.array([0.0, 0.3, 1.1, 2.0])
TS = T + SPAN
RATE = np.float32(0.7)


@pytest.fixture(params=[True, False], ids=["float64", "float32"])
def precision(request):
    with jax.enable_x64(request.param):
        yield


def decay(t, y, rate):
    return -rate * y


def one():
    return jnp.ones((), jnp.float32)


def assert_times(times, expected):
    assert np.asarray(times).dtype == np.float64
    np.testing.assert_allclose(np.asarray(times) - T, np.asarray(expected) - T, atol=1e-5)


def test_a_second_of_a_year(precision):
    sol = jo.solve(decay, one(), TS, RATE)
    assert sol.ys.dtype == jnp.float32
    np.testing.assert_allclose(sol.ys, np.exp(-RATE * SPAN), rtol=1e-3)
    np.testing.assert_array_equal(sol.ts, TS)
    assert_times(sol.stats.t_reached, TS[-1])
    backwards = jo.solve(decay, one(), TS[::-1], RATE)
    np.testing.assert_allclose(backwards.ys[::-1], np.exp(RATE * (2 - SPAN)), rtol=1e-3)


def test_the_times_of_python_and_integers_count_as_given(precision):
    ones = lambda t, y, args: jnp.ones_like(y)  # noqa: E731
    for ts in ((1e9, 1e9 + 500), (10**9, 10**9 + 500), np.array([10**9, 10**9 + 500])):
        np.testing.assert_allclose(jo.solve(ones, 0 * one(), ts).y1, 500, rtol=1e-6)


def test_dense_output_is_read_at_times(precision):
    sol = jo.solve(decay, one(), (T, T + 2), RATE, save="dense")
    np.testing.assert_allclose(sol(TS), np.exp(-RATE * SPAN), rtol=1e-3)
    np.testing.assert_allclose(sol(T + 0.3), np.exp(-RATE * 0.3), rtol=1e-3)
    assert np.isnan(sol(T + 2.1))
    assert np.isnan(sol(T - 0.1))


def test_the_times_of_steps(precision):
    sol = jo.solve(decay, one(), TS, RATE, save="steps")
    count = int(sol.stats.num_accepted) + 1
    np.testing.assert_allclose(sol.ys[:count], np.exp(-RATE * (sol.ts[:count] - T)), rtol=1e-3)
    assert count > 2
    assert np.all(np.diff(sol.ts[:count]) > 0)
    assert sol.ts[count - 1] == TS[-1]


def ball(t, y, g):
    return jnp.stack([y[1], -g])


BOUNCE = jo.Event(
    lambda t, y, g: y[0], "down", lambda t, y, g: jnp.stack([jnp.abs(y[0]), -0.8 * y[1]])
)


def test_events_and_their_derivatives(precision):
    y0, g = jnp.array([1.0, 0.0], jnp.float32), jnp.float32(9.81)

    def bounces(g):
        events = jo.solve(ball, y0, (T, T + 1), g, events=BOUNCE).events
        assert events is not None
        return events

    events, fall = bounces(g), np.sqrt(2 / 9.81)
    assert_times(events.ts[:1], [T + fall])
    assert events.count == 1
    gradient = jax.grad(lambda g: bounces(g).ts[0].astype(jnp.float32))(g)
    np.testing.assert_allclose(gradient, -fall / (2 * 9.81), rtol=1e-3)


def test_doses_at_the_ends_and_twice_at_one_time(precision):
    times = T + np.array([0.0, 0.3, 0.3, 1.2, 2.0, 9.0])
    doses = jo.Jumps(times, lambda t, y, args, index: y + 1 + index, saved="after")
    sol = jo.solve(decay, one(), TS, RATE, jumps=doses)
    amounts = np.array([1, 1, 2, 3, 4, 5.0])
    given = np.array([0, 0, 0.3, 0.3, 1.2, 2.0])
    exact = [np.sum(amounts * (given <= t) * np.exp(-RATE * (t - given))) for t in SPAN]
    np.testing.assert_allclose(sol.ys, exact, rtol=1e-3)
    field = jo.solve(decay, one(), TS, RATE, jumps=list(times))
    np.testing.assert_allclose(field.ys, np.exp(-RATE * SPAN), rtol=1e-3)


@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint", "reversible"])
def test_gradients(precision, sensitivity):
    def loss(y0, rate):
        return jo.solve(decay, y0, TS, rate, sensitivity=sensitivity).ys[2]

    gradient = jax.grad(loss, (0, 1))(one(), jnp.asarray(RATE))
    exact = np.exp(-RATE * 1.1)
    np.testing.assert_allclose(gradient, [exact, -1.1 * exact], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", few(REPRESENTATIVES, "kvaerno5", "bdf"))
def test_float64_times_of_float32_states(name):
    field, flow = linear(name)
    y0, order_one = jnp.array([1.0, 0.5], jnp.float32), name in ("euler", "semi_implicit_euler")
    options = {"solver": name, "rtol": 1e-5, "atol": 1e-7, **step_of(name, 0.01)}

    def ends(rate, ts):
        return jo.solve(field, y0, ts, rate, **options)

    def total(rate, ts):
        return jnp.sum(ends(rate, ts).ys)

    near, sol = SPAN.astype(np.float32), ends(RATE, TS)
    assert sol.ys.dtype == jnp.float32
    tolerance = 1e-2 if order_one else 1e-3
    np.testing.assert_allclose(sol.ys, flow(near, y0, RATE), rtol=tolerance, atol=tolerance)
    gradient, expected = jax.grad(total)(RATE, TS), jax.grad(total)(RATE, near)
    np.testing.assert_allclose(gradient, expected, rtol=tolerance)


def test_derivatives_by_times():
    def saved(ts):
        return jo.solve(decay, one(), ts, RATE).ys[2]

    gradient = jax.grad(saved)(TS)
    assert gradient.dtype == np.float64
    slope = RATE * np.exp(-RATE * 1.1)
    np.testing.assert_allclose(gradient, [slope, 0, -slope, 0], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(jax.jit(saved)(TS), np.exp(-RATE * 1.1), rtol=1e-3)


STARTS = np.array([T, T + 1e6, T - 3e7])
RATES = np.array([0.7, 0.2, 1.3], np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("own", few([True, False], False))
@pytest.mark.parametrize("solver", ["tsit5", pytest.param("rodas5p", marks=pytest.mark.slow)])
def test_batches(precision, own, solver):
    ts = (STARTS if own else np.full(3, T))[:, None] + SPAN
    times = ts if own else TS
    doses = jo.Jumps(ts[:, 1:2] + 0.1, lambda t, y, args: y + 1)
    options = {"in_axes": (0, 0 if own else None, 0), "solver": solver, "jumps": doses}

    def solve(rates):
        start = jnp.ones(3, jnp.float32)
        return jo.solve_batch(decay, start, times, rates, save="dense", **options)

    sol, rates = solve(jnp.asarray(RATES)), RATES[:, None]
    exact = np.exp(-rates * SPAN) + (SPAN > 0.4) * np.exp(-rates * (SPAN - 0.4))
    np.testing.assert_allclose(sol.ys, exact, rtol=1e-3)
    np.testing.assert_array_equal(sol.ts, times)
    np.testing.assert_allclose(sol(times[0][1] if own else T + 0.3)[0], exact[0, 1], rtol=1e-3)
    gradient = jax.grad(lambda rates: jnp.sum(solve(rates).y1))(jnp.asarray(RATES))
    np.testing.assert_allclose(
        gradient, -2 * np.exp(-RATES * 2) - 1.6 * np.exp(-RATES * 1.6), rtol=2e-3
    )


@pytest.mark.slow
def test_grids_and_other_drivers(precision):
    grid = jo.Grid(np.linspace(T, T + 2, 41))
    sol = jo.solve(decay, one(), TS, RATE, solver="rk4", controller=grid)
    exact = np.exp(-RATE * SPAN)
    np.testing.assert_allclose(sol.ys, exact, rtol=1e-3)
    np.testing.assert_allclose(
        jo.odeint(lambda y, t, rate: -rate * y, one(), TS, RATE), exact, rtol=1e-3
    )
    model = jo.NeuralODE(lambda y: -RATE * y, t0=T, t1=T + 2, rtol=1e-4)
    np.testing.assert_allclose(model(jnp.ones((2, 1), jnp.float32)), exact[-1], rtol=1e-3)
    jitted = jax.jit(lambda rate: jo.solve(decay, one(), TS, rate).ys)(RATE)
    np.testing.assert_allclose(jitted, exact, rtol=1e-3)
    vmapped = jax.vmap(lambda rate: jo.solve(decay, one(), TS, rate).ys)(RATES)
    np.testing.assert_allclose(vmapped[0], exact, rtol=1e-3)


def test_what_functions_receive_as_time(precision):
    """It is the nearest number of the state's dtype, and a warning tells how coarse that is."""
    near = 1e6 + SPAN  # where numbers of float32 are 1/16 apart

    def since(t, y, args):
        return t - 1e6

    with pytest.warns(jo.TimesWarning, match=r"read t in float32.*0\.0625 apart at 1000002"):
        both = lambda t, y, args: (t, y)  # noqa: E731
        times, ys = jo.solve(since, 0 * one(), near, save=both, solver="rk4", dt=0.1).ys
    np.testing.assert_allclose(ys, SPAN**2 / 2, atol=0.07)
    np.testing.assert_allclose(times - 1e6, SPAN, atol=0.04)

    with pytest.warns(jo.TimesWarning):
        seen = jo.Event(lambda t, y, args: t - (1e6 + 1), terminal=True)
        end = jo.solve(decay, one(), near, RATE, events=seen)
    assert abs(float(end.stats.t_reached) - 1e6 - 1) < 0.07
    with pytest.warns(jo.TimesWarning):
        doses = jo.Jumps([1e6 + 1], lambda t, y, args: t - 1e6 + 0 * y)
        np.testing.assert_allclose(
            jo.solve(lambda t, y, args: 0 * y, one(), near, jumps=doses).y1, 1, atol=0.04
        )


def test_a_jacobian_of_far_times(precision):
    solver = jo.Rodas5P(jac=lambda t, y, rate: -rate * jnp.eye(2, dtype=jnp.float32))
    sol = jo.solve(decay, jnp.ones(2, jnp.float32), TS, RATE, solver=solver)
    np.testing.assert_allclose(sol.ys[:, 0], np.exp(-RATE * SPAN), rtol=1e-3)


LATE = np.append(0.0, 864_000 + 0.1 * np.arange(4))  # where numbers of float32 are 1/16 apart


def test_saves_that_are_close_far_from_the_start():
    dose = jo.Jumps([864_000.0], lambda t, y, args: y + 1, saved="after")
    saved = jo.solve(decay, 0 * one(), LATE, 1.0, jumps=dose).ys[1:]
    np.testing.assert_allclose(saved, np.exp(-0.1 * np.arange(4)), rtol=1e-3)


def test_other_times_do_not_compile_again(precision):
    jo.solve(decay, one(), TS, RATE)
    for start in (T + 3.3e6, T - 1e7):
        assert compilations_of(jo.solve, decay, one(), start + SPAN, RATE) == 0


def test_a_solution_under_jit_keeps_its_origin():
    with jax.enable_x64(False):
        for ts in (TS, TS[::-1]):  # its first time
            origin: Any = jo.solve(decay, one(), ts, RATE, solver="euler", dt=0.1).origin
            assert origin.times(0.0) == ts[0]
        solve = jax.jit(lambda rate: jo.solve(decay, one(), TS[[0, 3]], rate, save="dense"))
        np.testing.assert_allclose(solve(RATE)(TS), np.exp(-RATE * SPAN), rtol=1e-3)


def test_a_grid_of_other_times_is_refused():
    with pytest.raises(jo.OptionError, match=r"Grid must run from .* = 1700000000 to"):
        jo.solve(decay, one(), TS, RATE, solver="rk4", controller=jo.Grid(TS + 0.5))


def test_the_message_of_a_failure_has_the_time(precision):
    with pytest.raises(jo.SolveError, match=r"MAX_STEPS: at t = 170000000\d\.\d"):
        jo.solve(decay, one(), TS, RATE, solver="rk4", dt=0.1, max_steps=5)
