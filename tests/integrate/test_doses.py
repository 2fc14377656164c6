"""Jumps of the state: at the ends of a solve, several at one time, and what is saved there."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.batches import in_tile
from tests.support.differences import assert_close
from tests.support.sweeps import few

# Two at either end, two at one time inside, in the order in which they stand.
TIMES = np.array([1.5, 0.0, 3.0, 1.5, 3.0, 0.0])
ORDER = [1, 5, 0, 3, 2, 4]
POINT = {
    "k": jnp.array(0.4),
    "m": jnp.array(0.9),
    "amounts": jnp.array([1.0, 2.0, 3.0, 0.5, 0.7, 0.2]),
    "times": jnp.asarray(TIMES),
    "y0": jnp.array(2.0),
}
TS = np.array([0.0, 1.0, 1.5, 1.5, 2.0, 3.0])


def decay(t, y, p):
    return -p["k"] * y


def dose(t, y, p, index):
    """One that tells both the order and the place."""
    return p["m"] * y + p["amounts"][index] + 0.1 * t


def course(p, ts, saved: Any = "before", ends: Any = "both", **options: Any) -> Any:
    jumps = jo.Jumps(p["times"], dose, saved, ends)
    options = {"rtol": 1e-11, "atol": 1e-13, "max_steps": 256, **options}
    return jo.solve(decay, p["y0"], ts, p, jumps=jumps, **options)


def exact(p, ts, saved):
    """The states at `ts` on one side of the jumps, and the last one after them."""

    def state(i, after):
        y, t = p["y0"], ts[0]
        for place in ORDER:
            if TIMES[place] > TS[i] or (TIMES[place] == TS[i] and not after):
                continue
            y, t = y * jnp.exp(-p["k"] * (p["times"][place] - t)), p["times"][place]
            y = p["m"] * y + p["amounts"][place] + 0.1 * t
        return y * jnp.exp(-p["k"] * (ts[i] - t))

    count = len(TS)
    rows = jnp.stack([state(i, saved == "after") for i in range(count)])
    return rows, state(count - 1, True)


def told(sol: Any) -> Any:
    return sol.ys, sol.y1


WAYS = [(save, saved) for save in ("ts", "dense", "function") for saved in ("before", "after")]


@pytest.mark.parametrize(("save", "saved"), few(WAYS, ("ts", "before"), ("dense", "after")))
def test_all_doses_apply_in_order_and_one_side_is_saved(save, saved):
    """The values, and how they move with everything, the times of the doses included."""

    def rows(p, ts):
        read = lambda t, y, p: 2 * y  # noqa: E731
        sol = course(p, ts, saved, save=read if save == "function" else save)
        ys = sol.ys / 2 if save == "function" else sol.ys
        return jnp.sum(jnp.cos(jnp.arange(6.0)) * ys) + 0.7 * sol.y1, (ys, sol.y1)

    def exact_rows(p, ts):
        ys, y1 = exact(p, ts, saved)
        return jnp.sum(jnp.cos(jnp.arange(6.0)) * ys) + 0.7 * y1

    gradient, got = jax.jit(jax.grad(rows, argnums=(0, 1), has_aux=True))(POINT, jnp.asarray(TS))
    for one, two in zip(got, exact(POINT, TS, saved), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9)
    if save != "dense":  # whose times are read outside of the rule
        assert_close(
            gradient, jax.jit(jax.grad(exact_rows, argnums=(0, 1)))(POINT, jnp.asarray(TS)), 1e-8
        )


MODES = {"thinned": jo.Discrete(memory=4), "stages": jo.Discrete(memory="stages")}


@pytest.mark.parametrize("sign", few([1.0, -1.0], 1.0))
@pytest.mark.parametrize("mode", few(["discrete", "thinned", "stages", "forward"], "forward"))
def test_every_mode_differentiates_doses_at_the_ends(mode, sign):
    p = {**POINT, "times": sign * TIMES, "k": sign * POINT["k"]}
    jacobian = jax.jacfwd if mode == "forward" else jax.grad

    def last(p, ts):
        return course(p, ts, sensitivity=MODES.get(mode, mode)).y1

    def exact_last(p, ts):
        return exact(p, ts, "before")[1]

    got = jax.jit(jacobian(last, argnums=(0, 1)))(p, sign * TS[[0, 1, 5]])
    expected = jax.jit(jax.grad(exact_last, argnums=(0, 1)))(p, sign * TS)
    assert_close(got, (expected[0], expected[1][jnp.array([0, 1, 5])]), 1e-8)


@pytest.mark.parametrize("saved", few(["before", "after"], "after"))
def test_steps_are_saved_on_one_side_of_a_dose(saved):
    def ends(p):
        p = {**p, "times": jax.lax.stop_gradient(p["times"])}  # the steps' ends move with them
        sol = course(p, (0.0, 3.0), saved, save="steps")
        last = sol.stats.num_accepted
        inner = jnp.argmax(sol.ts == 1.5)
        return jnp.stack([sol.ys[0], sol.ys[inner], sol.ys[last]]), sol.y1

    def exact_ends(p):
        p = {**p, "times": jax.lax.stop_gradient(p["times"])}
        rows, last = exact(p, TS, saved)
        return rows[jnp.array([0, 2, 5])], last

    got, expected = jax.jit(jax.jacrev(ends))(POINT), jax.jit(jax.jacfwd(exact_ends))(POINT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), got, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), ends(POINT), exact_ends(POINT)
    )


@functools.cache
def solved() -> Any:
    """A solve whose times and end are given when it runs."""
    run = lambda p, ts, ends: course(p, ts, ends=ends).y1  # noqa: E731
    return jax.jit(run, static_argnums=2)


def test_a_course_in_two_parts_is_the_whole():
    """With one list of doses for all parts, each dose of a joint belongs to the second one."""
    ts, whole = jnp.array([0.0, 3.0]), solved()(POINT, jnp.array([0.0, 4.0]), "first")
    first = solved()(POINT, jnp.array([0.0, 1.5]), "first")
    second = solved()({**POINT, "y0": first}, jnp.array([1.5, 3.0]), "first")
    third = solved()({**POINT, "y0": second}, jnp.array([3.0, 4.0]), "first")
    np.testing.assert_allclose(third, whole, rtol=1e-9)
    assert abs(second - exact(POINT, TS, "before")[0][-1]) < 1e-8
    both = solved()(POINT, ts, "both")
    np.testing.assert_allclose(both, exact(POINT, TS, "before")[1], rtol=1e-9)
    half = solved()(POINT, jnp.array([0.0, 1.5]), "both")
    twice = solved()({**POINT, "y0": half}, jnp.array([1.5, 3.0]), "both")
    assert abs(twice - both) > 0.3


def test_ends_are_chosen_and_no_time_has_its_doses_once():
    ts = jnp.array([0.0, 3.0])
    start = 0.9 * (0.9 * 2.0 + 2.0) + 0.2
    assert solved()(POINT, 0 * ts, "both") == pytest.approx(start, rel=1e-12)
    assert solved()(POINT, 0 * ts, "first") == pytest.approx(start, rel=1e-12)
    neither = jo.solve(decay, start, (0.0, 3.0), POINT, rtol=1e-11, atol=1e-13, jumps=jo.Jumps(
        TIMES[[0, 3]], lambda t, y, p, i: dose(t, y, p, 3 * i)
    )).y1  # fmt: skip
    np.testing.assert_allclose(solved()(POINT, ts, "first"), neither, rtol=1e-9)


def test_the_place_of_a_dose_needs_no_comparison_of_times():
    """A state of float32 among times of float64 sees times that equal none of those given."""
    times = np.array([0.1, 0.7, 1.3])
    jumps = jo.Jumps(times, lambda t, y, a, index: y + a[index])
    amounts, start = jnp.array([1.0, 10.0, 100.0], jnp.float32), jnp.float32(0.0)
    sol = jo.solve(lambda t, y, a: 0 * y, start, (0.0, 2.0), amounts, jumps=jumps)
    assert sol.y1 == 111.0


def test_an_argument_with_a_default_is_no_place():
    jumps = jo.Jumps([0.0, 1.0], lambda t, y, a, amount=5.0: y + amount)
    assert jo.solve(lambda t, y, a: 0 * y, 1.0, (0.0, 1.0), jumps=jumps).y1 == 11.0


OWN = jnp.array([[0.0, 1.0, 1.0, 9.0], [1.0, 2.0, 2.0, 2.0], [0.5, 0.5, 0.0, 2.0]])


@pytest.mark.parametrize(("saved", "wide"), few([("before", False), ("after", True)]))
def test_doses_in_lanes_equal_those_of_single_solves(saved, wide):
    """Each trajectory has its own: at its start, twice inside, at its end, outside."""
    ts, options = jnp.array([0.0, 1.0, 2.0]), dict[str, Any](rtol=1e-9, atol=1e-11)

    def apply(t, y, p, index):
        return p["m"] * y + p["amounts"][index] + 0.1 * t

    def loss(sol):
        return jnp.sum(jnp.sin(sol.ys)) + jnp.sum(jnp.cos(sol.y1)), told(sol)

    def batch(point):
        p, times, y0 = point
        jumps = jo.Jumps(times, apply, saved)
        return loss(jo.solve_batch(decay, y0, ts, p, jumps=jumps, lanes=2, **options))

    def singles(point):
        p, times, y0 = point

        def one(times, y0):
            jumps = jo.Jumps(times, apply, saved)
            return told(jo.solve(decay, y0, ts, p, jumps=jumps, **options))

        ys, y1 = jax.vmap(one)(times, y0)
        return jnp.sum(jnp.sin(ys)) + jnp.sum(jnp.cos(y1)), (ys, y1)

    p = {"k": jnp.array(0.4), "m": jnp.array(0.9), "amounts": jnp.array([1.0, 2.0, 3.0, 0.5])}
    point = p, OWN, jnp.array([1.0, 2.0, 3.0])
    got = in_tile(wide, jax.value_and_grad(batch, has_aux=True), point)(point)
    expected = jax.jit(jax.value_and_grad(singles, has_aux=True))(point)
    for one, two in zip(got[0][1], expected[0][1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-8)
    assert_close(got[1], expected[1], 1e-7)


@pytest.mark.slow
def test_a_dose_and_an_event_at_one_time_both_apply():
    """First the event, then the doses of that time in order; the gradient has all of them."""
    event = jo.Event(lambda t, y, a: t - 1.0, apply=lambda t, y, a: a * y)
    jumps = jo.Jumps([1.0, 1.0], lambda t, y, a, index: y**2 + index)

    def end(a, save):
        sol: Any = jo.solve(
            lambda t, y, a: 0 * y, 3.0, (0.0, 2.0), a, events=event, jumps=jumps, save=save
        )
        return sol.y1

    def exact_end(a):
        return ((3 * a) ** 2) ** 2 + 1.0

    assert end(2.0, "ts") == pytest.approx(exact_end(2.0))
    assert jax.grad(end)(2.0, "ts") == pytest.approx(jax.grad(exact_end)(2.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"saved": "both"}, "saved of jo.Jumps"), ({"ends": "start"}, "ends of jo.Jumps")],
)
def test_what_is_saved_and_which_ends_count_are_names(options, message):
    with pytest.raises(jo.OptionError, match=message):
        jo.Jumps([1.0], None, **options)


@pytest.mark.slow
@pytest.mark.parametrize("many", few([False, True], False))
def test_a_state_saved_after_a_dose_is_not_moved_by_the_event_that_the_dose_causes(many):
    """The dose passes a level at once, where half is lost; what is saved is the state before."""
    dose = jo.Jumps([1.0], lambda t, y, dose: y + dose, saved="after")
    spill = jo.Event(lambda t, y, dose: y - 2.0, "up", lambda t, y, dose: 0.5 * y)
    options: Any = {"jumps": dose, "events": spill, "max_events": 2, "max_steps": 32}
    ts = jnp.array([0.0, 1.0, 2.0])

    def saved(dose):
        if many:
            starts = jnp.array([1.0, 1.0])
            sols: Any = jo.solve_batch(lambda t, y, a: -y, starts, ts, dose, **options)
            return sols.ys[0, 1:]
        return jo.solve(lambda t, y, a: -y, 1.0, ts, dose, **options).ys[1:]

    size = jnp.asarray(3.0)
    values, slopes = jax.jit(lambda d: (saved(d), jax.jacrev(saved)(d)))(size)
    exact = np.exp(-1.0) + 3.0
    np.testing.assert_allclose(values, [exact, 0.5 * exact * np.exp(-1.0)], rtol=1e-3)
    np.testing.assert_allclose(slopes, [1.0, 0.5 * np.exp(-1.0)], rtol=1e-3)
