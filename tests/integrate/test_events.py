"""Events: found where they are, handled once, and differentiated."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close, central
from tests.support.sweeps import few


def falling(t, y, p):
    return jnp.stack([y[1], -p["g"] * jnp.ones_like(t)])


BOUNCE = jo.Event(
    lambda t, y, p: y[0],
    direction="down",
    apply=lambda t, y, p: jnp.stack([y[0], -p["e"] * y[1]]),
)
POINT = {"h": jnp.array(5.0), "g": jnp.array(9.81), "e": jnp.array(0.8)}


def falls(t, y, args):
    return -1.0 + 0 * y


def decays(t, y, args):
    return -y


def rises(t, y, args):
    return jnp.ones_like(y)


def drop(p, end, **options: Any) -> Any:
    options = {"events": BOUNCE, "max_events": 16, **options}
    start = jnp.stack([p["h"], jnp.zeros_like(p["h"])])
    return jo.solve(falling, start, (0.0, end), p, **options)


def bounces(p, count):
    """When a dropped ball meets the ground, and how fast."""
    first = jnp.sqrt(2 * p["h"] / p["g"])
    flights = 2 * first * p["e"] ** jnp.arange(1, count)
    times = first + jnp.concatenate([jnp.zeros(1), jnp.cumsum(flights)])
    return times, -p["g"] * first * p["e"] ** jnp.arange(count)


def met(p, count, **options: Any):
    """The first `count` events of a solve that ends a little after them."""
    times, _ = bounces(jax.lax.stop_gradient(p), count + 1)
    end = (0.5 * (times[-1] + times[-2])).astype(p["h"].dtype)
    sol = drop(p, end, **options)
    return sol.events.ts[:count], sol.events.ys[:count, 1]


@pytest.mark.parametrize("solver", few(["tsit5", "dopri8", "rodas5p", "kvaerno5"], "tsit5"))
def test_ten_bounces(solver):
    times, speeds = bounces(POINT, 11)
    end = float(0.5 * (times[-1] + times[-2]))
    sol = drop(POINT, end, solver=solver, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(sol.events.ts[:10], times[:10], rtol=1e-9)
    np.testing.assert_allclose(sol.events.ys[:10, 1], speeds[:10], rtol=1e-9)
    np.testing.assert_array_equal(sol.events.index, [0] * 10 + [-1] * 6)
    assert sol.events.count == 10


@pytest.mark.parametrize("mode", few(["discrete", "forward", "thinned", "stages"], "discrete"))
def test_times_and_states_of_ten_bounces_have_the_derivatives_of_their_closed_form(mode):
    ways = {
        "thinned": jo.Discrete(memory=4),
        "stages": jo.Discrete(memory="stages"),
        "forward": jo.Forward(),
    }
    jacobian = jax.jacfwd if mode == "forward" else jax.jacrev
    options = {"sensitivity": ways.get(mode, "discrete"), "max_steps": 256}
    got = jax.jit(jacobian(lambda p: met(p, 10, **options)))(POINT)
    expected = jax.jit(jax.jacfwd(lambda p: bounces(p, 10)))(POINT)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("save", few(["ts", "steps", "dense"], "ts"))
def test_the_gradient_behind_a_jump_equals_differences(save):
    def loss(p):
        sol = drop(p, 3.0, save=save, rtol=1e-9, atol=1e-9)
        end = sol.y1 if save != "ts" else sol.ys[-1]
        return end[0] + jnp.sin(end[1])

    assert_close(jax.jit(jax.grad(loss))(POINT), central(loss, POINT, 1e-4), 1e-7)


def test_a_terminal_event_ends_the_solve():
    low = jo.Event(lambda t, y, p: y[0] < 1.0, terminal=True)
    sol = drop(POINT, 30.0, events=(BOUNCE, low))
    assert sol.success
    np.testing.assert_allclose(sol.stats.t_reached, np.sqrt(2 * 4 / 9.81), rtol=1e-12)
    np.testing.assert_allclose(sol.y1[0], 1.0, rtol=1e-12)
    assert list(sol.events.index[:2]) == [1, -1]


def test_several_events_in_one_step_are_told_in_order():
    """A step of 3 over sines that cross in turn, one of them both ways."""
    events = [jo.Event(lambda t, y, a, c=c: t - c) for c in (2.2, 0.7, 1.1)]
    sol: Any = jo.solve(rises, 0.0, (0.0, 3.0), events=events, solver="rk4", dt=3.0)
    np.testing.assert_allclose(sol.events.ts[:3], [0.7, 1.1, 2.2], rtol=1e-14)
    np.testing.assert_allclose(sol.events.ys[:3], [0.7, 1.1, 2.2], rtol=1e-14)
    assert list(sol.events.index[:4]) == [1, 2, 0, -1]
    assert sol.stats.num_steps == 1


@pytest.mark.parametrize(
    ("direction", "expected"), [("up", [1, 3]), ("down", [2]), ("both", [1, 2, 3])]
)
def test_directions_are_those_in_which_the_solve_runs(direction, expected):
    event = jo.Event(lambda t, y, a: -jnp.sin(jnp.pi * jnp.abs(t)), direction=direction)
    for sign in (1.0, -1.0):
        sol: Any = jo.solve(decays, 1.0, (0.5 * sign, 3.5 * sign), events=event)
        count = len(expected)
        assert sol.events.count == count
        np.testing.assert_allclose(sol.events.ts[:count], sign * np.array(expected), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"max_events": 300}, jo.Status.EVENTS_ACCUMULATE),
        ({"max_events": 10}, jo.Status.TOO_MANY_EVENTS),
    ],
)
def test_a_ball_that_comes_to_rest_is_a_status_with_its_time(options, status):
    sol = drop(POINT, 30.0, throw=False, **options)
    rest = np.sqrt(2 * 5 / 9.81) * (1 + 0.8) / (1 - 0.8)
    assert sol.status == status
    assert np.all(np.isnan(sol.y1))
    assert sol.stats.t_reached < rest + 1e-6
    if status == jo.Status.TOO_MANY_EVENTS:
        times, _ = bounces(POINT, options["max_events"] + 1)
        np.testing.assert_allclose(sol.stats.t_reached, times[-1], rtol=1e-6)
    with pytest.raises(jo.SolveError, match="events"):
        drop(POINT, 30.0, **options)


@pytest.mark.slow
def test_a_terminal_event_leaves_what_comes_after_it_unsaved():
    low = jo.Event(lambda t, y, a: y - 0.5, terminal=True, apply=lambda t, y, a: y + 7.0)
    ts = jnp.linspace(0.0, 2.0, 9)
    sol: Any = jo.solve(decays, 1.0, ts, events=low, save="dense", rtol=1e-9, atol=1e-9)
    assert sol.success
    assert sol.events.terminated
    np.testing.assert_allclose(sol.ys[:3], np.exp(-ts[:3]), rtol=1e-7)
    assert np.all(np.isnan(sol.ys[3:]))
    assert np.isnan(sol(0.7))
    np.testing.assert_allclose(sol(0.69), np.exp(-0.69), rtol=1e-7)
    np.testing.assert_allclose(sol.y1, 7.5, rtol=1e-9)
    ends = jo.solve(decays, 1.0, (0.0, 2.0), events=low)
    assert np.isnan(ends.ys[1])


def test_a_boolean_that_is_true_from_the_start_ends_the_solve_there():
    high = jo.Event(lambda t, y, a: y > 0.5, terminal=True)
    sol: Any = jo.solve(decays, 1.0, (0.0, 2.0), events=high)
    assert sol.events.terminated
    np.testing.assert_allclose(sol.stats.t_reached, 0.0, atol=1e-12)
    np.testing.assert_allclose(sol.y1, 1.0)
    low = jo.Event(lambda t, y, a: y > 0.5, direction="down")
    sol: Any = jo.solve(decays, 1.0, (0.0, 2.0), events=low, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sol.events.ts[0], np.log(2), rtol=1e-8)


@pytest.mark.parametrize("order", few([[0, 1, 2], [2, 1, 0], [1, 2, 0]], [2, 1, 0]))
def test_events_at_one_time_are_all_met(order):
    """Two balls that fall as one, and an event that only looks on."""

    def bounce(i):
        def apply(t, y, p):
            return y.at[2 * i + 1].multiply(-0.9)

        return jo.Event(lambda t, y, p: y[2 * i], direction="down", apply=apply)

    events = [bounce(0), bounce(1), jo.Event(lambda t, y, p: y[0], direction="down")]
    field = lambda t, y, p: jnp.stack([y[1], -9.81 + 0 * t, y[3], -9.81 + 0 * t])  # noqa: E731
    start = jnp.array([1.0, 0.0, 1.0, 0.0])
    sol: Any = jo.solve(field, start, (0.0, 3.0), events=[events[i] for i in order], rtol=1e-8)
    assert sol.events.count == 12
    times = np.asarray(sol.events.ts[:12]).reshape(4, 3)
    np.testing.assert_allclose(times, times[:, :1] + np.zeros(3), rtol=1e-12)
    np.testing.assert_array_equal(np.sort(sol.events.index[:12].reshape(4, 3), axis=1)[:, 2], 2)
    np.testing.assert_allclose(sol.y1[:2], sol.y1[2:], rtol=1e-9)
    flight = 2 * np.sqrt(2 / 9.81) * 0.9 ** np.arange(4)
    since, speed = 3.0 - flight[0] / 2 - np.sum(flight[1:]), 0.9**4 * np.sqrt(2 * 9.81)
    np.testing.assert_allclose(sol.y1[0], speed * since - 9.81 / 2 * since**2, rtol=1e-7)


def test_what_a_jump_takes_across_zero_is_met_then():
    """A customer takes all that is left at once, and so the next delivery is ordered."""
    sale = jo.Event(lambda t, y, a: t - 1.0, apply=lambda t, y, a: y - 3.0)
    order = jo.Event(lambda t, y, a: y - 1.0, direction="down", apply=lambda t, y, a: y + 10.0)
    for events in ([sale, order], [order, sale]):
        sol: Any = jo.solve(lambda t, y, a: -0.1 + 0 * y, 3.0, (0.0, 2.0), events=events)
        assert sol.events.count == 2
        np.testing.assert_allclose(sol.events.ts[:2], 1.0, rtol=1e-12)
        np.testing.assert_allclose(sol.events.ys[:2], [2.9, -0.1], rtol=1e-9)
        np.testing.assert_allclose(sol.y1, 9.8, rtol=1e-9)


def test_jumps_that_call_each_other_forever_are_a_status():
    down = jo.Event(lambda t, y, a: y + 0.5, direction="down", apply=lambda t, y, a: 1.0 + 0 * y)
    up = jo.Event(lambda t, y, a: y - 0.5, direction="up", apply=lambda t, y, a: -1.0 + 0 * y)
    sol: Any = jo.solve(falls, 0.0, (0.0, 1.0), events=[down, up], throw=False)
    assert sol.status == jo.Status.EVENTS_ACCUMULATE
    np.testing.assert_allclose(sol.stats.t_reached, 0.5, rtol=1e-12)


def test_a_condition_that_becomes_nan_is_a_status_with_its_time():
    event = jo.Event(lambda t, y, a: jnp.sqrt(y - 0.5) + 0.1)
    with pytest.raises(jo.SolveError, match=r"EVENT_NOT_FINITE: at t = .*became NaN"):
        jo.solve(falls, 1.0, (0.0, 1.0), events=event)
    with pytest.raises(jo.SolveError, match="EVENT_NOT_FINITE: at t = 0 "):
        jo.solve(falls, 0.1, (0.0, 1.0), events=event)
    sol = jo.solve_batch(falls, jnp.array([1.0, 2.0]), (0.0, 1.0), events=event)
    np.testing.assert_array_equal(sol.status, [jo.Status.EVENT_NOT_FINITE, 0])


def test_what_is_applied_may_not_be_nan():
    event = jo.Event(lambda t, y, a: t - 0.5, apply=lambda t, y, a: jnp.log(-y))
    with pytest.raises(jo.SolveError, match=r"NOT_FINITE: at t = 0\.5"):
        jo.solve(lambda t, y, a: 0 * y, 1.0, (0.0, 1.0), events=event)


def test_a_state_of_several_arrays():
    event = jo.Event(
        lambda t, y, a: y["x"],
        direction="down",
        apply=lambda t, y, a: {"x": y["x"], "v": -y["v"]},
    )
    field = lambda t, y, a: {"x": y["v"], "v": -jnp.ones_like(y["v"])}  # noqa: E731
    start = {"x": jnp.array(0.5), "v": jnp.array(0.0)}
    sol: Any = jo.solve(field, start, (0.0, 4.0), events=event, max_events=8)
    assert sol.events.ys["v"].shape == (8,)
    np.testing.assert_allclose(sol.events.ts[:2], [1.0, 3.0], rtol=1e-9)
    np.testing.assert_allclose(sol.y1["x"], 0.5, rtol=1e-8)


def test_the_start_lies_on_the_surface():
    """A ball that is thrown up from the ground has not just hit it."""
    sol: Any = jo.solve(falling, jnp.array([0.0, 5.0]), (0.0, 1.5), POINT, events=BOUNCE)
    np.testing.assert_allclose(sol.events.ts[0], 10 / 9.81, rtol=1e-10)
    assert sol.events.count == 1


def test_the_field_evaluations_of_new_beginnings_are_counted():
    calls = []

    def field(t, y, p):
        jax.debug.callback(lambda: calls.append(1))
        return falling(t, y, p)

    start = jnp.array([5.0, 0.0])
    sol: Any = jo.solve(field, start, (0.0, 2.0), POINT, events=BOUNCE, rtol=1e-8)
    jax.effects_barrier()
    assert sol.events.count == 1
    # Two slopes more are for the signs of the conditions.
    assert abs(len(calls) - int(sol.stats.num_evaluations)) <= 3


@pytest.mark.parametrize("solver", few(["tsit5", "rodas5p", "rk4"], "tsit5"))
def test_a_solve_that_has_converged_ends_in_any_unit_of_time(solver):
    """From its start to within the tolerance of rest, and where it is at rest already at once."""

    @jax.jit
    def run(start, unit):
        options = {"dt": unit / 64, "max_steps": 3000} if solver == "rk4" else {}
        sol: Any = jo.solve(
            lambda t, y, a: (3.0 - y) / a, jnp.full(2, start), (0.0, 40 * unit), unit,
            solver=solver, events=jo.AtRest(), **options,
        )  # fmt: skip
        return sol.y1, sol.stats.t_reached / unit, sol.events.terminated, sol.stats.num_steps

    for unit in (1e-6, 1.0, 1e6, 1e12):
        y1, t, terminated, _ = run(1.0, unit)
        assert terminated
        np.testing.assert_allclose(y1, 3.0, rtol=1.01e-4)  # both tolerances of rest, 1e-4 and 1e-6
        assert 7 < t < 20  # ln of the distance over the tolerance is 8.8
        y1, t, terminated, steps = run(3.0, unit)
        assert terminated
        assert (t, steps) == (0.0, 0)
        np.testing.assert_array_equal(y1, 3.0)


def test_a_slow_component_is_seen_behind_a_fast_one():
    """An explicit solver creeps: in no step of its does the state change by a tolerance."""

    def field(t, y, k):
        return jnp.stack([-k * (y[0] - y[1]), 0.1 * (1 - y[1])])

    with pytest.warns(jo.StiffnessWarning):
        sol: Any = jo.solve(field, jnp.zeros(2), (0.0, 400.0), 100.0, events=jo.AtRest())
    assert sol.events.terminated
    np.testing.assert_allclose(sol.y1, 1.0, rtol=1e-3)


def test_what_is_true_at_the_start_ends_the_solve_before_a_step():
    """However long the first step would be; the map of the event still applies."""
    below = jo.Event(lambda t, y, a: y < 0, terminal=True, apply=lambda t, y, a: a * y)
    rest = jo.AtRest()

    def run(y0, a, ts, events, rate=1.0, save: Any = "ts"):
        field = lambda t, y, a: rate * (t if rate == 100.0 else 1.0) + 0 * y  # noqa: E731
        return jo.solve(field, y0, ts, a, events=events, dt=0.5, save=save)

    ts = jnp.array([0.0, 1.0, 2.0])
    for save in ("ts", "steps", "dense"):
        sol: Any = run(-0.1, 3.0, ts, [rest, below], save=save)
        assert (sol.y1, sol.stats.num_steps, sol.stats.t_reached) == (-0.1 * 3.0, 0, 0.0)
        assert (sol.events.count, sol.events.index[0], sol.events.ts[0]) == (1, 1, 0.0)
        assert sol.events.terminated
        assert sol.ys[0] == sol.events.ys[0] == -0.1
        assert np.all(np.isnan(sol.ys[1:]))
    sol = run(1.0, 3.0, ts, rest, rate=100.0)
    assert (sol.y1, sol.stats.num_steps, sol.stats.t_reached) == (1.0, 0, 0.0)

    def told(y0, a, ts):
        sol: Any = run(y0, a, ts, below)
        return sol.y1 + 10 * sol.events.ts[0] + 100 * sol.events.ys[0]

    got = jax.jit(jax.grad(told, argnums=(0, 1, 2)))(-0.1, 3.0, ts)
    assert got[:2] == (103.0, pytest.approx(-0.1))
    np.testing.assert_array_equal(got[2], [10.0, 0.0, 0.0])


@pytest.mark.slow
def test_lanes_that_are_finished_at_their_start():
    """Some, at any place of the queue, and all of them."""
    below = jo.Event(lambda t, y, a: y < 0, terminal=True, apply=lambda t, y, a: a * y)

    def total(y0, a):
        sol: Any = jo.solve_batch(
            lambda t, y, a: a + 0 * y, y0, (0.0, 2.0), a, events=below, dt=0.5, lanes=2
        )
        return jnp.sum(sol.y1), sol

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    y0 = jnp.array([-0.1, 1.0, -0.2, -0.3, 2.0])
    (_, sol), (by_y0, by_a) = run(y0, 3.0)
    np.testing.assert_allclose(sol.y1, [-0.3, 7.0, -0.6, -0.9, 8.0], rtol=1e-12)
    np.testing.assert_array_equal(sol.events.count, [1, 0, 1, 1, 0])
    np.testing.assert_allclose(by_y0, [3.0, 1.0, 3.0, 3.0, 1.0])
    np.testing.assert_allclose(by_a, -0.6 + 4.0)
    (_, sol), _ = run(-jnp.abs(y0), 3.0)
    np.testing.assert_array_equal(sol.stats.num_steps, 0)


def test_the_gradient_of_a_state_at_rest_is_that_of_the_root():
    def root(a):
        events = jo.AtRest(1e-9, 1e-9)
        field = lambda t, y, a: a - y**3  # noqa: E731
        return jo.solve(field, 1.0, (0.0, 1e3), a, events=events, rtol=1e-8, atol=1e-9).y1

    np.testing.assert_allclose(jax.jit(jax.grad(root))(2.0), 2 ** (-2 / 3) / 3, rtol=1e-6)


def test_a_flow_in_two_parts_comes_to_rest():
    parts = (lambda t, y, a: -50 * y, lambda t, y, a: 50.0 + 0 * y)
    sol: Any = jo.solve(parts, 0.0, (0.0, 1e3), solver="kencarp4", events=jo.AtRest())
    assert sol.events.terminated
    np.testing.assert_allclose(sol.y1, 1.0, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("solver", few(["tsit5", "dopri8", "vern7", "rodas5p"], "dopri8"))
def test_a_root_is_zero_however_much_rounding_the_dense_output_has(solver):
    """Met in both directions, a condition that the map left alone is not met again at once."""
    floor = jo.Event(BOUNCE.condition, apply=BOUNCE.apply)
    heights = jnp.linspace(0.5, 1.5, 200)
    starts = jnp.stack([heights, 0 * heights], 1)
    options: Any = {"events": floor, "solver": solver, "rtol": 1e-8, "atol": 1e-8}
    sol: Any = jo.solve_batch(falling, starts, (0.0, 1.0), POINT, **options)
    times = jax.vmap(lambda h: bounces(POINT | {"h": h}, 12)[0])(heights)
    np.testing.assert_array_equal(sol.events.count, jnp.sum(times < 1.0, axis=1))


@pytest.mark.slow
def test_backwards_in_time_an_event_is_met_once():
    """With every way of asking: at a time, by both directions, and from the surface itself."""
    event = jo.Event(lambda t, y, a: t - a, apply=lambda t, y, a: y + 5)
    for time in (0.25, 0.3):
        sol: Any = jo.solve(rises, 1.0, (1.0, 0.0), time, events=event)
        assert sol.events.count == 1
        np.testing.assert_allclose(sol.y1, 5.0)
    start = jo.Event(lambda t, y, a: t - 1.0)
    sol = jo.solve(rises, 1.0, (1.0, 0.0), events=start)
    assert sol.events.count == 0
    both = jo.Event(lambda t, y, p: y[0], apply=lambda t, y, p: jnp.stack([y[0], -y[1] / p["e"]]))

    def end(p):
        start = jnp.stack([p["h"], -2.0 * jnp.ones_like(p["h"])])
        return jo.solve(falling, start, (0.0, -1.5), p, events=both, rtol=1e-9, atol=1e-9).y1[0]

    assert_close(jax.jit(jax.grad(end))(POINT), central(end, POINT, 1e-4), 1e-7)


@functools.cache
def derivatives_of_an_order(mode: str) -> Callable:
    """End, time and state of an order that a sale causes, differentiated by time and size of it."""
    sale = jo.Event(lambda t, y, p: t - p[0], apply=lambda t, y, p: y - p[1])
    order = jo.Event(lambda t, y, p: y - 1.0, direction="down", apply=lambda t, y, p: y + 5.0 * t)

    def seen(p):
        field = lambda t, y, p: -0.1 + 0 * y  # noqa: E731
        events = [sale, order]
        sol: Any = jo.solve(field, 3.0, (0.0, 2.0), p, events=events, sensitivity=mode)
        return jnp.stack([sol.y1, sol.events.ts[1], sol.events.ys[1]])

    jacobian = jax.jacfwd if mode == "forward" else jax.jacrev
    return jax.jit(jacobian(seen))


@pytest.mark.parametrize("over", [1.0, 1e-2, 1e-5])
@pytest.mark.parametrize("mode", ["discrete", "forward"])
def test_what_a_jump_takes_across_zero_moves_with_the_jump(mode, over):
    """However little it is taken across."""
    got = derivatives_of_an_order(mode)(jnp.array([1.0, 1.9 + over]))
    np.testing.assert_allclose(got, [[5.0, -1.0], [1.0, 0.0], [-0.1, -1.0]], atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("save", few(["ts", "steps"], "steps"))
def test_both_modes_agree_where_events_cut_steps(save):
    """The times and states of steps, with the last step drawn out to the end and cut."""
    event = jo.Event(lambda t, y, a: y - 0.5, direction="down", apply=lambda t, y, a: y + a)

    def loss(p, mode):
        field = lambda t, y, a: -1.1 * y + 0.1 * jnp.sin(t)  # noqa: E731
        sol: Any = jo.solve(
            field, p[0], (0.0, p[1]), p[2], events=event, save=save, sensitivity=mode, max_steps=64
        )
        weights = jnp.cos(jnp.arange(sol.ys.shape[0]))
        times = jnp.nansum(sol.events.ts**2) + jnp.nansum(sol.ts**2)
        return jnp.nansum(jnp.sin(sol.ys) * weights) + times + sol.y1

    point = jnp.array([1.3, 2.0, 0.7])
    got = jax.jit(jax.grad(lambda p: loss(p, "discrete")))(point)
    # Step sizes come from error estimates, which two programs round differently.
    bound = 1e-7 if save == "steps" else 1e-9
    assert_close(got, jax.jit(jax.jacfwd(lambda p: loss(p, "forward")))(point), bound)


def test_the_time_that_a_terminal_event_ends_at_has_its_derivative():
    half = jo.Event(lambda t, y, a: y - 0.5, terminal=True)

    def end(rate):
        field = lambda t, y, a: -a * y  # noqa: E731
        sol = jo.solve(field, 1.0, (0.0, 9.0), rate, events=half, rtol=1e-9, atol=1e-9)
        return sol.stats.t_reached

    np.testing.assert_allclose(jax.jit(jax.grad(end))(1.0), -np.log(2), rtol=1e-7)


def test_a_crossing_just_before_the_end_is_met_in_float32():
    event = jo.Event(lambda t, y, a: y)
    field = lambda t, y, a: -1000.0 + 0 * y  # noqa: E731
    for end, dt in ((1.00005, 2.0), (3.0, 1.00005)):
        sol: Any = jo.solve(field, jnp.float32(1000), (0.0, end), events=event, solver="rk4", dt=dt)
        assert sol.events.count == 1
        np.testing.assert_allclose(sol.events.ts[0], 1.0, rtol=1e-6)


def test_a_condition_that_rounding_flattens_is_met_once():
    # Zero from -0.2 to -0.05; a step ends at -0.1.
    flat = jo.Event(lambda t, y, a: jnp.where(y < -0.2, y + 0.2, jnp.maximum(y + 0.05, 0.0)))
    field = lambda t, y, a: jnp.ones_like(y)  # noqa: E731
    options = {"events": flat, "solver": "rk4", "dt": 0.3}
    sol: Any = jo.solve(field, -1.0, (0.0, 2.1), **options)
    batch: Any = jo.solve_batch(field, jnp.array([-1.0, -1.01]), (0.0, 2.1), **options)
    assert sol.events.count == 1
    assert 0.8 <= sol.events.ts[0] <= 0.95
    np.testing.assert_array_equal(batch.events.count, 1)


def test_reversible_steps_are_refused_by_name():
    with pytest.raises(jo.OptionError, match="does not differentiate through events"):
        drop(POINT, 3.0, sensitivity="reversible")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (
            lambda: jo.Event(lambda t, y, a: y[None]),
            r"must return one real number.*float64\[1, 2\]",
        ),
        (lambda: jo.Event(lambda t, y, a: jnp.int32(1)), "must return one real number.*int"),
        (lambda: jo.Event("ground"), "condition of jo.Event must be a function"),  # pyright: ignore
        (lambda: jo.Event(lambda y: y[0]), "calling condition"),  # pyright: ignore
        (lambda: jo.Event(lambda t, y, a: t, apply=lambda t, y, a: y[0]), "apply.*has shape"),
        (lambda: lambda t, y, a: t, "events= takes jo.Event"),
    ],
)
def test_events_that_do_not_fit_are_refused(event, message):
    with pytest.raises(jo.EventError, match=message):
        drop(POINT, 1.0, events=event())


def test_an_unknown_direction_is_refused():
    with pytest.raises(jo.OptionError, match="did you mean 'up'"):
        jo.Event(lambda t, y, a: t, direction="upp")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("most", [0, -1, 2.5, True])
def test_a_log_has_a_whole_number_of_rows(most):
    with pytest.raises(jo.OptionError, match="max_events must be an integer of at least 1"):
        drop(POINT, 1.0, max_events=most)


# The large coefficients of Tsit5 round more. These are the numbers of docs/events.md.
ROUNDING = {"tsit5": 3e-4, "dopri5": 5e-5, "kvaerno5": 5e-5}


@pytest.mark.slow
@pytest.mark.parametrize("solver", ROUNDING)
def test_ten_bounces_in_float32(solver):
    """Times, speeds and their derivatives by height, gravity and restitution."""
    point = jax.tree.map(lambda x: x.astype(jnp.float32), POINT)
    options = {"rtol": 1e-5, "atol": 1e-6, "max_steps": 256, "solver": solver}

    def twice(p):
        values = met(p, 10, **options)
        return values, values

    slopes, values = jax.jit(jax.jacrev(twice, has_aux=True))(point)
    assert values[0].dtype == jnp.float32
    expected = bounces(POINT, 10)
    for one, two in zip(values, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=ROUNDING[solver])
    wanted = jax.jit(jax.jacfwd(lambda p: bounces(p, 10)))(POINT)
    for one, two in zip(jax.tree.leaves(slopes), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=ROUNDING[solver] * np.max(np.abs(two)))
