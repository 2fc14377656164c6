"""The continuous adjoint over events and jumps, against closed forms and the discrete adjoint."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close

OPTIONS: Any = {"rtol": 1e-9, "atol": 1e-9, "max_steps": 256, "max_events": 6}


def falling(t, y, p):
    return jnp.stack([y[1], -p["g"] * jnp.ones_like(t)])


BOUNCE = jo.Event(lambda t, y, p: y[0], "down", lambda t, y, p: jnp.stack([y[0], -p["e"] * y[1]]))
PASS = jo.Event(lambda t, y, p: y[0] - 1.0)
BALL = {"h": jnp.array(5.0), "g": jnp.array(9.81), "e": jnp.array(0.8)}


def drop(p, ts=(0.0, 3.0), **options: Any) -> Any:
    start = jnp.stack([p["h"], jnp.zeros_like(p["h"])])
    return jo.solve(falling, start, ts, p, **{**OPTIONS, "events": BOUNCE, **options})


def second_bounce(p):
    first = jnp.sqrt(2 * p["h"] / p["g"])
    return first * (1 + 2 * p["e"]), -p["g"] * first * p["e"]


@pytest.mark.slow
def test_times_and_speeds_of_bounces():
    def told(p):
        sol = drop(p, sensitivity="adjoint")
        return sol.events.ts[1], sol.events.ys[1, 1]

    got = jax.jit(lambda p: (told(p), jax.jacrev(told)(p)))(BALL)
    assert_close(got, (second_bounce(BALL), jax.jacrev(second_bounce)(BALL)), 1e-6)


@functools.cache
def compiled_loss(case: str):
    return jax.jit(jax.value_and_grad(LOSSES[case], argnums=(0, 1)), static_argnums=2)


def seen_on_the_way(p, ts, sensitivity):
    """States at times, recorded events and the end, between bounces and after them."""
    sol = drop(p, ts, events=[PASS, BOUNCE], sensitivity=sensitivity)
    times, states, mask = sol.events.of(0)
    seen = jnp.sum(jnp.sin(times) * mask) + jnp.sum(jnp.cos(states) * mask[:, None])
    return jnp.sum(jnp.sin(sol.ys)) + jnp.sum(sol.y1**2) + seen


def dosed(p, ts, sensitivity):
    """Doses that change the state, two of them at one time, and a level that they cross."""

    def body(t, y, p):
        on = jnp.where(t >= p["times"][0], 1.0, 0.5)
        return jnp.stack([-on * p["k"] * y[0], p["k"] * y[0] - 0.3 * y[1]])

    doses = jo.Jumps(
        jnp.append(p["times"], p["times"][1]),
        lambda t, y, p, index: y.at[0].add(p["dose"] * (1.0 + index)),
        saved="after",
    )
    spill = jo.Event(lambda t, y, p: y[0] - 3.0, "up", lambda t, y, p: y.at[0].set(0.5 * y[0]))
    y0 = jnp.array([1.0, 0.0])
    sol: Any = jo.solve(
        body, y0, ts, p, jumps=doses, events=spill, sensitivity=sensitivity, **OPTIONS
    )
    return jnp.sum(jnp.sin(sol.ys)) + jnp.sum(sol.y1**2)


def ended(p, ts, sensitivity):
    """The time and the state at the second bounce, which ends the solve."""
    stop = jo.Event(BOUNCE.condition, "down", BOUNCE.apply, terminal=2)
    sol = drop(p, jnp.append(ts, jnp.inf), events=stop, sensitivity=sensitivity)
    return sol.stats.t_reached + jnp.sum(sol.y1**2) + jnp.sum(sol.ys[: ts.size] ** 2)


LOSSES = {"on the way": seen_on_the_way, "dosed": dosed, "ended": ended}
POINTS = {
    "on the way": (BALL, jnp.array([0.0, 0.4, 1.3, 2.9, 3.0])),
    "dosed": (
        {"k": jnp.array(0.8), "dose": jnp.array(1.1), "times": jnp.array([0.7, 1.6, 9.0])},
        jnp.array([0.0, 0.7, 1.1, 1.6, 2.5]),
    ),
    "ended": (BALL, jnp.array([0.0, 0.4, 1.3])),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "method"),
    [
        ("dosed", "quadrature"),
        ("dosed", "interpolate"),
        ("ended", "quadrature"),
        ("on the way", "backsolve"),
    ],
)
def test_gradients_are_those_of_the_discrete_adjoint(case, method):
    p, ts = POINTS[case]
    if case == "dosed":
        p = {**p, "times": p["times"][:2]}
    got, expected = (
        compiled_loss(case)(p, ts, way) for way in (jo.Continuous(method), jo.Discrete())
    )
    assert got[0] == expected[0]  # one solve gives the values
    assert_close(got[1], expected[1], 1e-5)


def batch_loss(p, heights, sensitivity):
    start = jnp.stack([heights, 0 * heights], axis=1)
    sols: Any = jo.solve_batch(
        falling, start, (0.0, 3.0), p, in_axes=(0, None, {"g": None, "e": 0}),
        events=[PASS, BOUNCE], sensitivity=sensitivity, lanes=2, **OPTIONS,
    )  # fmt: skip
    times, _, mask = sols.events.of(1)
    return jnp.sum(sols.y1**2) + jnp.sum(jnp.sin(times) * mask)


@pytest.mark.slow
def test_a_batch_has_the_gradients_of_the_discrete_adjoint():
    heights, p = jnp.array([2.0, 5.0, 9.0]), {"g": jnp.array(9.81), "e": jnp.array([0.7, 0.8, 0.9])}

    def gradient(p, heights):
        by = jax.value_and_grad(batch_loss, argnums=(0, 1))
        return by(p, heights, "adjoint"), by(p, heights, "discrete")

    got, expected = jax.jit(gradient)(p, heights)
    assert_close(got, expected, 1e-5)


@pytest.mark.slow
def test_under_vmap():
    e = jnp.array([0.7, 0.8])

    def loss(e, way):
        return jnp.sum(drop({**BALL, "e": e}, sensitivity=way).y1 ** 2)

    one, two = (
        jax.jit(jax.vmap(jax.grad(functools.partial(loss, way=way))))(e)
        for way in ("adjoint", "discrete")
    )
    assert_close(one, two, 1e-5)


def test_nothing_is_solved_twice_without_a_derivative():
    text: Any = jax.jit(lambda p: drop(p, sensitivity="adjoint").y1).lower(BALL).compile().as_text()
    plain: Any = jax.jit(lambda p: drop(p).y1).lower(BALL).compile().as_text()
    assert text.count(" while(") == plain.count(" while(")


@pytest.mark.slow
def test_a_failed_solve_has_nan():
    def loss(p, way):
        return jnp.sum(drop(p, max_events=1, sensitivity=way, throw=False).y1)

    got = jax.jit(jax.grad(functools.partial(loss, way="adjoint")))(BALL)
    assert np.all(np.isnan(jax.tree.leaves(got)))


def test_systems_with_a_mass_matrix_are_refused():
    solver = jo.Rodas5P(mass=jnp.eye(2))
    with pytest.raises(jo.OptionError, match="events and jumps of a system with a mass matrix"):
        drop(BALL, solver=solver, sensitivity="adjoint")
