"""Bounce times by jaxode's events, and by solves of diffrax and SciPy restarted at each bounce."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import scipy.integrate
from jax import Array

import jaxode as jo
from benchmarks.harness.timing import Median
from benchmarks.problems.bouncing_balls import COUNT, GRAVITY, MAX_BOUNCES, Balls, free_fall

RTOL, ATOL = 1e-8, 1e-10

# A function that returns the bounce times, shape (balls, MAX_BOUNCES).
BounceTimes = Callable[[Balls], Array]


def our_bounce_times(balls: Balls) -> Array:
    """The bounce times of all balls by one call of `jo.solve_batch`."""
    bounce = jo.Event(
        lambda t, y, e: y[0], direction="down", apply=lambda t, y, e: jnp.stack([y[0], -e * y[1]])
    )
    y0 = jnp.stack([balls.height, 0 * balls.height], axis=1)
    span = jnp.stack([0 * balls.end, balls.end], axis=1)
    solution = jo.solve_batch(
        free_fall, y0, span, balls.restitution, in_axes=(0, 0, 0), events=bounce,
        max_events=MAX_BOUNCES, rtol=RTOL, atol=ATOL,
    )  # fmt: skip
    assert solution.events is not None
    return solution.events.ts


class FlightState(NamedTuple):
    """The state of one ball between two of diffrax's solves."""

    t: Array
    y: Array
    count: Array
    times: Array


def initial_flight(ball: Balls) -> FlightState:
    """The state before the first solve."""
    y0 = jnp.stack([ball.height, 0 * ball.height])
    return FlightState(0 * ball.height, y0, jnp.int32(0), jnp.full(MAX_BOUNCES, jnp.nan))


def diffrax_flight(ball: Balls, state: FlightState) -> FlightState:
    """A solve by diffrax to the next bounce or the end."""
    event = diffrax.Event(
        lambda t, y, args, **kwargs: y[0],
        optimistix.Newton(1e-10, 1e-10),
        direction=False,
    )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(free_fall), diffrax.Tsit5(), state.t, ball.end, None, state.y, event=event,
        stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL), max_steps=256,
    )  # fmt: skip
    assert solution.ts is not None
    assert solution.ys is not None
    hit, now = jnp.asarray(solution.event_mask), solution.ts[-1]
    times = state.times.at[state.count].set(jnp.where(hit, now, jnp.nan), mode="drop")
    after = jnp.stack([0.0 * ball.restitution, -ball.restitution * solution.ys[-1][1]])
    t, y = jnp.where(hit, now, ball.end), jnp.where(hit, after, state.y)
    return FlightState(t, y, state.count + 1, times)


def diffrax_in_while_loop(ball: Balls) -> Array:
    """The bounce times of one ball, with diffrax restarted in a compiled `while_loop`."""
    last = jax.lax.while_loop(
        lambda state: state.t < ball.end,
        lambda state: diffrax_flight(ball, state),
        initial_flight(ball),
    )
    return last.times


def diffrax_restarted_from_python() -> BounceTimes:
    """The bounce times of all balls, with a call from Python for each flight of all balls."""
    start, next_flight = jax.jit(jax.vmap(initial_flight)), jax.jit(jax.vmap(diffrax_flight))

    def bounce_times(balls: Balls) -> Array:
        state = start(balls)
        while bool(jnp.any(state.t < balls.end)):
            in_flight = state.t < balls.end
            # A ball that has reached its end is solved once more over a short span before it.
            state = state._replace(t=jnp.where(in_flight, state.t, 0.999 * balls.end))
            state = next_flight(balls, state)
        return state.times

    return bounce_times


def scipy_bounce_times(height: float, restitution: float, end: float) -> list[float]:
    """The bounce times of one ball, with a `solve_ivp` for each flight."""

    def ground(t: float, y: Any) -> float:
        return y[0]

    ground.terminal, ground.direction = True, -1.0  # pyright: ignore[reportFunctionMemberAccess]
    t, y, times = 0.0, [height, 0.0], []
    while t < end:
        solution = scipy.integrate.solve_ivp(
            lambda t, y: (y[1], -GRAVITY), (t, end), y, events=ground, rtol=RTOL, atol=ATOL
        )
        if solution.status != 1:
            break
        t = float(solution.t[-1])
        times.append(t)
        y = [0.0, -restitution * float(solution.y[1, -1])]
    return times


def scipy_ensemble_estimate(balls: Balls, exact: Array) -> tuple[Median, float]:
    """SciPy's time for all balls on fifty processors, estimated by one ball, and its error.

    The ball is the one with the median number of bounces.
    """
    counts = np.sum(np.isfinite(exact), axis=1)
    median = int(np.argsort(counts)[COUNT // 2])
    ball, spent, times = [float(x[median]) for x in balls], [], []
    for _ in range(9):
        begin = time.perf_counter()
        times = scipy_bounce_times(*ball)
        spent.append(time.perf_counter() - begin)
    error = float(np.max(np.abs(np.array(times) - np.asarray(exact[median])[: len(times)])))
    return Median.of([seconds * COUNT / 50 for seconds in spent]), error
