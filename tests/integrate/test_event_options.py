"""Events by number and in vectors, the limit on their number, and solves without a last time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close
from tests.support.sweeps import few


def rises(t, y, args):
    return jnp.ones_like(y)


def decays(t, y, args):
    return -args * y


def falling(t, y, p):
    return jnp.stack([y[1], -p["g"] * jnp.ones_like(t)])


def bounced(t, y, p):
    return jnp.stack([y[0], -p["e"] * y[1]])


BALL = {"g": jnp.array(9.81), "e": jnp.array(0.8)}
START = jnp.array([5.0, 0.0])
EXACT: Any = {"rtol": 1e-9, "atol": 1e-9}


def bounce_times(h, p, count):
    """When a ball that is dropped from `h` meets the ground."""
    first = jnp.sqrt(2 * h / p["g"])
    return first + jnp.cumsum(2 * first * p["e"] ** jnp.arange(count)) - 2 * first


# Directions.


@pytest.mark.parametrize(
    ("number", "name"), [(-1, "down"), (0, "both"), (1, "up"), (np.int64(1), "up")]
)
def test_a_direction_is_a_sign_too(number, name):
    assert jo.Event(lambda t, y, a: y, direction=number).direction == name


@pytest.mark.parametrize("direction", [2, -2, True, 0.5, "sideways", None, [1]])
def test_other_directions_are_refused(direction):
    with pytest.raises(jo.OptionError, match=r"no direction of jo\.Event called"):
        jo.Event(lambda t, y, a: y, direction=direction)


# The occurrence that ends a solve.


@pytest.mark.parametrize("terminal", [0, -1, 1.0, "yes", None])
def test_terminal_is_a_flag_or_a_positive_number(terminal):
    with pytest.raises(jo.EventError, match="number of occurrences after which the solve ends"):
        jo.Event(lambda t, y, a: y, terminal=terminal)


def third_crossing(**options: Any) -> Any:
    """A solve whose events are at 0.5, 1.5, 2.5, of which the third ends it."""
    wave = jo.Event(lambda t, y, a: jnp.cos(jnp.pi * t), **options)
    return jo.solve(rises, 0.0, (0.0, 9.0), events=wave, max_steps=64, dt=0.4, solver="rk4")


def test_the_nth_occurrence_ends_the_solve():
    sol = third_crossing(terminal=3)
    assert sol.success and sol.events.terminated
    np.testing.assert_allclose(sol.events.ts[:4], [0.5, 1.5, 2.5, np.nan], rtol=1e-12)
    np.testing.assert_allclose([sol.stats.t_reached, sol.y1], 2.5, rtol=1e-12)
    # Those before it cut no step: the seventh ends at 2.8, beyond the third crossing.
    assert sol.stats.num_steps == 7
    down = third_crossing(terminal=np.int64(2), direction="down")
    np.testing.assert_allclose(down.stats.t_reached, 2.5, rtol=1e-12)


@functools.cache
def drop(count: int, sensitivity: str = "discrete"):
    """Compiled: the events of a ball that is dropped, up to bounce number `count`."""
    ground = jo.Event(lambda t, y, p: y[0], direction=-1, apply=bounced, terminal=count)
    seen = jo.Event(lambda t, y, p: y[0] - 1.0)

    def solve(p):
        options: Any = {"events": [seen, ground], "max_events": 16, "max_steps": 128, **EXACT}
        return jo.solve(falling, START, (0.0, jnp.inf), p, sensitivity=sensitivity, **options)

    return solve


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(["discrete", "forward"], "discrete"))
def test_the_time_of_the_nth_bounce_has_its_derivative(mode):
    jacobian = jax.jacfwd if mode == "forward" else jax.jacrev

    def ends(p):
        sol: Any = drop(3, mode)(p)
        return sol.stats.t_reached, sol.y1[1], (sol.events.count, sol.events.terminated)

    def closed(p):
        t = bounce_times(START[0], p, 3)[2]
        return t, p["g"] * jnp.sqrt(2 * START[0] / p["g"]) * p["e"] ** 3

    got = jax.jit(lambda p: (ends(p), jacobian(lambda p: ends(p)[:2])(p)))(BALL)
    assert_close(got[0][:2], closed(BALL), 1e-8)
    assert got[0][2] == (8, True)
    assert_close(got[1], jax.jacfwd(closed)(BALL), 1e-7)


def test_each_trajectory_counts_for_itself():
    p = {"g": BALL["g"], "e": jnp.array([0.5, 0.8, 0.9])}
    ground = jo.Event(lambda t, y, p: y[0], direction=-1, apply=bounced, terminal=4)
    sols: Any = jo.solve_batch(
        falling, START, (0.0, jnp.inf), p, in_axes=(None, None, {"g": None, "e": 0}),
        events=ground, max_events=8, max_steps=128, lanes=2, **EXACT,
    )  # fmt: skip
    assert np.all(sols.success) and np.all(sols.events.terminated)
    expected = [bounce_times(START[0], {"g": 9.81, "e": e}, 4)[3] for e in p["e"]]
    np.testing.assert_allclose(sols.stats.t_reached, expected, rtol=1e-8)
    np.testing.assert_array_equal(sols.events.count, 4)


def test_a_boolean_that_is_true_at_the_start_has_not_occurred():
    low = jo.Event(lambda t, y, a: jnp.cos(jnp.pi * t) > 0, terminal=2)
    sol: Any = jo.solve(rises, 0.0, (0.0, 9.0), events=low, dt=0.4, solver="rk4", max_steps=64)
    np.testing.assert_allclose(sol.events.ts[:2], [1.5, 3.5], rtol=1e-12)
    assert sol.events.terminated


# Vectors of conditions.

LEVELS = jnp.array([0.7, 2.2, 1.1])


def test_the_entries_of_a_vector_are_events_of_their_own():
    many = jo.Event(lambda t, y, a: y - LEVELS)
    one = jo.Event(lambda t, y, a: y - 1.5)
    sol: Any = jo.solve(rises, 0.0, (0.0, 3.0), events=[one, many], dt=3.0, solver="rk4")
    np.testing.assert_allclose(sol.events.ts[:4], [0.7, 1.1, 1.5, 2.2], rtol=1e-12)
    np.testing.assert_array_equal(sol.events.index[:5], [1, 1, 0, 1, -1])
    np.testing.assert_array_equal(sol.events.entry[:5], [0, 2, 0, 1, -1])
    assert sol.events.sizes == (1, 3)
    assert sol.stats.num_steps == 1


def walls(p, together: bool) -> Any:
    """A ball between two walls, whose events are the entries of one vector or two events."""

    def reflect(t, y, args, entry):
        return jnp.stack([y[0], jnp.where(entry == 0, args["left"], args["right"]) * y[1]])

    if together:
        sides = [jo.Event(lambda t, y, a: jnp.stack([y[0], 1 - y[0]]), "down", reflect)]
    else:
        sides = [
            jo.Event(
                lambda t, y, a, i=i: (y[0], 1 - y[0])[i],
                "down",
                lambda t, y, a, i=i: reflect(t, y, a, i),
            )
            for i in (0, 1)
        ]
    field = lambda t, y, a: jnp.stack([y[1], 0 * y[1]])  # noqa: E731
    start = jnp.array([0.3, 1.0])
    return jo.solve(field, start, (0.0, 4.0), p, events=sides, max_events=8, max_steps=64, **EXACT)


@pytest.mark.slow
def test_a_state_map_is_given_the_entry():
    p = {"left": jnp.array(-0.9), "right": jnp.array(-0.7)}

    def told(p, together):
        sol = walls(p, together)
        number = sol.events.entry if together else sol.events.index
        return (sol.y1, sol.events.of(0).ts if together else None), (sol.events.ts, number)

    one = jax.jit(jax.jacrev(lambda p: told(p, True), has_aux=True))(p)
    two = jax.jit(jax.jacrev(lambda p: told(p, False), has_aux=True))(p)
    assert_close(one[0][0], two[0][0], 1e-9)
    np.testing.assert_allclose(one[1][0][:3], two[1][0][:3], rtol=1e-9)
    np.testing.assert_array_equal(one[1][1], two[1][1])
    # To the right wall, back to the left one and to the right again.
    np.testing.assert_allclose(one[1][0][:3], 0.7 + np.cumsum([0, 1 / 0.7, 1 / 0.63]), rtol=1e-9)
    np.testing.assert_array_equal(one[1][1][:4], [1, 0, 1, -1])
    derivative = {"right": 1 / 0.7**2, "left": 0.0}
    for name, value in derivative.items():
        np.testing.assert_allclose(one[0][1][name][1], value, rtol=1e-7, atol=1e-9)


def test_occurrences_of_entries_are_counted_apart():
    waves = jo.Event(lambda t, y, a: jnp.cos(jnp.pi * t * jnp.array([1.0, 0.8])), terminal=3)
    sol: Any = jo.solve(rises, 0.0, (0.0, 9.0), events=waves, dt=0.3, solver="rk4", max_steps=64)
    np.testing.assert_allclose(sol.stats.t_reached, 2.5, rtol=1e-12)
    np.testing.assert_array_equal(sol.events.entry[:6], [0, 1, 0, 1, 0, -1])


def test_vectors_in_lanes_are_those_of_single_solves():
    many = jo.Event(lambda t, y, a: jnp.stack([y - 0.5, y - a["level"]]))
    rates = {"level": jnp.array([0.2, 0.3, 0.7, 0.9])}

    def field(t, y, a):
        return -y

    options: Any = {"events": many, "max_events": 3, "max_steps": 64, **EXACT}
    sols: Any = jo.solve_batch(
        field, 1.0, (0.0, 2.0), rates, in_axes=(None, None, 0), lanes=3, **options
    )
    half, own = np.log(2), -np.log(rates["level"])
    np.testing.assert_allclose(sols.events.of(0, 0).ts[:, 0], half, rtol=1e-8)
    np.testing.assert_allclose(sols.events.of(0, 1).ts[:, 0], own, rtol=1e-8)
    np.testing.assert_array_equal(
        sols.events.entry[:, :2], np.where(own < half, 1, 0)[:, None] ^ [0, 1]
    )


@pytest.mark.parametrize(
    "condition",
    [
        lambda t, y, a: jnp.zeros((2, 2)),
        lambda t, y, a: jnp.zeros(0),
        lambda t, y, a: jnp.arange(2),
        lambda t, y, a: 1j * y,
        lambda t, y, a: None,
    ],
)
def test_other_conditions_are_refused(condition):
    with pytest.raises(jo.EventError, match=r"condition\(t, y, args\) of jo.Event"):
        jo.solve(rises, jnp.asarray(0.0), (0.0, 1.0), events=jo.Event(condition))


# The limit on the number of events.


def test_after_the_last_row_no_event_is_looked_for():
    wave = jo.Event(lambda t, y, a: jnp.cos(jnp.pi * t))
    end = jo.Event(lambda t, y, a: t - 4.0, terminal=True)
    options: Any = {"max_events": 2, "dt": 0.3, "solver": "rk4", "max_steps": 64}
    sol: Any = jo.solve(rises, 0.0, (0.0, 6.0), events=[wave, end], overflow="stop", **options)
    assert sol.success and not sol.events.terminated
    assert sol.events.count == 2
    np.testing.assert_allclose(sol.events.ts, [0.5, 1.5], rtol=1e-12)
    np.testing.assert_allclose(sol.y1, 6.0, rtol=1e-12)
    with pytest.raises(jo.SolveError, match="TOO_MANY_EVENTS"):
        jo.solve(rises, 0.0, (0.0, 6.0), events=[wave, end], **options)
    with pytest.raises(jo.OptionError, match="no overflow called 'ignore'"):
        jo.solve(rises, 0.0, (0.0, 6.0), events=wave, overflow="ignore")  # pyright: ignore


@pytest.mark.slow
def test_the_ball_falls_through_a_floor_that_is_not_looked_for():
    floor = jo.Event(lambda t, y, p: y[0], "down", bounced)
    options: Any = {"events": floor, "max_events": 1, "overflow": "stop", "max_steps": 64, **EXACT}
    one = jax.jit(
        jax.value_and_grad(lambda p: jo.solve(falling, START, (0.0, 4.0), p, **options).y1[0])
    )

    def end(p):
        fall = jnp.sqrt(2 * START[0] / p["g"])
        left = 4.0 - fall
        return p["e"] * p["g"] * fall * left - 0.5 * p["g"] * left**2

    assert_close(one(BALL), jax.value_and_grad(end)(BALL), 1e-7)
    sols: Any = jo.solve_batch(falling, jnp.stack([START, 2 * START]), (0.0, 4.0), BALL, **options)
    np.testing.assert_array_equal(sols.events.count, [1, 1])
    np.testing.assert_allclose(sols.y1[0, 0], end(BALL), rtol=1e-7)


def test_a_condition_that_is_not_looked_at_may_be_nan():
    event = jo.Event(lambda t, y, a: jnp.sqrt(2.0 - y) - 1.0)
    options: Any = {"max_events": 1, "overflow": "stop", "jumps": [2.5], "max_steps": 64}
    sol: Any = jo.solve(
        rises, jnp.asarray(0.0), (0.0, 3.0), events=event, dt=0.3, solver="rk4", **options
    )
    assert sol.success
    np.testing.assert_allclose(sol.events.ts, 1.0, rtol=1e-12)


# Solves without a last time.

HALF = jo.Event(lambda t, y, a: y - 0.5, terminal=True)


@pytest.mark.parametrize("end", few([np.inf, -np.inf], np.inf))
def test_a_solve_to_infinity_ends_at_its_event(end):
    rate = jnp.asarray(np.sign(end))
    ts = (0.0, np.sign(end) * 0.25, end)
    sol: Any = jo.solve(decays, 1.0, ts, rate, events=HALF, **EXACT)
    np.testing.assert_allclose(sol.stats.t_reached, np.sign(end) * np.log(2), rtol=1e-8)
    np.testing.assert_array_equal(sol.ts, ts)
    np.testing.assert_allclose(sol.ys, [1.0, np.exp(-0.25), np.nan], rtol=1e-8)


@pytest.mark.parametrize("save", few(["ts", "dense", "steps"], "ts"))
def test_its_gradients_are_finite_and_right(save):
    def loss(rate, ts):
        sol: Any = jo.solve(
            decays,
            1.0,
            jnp.append(ts, jnp.inf),
            rate,
            events=HALF,
            save=save,
            max_steps=64,
            **EXACT,
        )
        seen = sol.ys[1] if save != "steps" else 0.0
        return sol.stats.t_reached + sol.y1 + seen

    rate, ts = jnp.asarray(2.0), jnp.array([0.0, 0.1])
    value, (by_rate, by_ts) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(rate, ts)
    seen = save != "steps"
    expected = np.log(2) / 2 + 0.5 + seen * np.exp(-0.2)
    np.testing.assert_allclose(value, expected, rtol=1e-7)
    np.testing.assert_allclose(by_rate, -np.log(2) / 4 - seen * 0.1 * np.exp(-0.2), rtol=1e-6)
    change = seen * 2 * np.exp(-0.2)
    np.testing.assert_allclose(by_ts, [1.0 + change, -change], rtol=1e-6, atol=1e-7)


def test_rest_ends_a_solve_without_a_last_time():
    rates = jnp.array([0.01, 1.0, 100.0])

    def field(t, y, a):
        return a * (1.0 - y)

    options: Any = {"events": jo.AtRest(), "solver": "rodas5p", "max_steps": 256}
    sols: Any = jo.solve_batch(
        field, 0.0, (0.0, jnp.inf), rates, in_axes=(None, None, 0), **options
    )
    assert np.all(sols.success) and np.all(sols.events.terminated)
    np.testing.assert_allclose(sols.y1, 1.0, rtol=1e-3)
    # The unit of time does not matter: the slowest takes 10,000 times as long.
    np.testing.assert_allclose(sols.stats.t_reached * rates, sols.stats.t_reached[1], rtol=2e-2)


def test_trajectories_may_have_last_times_or_none():
    ts = jnp.array([[0.0, 0.2], [0.0, jnp.inf]])
    sols: Any = jo.solve_batch(decays, 1.0, ts, 1.0, in_axes=(None, 0, None), events=HALF, **EXACT)
    np.testing.assert_allclose(sols.stats.t_reached, [0.2, np.log(2)], rtol=1e-8)
    np.testing.assert_array_equal(sols.events.terminated, [False, True])


def test_a_solve_without_end_that_no_event_ends_is_a_status():
    never = jo.Event(lambda t, y, a: y + 1.0, terminal=True)
    sol: Any = jo.solve(decays, 1.0, (0.0, jnp.inf), 1.0, events=never, max_steps=50, throw=False)
    assert sol.status == jo.Status.MAX_STEPS
    blow_up = lambda t, y, a: y**2  # noqa: E731
    sol = jo.solve(blow_up, 1.0, (0.0, jnp.inf), events=never, max_steps=2000, throw=False)
    assert sol.status == jo.Status.STEP_UNDERFLOW
    np.testing.assert_allclose(sol.stats.t_reached, 1.0, rtol=1e-3)


@pytest.mark.parametrize(
    ("ts", "options"),
    [
        ((0.0, np.inf), {}),
        ((0.0, np.inf), {"events": jo.Event(lambda t, y, a: y - 0.5)}),
        ((-np.inf, 0.0), {"events": HALF}),
        ((0.0, np.nan), {"events": HALF}),
        ((0.0, np.inf, np.inf), {"events": HALF}),
    ],
)
def test_other_infinite_times_are_refused(ts, options):
    with pytest.raises(jo.TimesError, match="every time must be finite, but for the last one"):
        jo.solve(decays, 1.0, ts, 1.0, **options)
    with pytest.raises(jo.TimesError, match=r"of trajectory 1: .*every time must be finite"):
        both = np.stack([np.linspace(0.0, 1.0, len(ts)), ts])
        jo.solve_batch(decays, 1.0, both, 1.0, in_axes=(None, 0, None), **options)


def test_large_first_times_keep_their_digits():
    y0, start = jnp.float32(1.0), 1.6e9
    sol: Any = jo.solve(decays, y0, (start, np.inf), jnp.float32(1.0), events=HALF, rtol=1e-5)
    np.testing.assert_allclose(sol.stats.t_reached - start, np.log(2), rtol=1e-4)


# The occurrences of one event.


def test_the_occurrences_of_one_event_have_no_nan():
    first = jo.Event(lambda t, y, a: jnp.cos(jnp.pi * t))
    second = jo.Event(lambda t, y, a: y - LEVELS)
    never = jo.Event(lambda t, y, a: y + 1.0)
    sol: Any = jo.solve(
        rises, 0.0, (0.0, 3.0), events=[first, second, never], dt=0.4, solver="rk4", max_events=8
    )
    ts, ys, mask = sol.events.of(0)
    np.testing.assert_allclose(ts, [0.5, 1.5, 2.5, 0, 0, 0, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(ys, ts, rtol=1e-12)
    np.testing.assert_array_equal(mask, np.arange(8) < 3)
    np.testing.assert_allclose(sol.events.of(1).ts[:3], np.sort(LEVELS), rtol=1e-12)
    np.testing.assert_allclose(sol.events.of(1, entry=2).ts[:2], [1.1, 0.0], rtol=1e-12)
    assert not np.any(sol.events.of(2).mask)
    for wrong in (3, -1, True, 1.0, None):
        with pytest.raises(
            jo.OptionError, match=r"index of sol\.events\.of must be an integer from 0"
        ):
            sol.events.of(wrong)
    with pytest.raises(jo.OptionError, match=r"entry of sol\.events\.of .* from 0 to 2, got 3"):
        sol.events.of(1, 3)


def test_sums_over_occurrences_have_finite_derivatives():
    wave = jo.Event(lambda t, y, a: jnp.cos(a * t))

    def last(a):
        sol: Any = jo.solve(rises, 0.0, (0.0, 3.0), a, events=wave, max_events=4, max_steps=64)
        ts, ys, mask = sol.events.of(0)
        return jnp.sum(ts**2) + jnp.sum(ys * mask)

    a = jnp.asarray(np.pi)
    # The crossings are at (k + 1/2) pi / a, for k from 0 to 2.
    times = np.array([0.5, 1.5, 2.5])
    np.testing.assert_allclose(
        jax.grad(last)(a), -np.sum((2 * times + 1) * times) / np.pi, rtol=1e-6
    )


# What a state at a fixed time is worth as a loss.


@pytest.mark.slow
def test_a_lead_time_is_learned_from_times_of_events_not_from_states_at_fixed_times():
    """A stock that is sold at a constant rate; an order of `lead` days refills it once."""
    sold, ordered, never = 10.0, 60.0, 99.0

    def shop(t, y, lead):  # the stock, the day of the next delivery, the integral of the stock
        return jnp.stack([-sold * jnp.ones_like(t), jnp.zeros_like(t), y[0]])

    def losses(lead):
        order = jo.Event(
            lambda t, y, lead: y[0] - 40.0, "down", lambda t, y, lead: y.at[1].set(t + lead)
        )
        arrival = jo.Event(
            lambda t, y, lead: t - y[1],
            "up",
            lambda t, y, lead: y + jnp.array([ordered, never, 0.0]),
        )
        sol: Any = jo.solve(
            shop, jnp.array([60.0, never, 0.0]), jnp.linspace(0.0, 8.0, 9), lead,
            events=[order, arrival], max_events=4, max_steps=64,
        )  # fmt: skip
        squares = jnp.sum((sol.ys[:, 0] - 30.0) ** 2)
        return squares, sol.events.of(1).ts[0], sol.y1[2]

    lead = jnp.asarray(2.5)
    by_states, by_time, by_integral = jax.jit(jax.jacrev(losses))(lead)
    # No state at a fixed time moves with the lead time, until the delivery passes that time.
    np.testing.assert_allclose(by_states, 0.0, atol=1e-9)
    below, above = losses(lead - 0.6)[0], losses(lead + 0.6)[0]
    assert abs(above - below) > 100.0
    np.testing.assert_allclose(by_time, 1.0, rtol=1e-9)
    np.testing.assert_allclose(by_integral, -ordered, rtol=1e-6)
