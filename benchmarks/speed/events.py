"""Events and jumps: bouncing balls beside loops restarted by hand, infusions beside jump times."""

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
from jax.scipy.linalg import expm

import jaxode as jo
from benchmarks.harness.timing import Row, run_times

TITLE = "Events and jumps (ms)"
COUNT, GRAVITY = 1000, 9.81
# The liveliest balls bounce so often.
MOST = 24
RTOL, ATOL = 1e-8, 1e-10
INFUSIONS, LENGTH = 12.0 * np.arange(20), 1.5


class Balls(NamedTuple):
    """Heights, restitutions, and when each solve ends: between two bounces."""

    height: Array
    restitution: Array
    end: Array


def rows() -> list[Row]:
    return [*bounces(), infusions()]


def balls() -> Balls:
    """As many bounces as there are from 1 to 24, each number as often as any other."""
    rng = np.random.default_rng(0)
    heights, restitutions = rng.uniform(1.0, 20.0, COUNT), rng.uniform(0.7, 0.95, COUNT)
    times = all_times(jnp.asarray(heights), jnp.asarray(restitutions))
    last = rng.integers(0, MOST, COUNT)
    ends = 0.5 * (times[np.arange(COUNT), last] + times[np.arange(COUNT), last + 1])
    return Balls(jnp.asarray(heights), jnp.asarray(restitutions), ends)


def falling(t: Any, y: Any, args: Any) -> Array:
    return jnp.stack([y[1], -GRAVITY + 0 * y[1]])


def all_times(heights: Array, restitutions: Array) -> Array:
    """The times of bounces, one more than the most."""
    first = jnp.sqrt(2 * heights / GRAVITY)[:, None]
    flights = 2 * first * restitutions[:, None] ** jnp.arange(1, MOST + 1)
    return jnp.concatenate([first, first + jnp.cumsum(flights, axis=1)], axis=1)


def exact(balls: Balls) -> Array:
    """The times of bounces, NaN after the end."""
    times = all_times(balls.height, balls.restitution)[:, :MOST]
    return jnp.where(times < balls.end[:, None], times, jnp.nan)


def ours(balls: Balls) -> Array:
    bounce = jo.Event(
        lambda t, y, e: y[0], direction="down", apply=lambda t, y, e: jnp.stack([y[0], -e * y[1]])
    )
    start = jnp.stack([balls.height, 0 * balls.height], axis=1)
    span = jnp.stack([0 * balls.end, balls.end], axis=1)
    sol = jo.solve_batch(
        falling, start, span, balls.restitution, in_axes=(0, 0, 0), events=bounce,
        max_events=MOST, rtol=RTOL, atol=ATOL,
    )  # fmt: skip
    assert sol.events is not None
    return sol.events.ts


class Flight(NamedTuple):
    """A ball of diffrax's between two solves."""

    t: Array
    y: Array
    count: Array
    times: Array


def take_off(ball: Balls) -> Flight:
    zero = 0 * ball.height
    start = jnp.stack([ball.height, zero])
    return Flight(zero, start, jnp.int32(0), jnp.full(MOST, jnp.nan))


def flight(ball: Balls, state: Flight) -> Flight:
    """diffrax, to the next bounce or the end."""
    event = diffrax.Event(
        lambda t, y, args, **kwargs: y[0],
        optimistix.Newton(1e-10, 1e-10),
        direction=False,
    )
    sol = diffrax.diffeqsolve(
        diffrax.ODETerm(falling), diffrax.Tsit5(), state.t, ball.end, None, state.y, event=event,
        stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL), max_steps=256,
    )  # fmt: skip
    assert sol.ts is not None
    assert sol.ys is not None
    hit, now = jnp.asarray(sol.event_mask), sol.ts[-1]
    times = state.times.at[state.count].set(jnp.where(hit, now, jnp.nan), mode="drop")
    after = jnp.stack([0.0 * ball.restitution, -ball.restitution * sol.ys[-1][1]])
    t, y = jnp.where(hit, now, ball.end), jnp.where(hit, after, state.y)
    return Flight(t, y, state.count + 1, times)


def restarted(ball: Balls) -> Array:
    """A solve for each flight, in a loop."""
    end = jax.lax.while_loop(lambda s: s.t < ball.end, lambda s: flight(ball, s), take_off(ball))
    return end.times


def restarted_in_scan(ball: Balls) -> Array:
    """The same in a loop that can be differentiated."""

    def guarded(state: Flight, _: None) -> tuple[Flight, None]:
        # A flight from the end to the end would divide by the span.
        onwards = state.t < ball.end
        return jax.lax.cond(onwards, lambda s: flight(ball, s), lambda s: s, state), None

    return jax.lax.scan(guarded, take_off(ball), None, MOST + 1)[0].times


def restarted_by_hand() -> Callable[[Balls], Array]:
    """A call for each flight of all balls, until the last is over."""
    start, onwards = jax.jit(jax.vmap(take_off)), jax.jit(jax.vmap(flight))

    def run(balls: Balls) -> Array:
        state = start(balls)
        while bool(jnp.any(state.t < balls.end)):
            going = state.t < balls.end
            # A ball that is at its end waits there, a moment before it.
            state = state._replace(t=jnp.where(going, state.t, 0.999 * balls.end))
            state = onwards(balls, state)
        return state.times

    return run


def in_scipy(height: float, restitution: float, end: float) -> list[float]:
    """One ball, a `solve_ivp` for each flight."""

    def ground(t: float, y: Any) -> float:
        return y[0]

    ground.terminal, ground.direction = True, -1.0  # pyright: ignore[reportFunctionMemberAccess]
    t, y, times = 0.0, [height, 0.0], []
    while t < end:
        sol = scipy.integrate.solve_ivp(
            lambda t, y: (y[1], -GRAVITY), (t, end), y, events=ground, rtol=RTOL, atol=ATOL
        )
        if sol.status != 1:
            break
        t = float(sol.t[-1])
        times.append(t)
        y = [0.0, -restitution * float(sol.y[1, -1])]
    return times


def bounces() -> list[Row]:
    at = balls()
    true = exact(at)
    run, in_loop, by_hand = jax.jit(ours), jax.jit(jax.vmap(restarted)), restarted_by_hand()
    assert bool(jnp.all(jnp.isnan(run(at)) == jnp.isnan(true)))
    mine, loop, hand = run_times(
        lambda: run(at), lambda: in_loop(at), lambda: by_hand(at), repeats=9
    )
    off, loop_off, hand_off = (
        float(jnp.nanmax(jnp.abs(f(at) - true))) for f in (run, in_loop, by_hand)
    )
    work = f"{COUNT} balls, 1 to {MOST} bounces"
    scipy_time, scipy_off = one_in_scipy(at, true)
    return [
        Row(work, mine, hand, ">= 10", off, hand_off, "a vmapped solve for each flight, by hand"),
        Row(work, mine, loop, "-", off, loop_off, "the same in one compiled loop"),
        Row(work, mine, scipy_time, ">= 10", off, scipy_off, "SciPy, one ball times 1,000 over 50"),
        gradient(at),
    ]


def one_in_scipy(at: Balls, true: Array) -> tuple[float, float]:
    """A ball of a middling number of bounces: its time for all on fifty processors, its error."""
    counts = np.sum(np.isfinite(true), axis=1)
    middle = int(np.argsort(counts)[COUNT // 2])
    ball, spent, times = [float(x[middle]) for x in at], [], []
    for _ in range(9):
        begin = time.perf_counter()
        times = in_scipy(*ball)
        spent.append(time.perf_counter() - begin)
    off = float(np.max(np.abs(np.array(times) - np.asarray(true[middle])[: len(times)])))
    return 1e3 * float(np.median(spent)) * COUNT / 50, off


def gradient(at: Balls) -> Row:
    """Of the sum of all times, by each restitution; its reference by the closed form."""

    def by(solve: Callable[[Balls], Array]) -> Callable[[Array], Any]:
        def total(e: Array) -> Array:
            return jnp.nansum(solve(at._replace(restitution=e)))

        return jax.jit(jax.value_and_grad(total))

    run, peer, e = by(ours), by(jax.vmap(restarted_in_scan)), at.restitution
    mine, theirs = run_times(lambda: run(e), lambda: peer(e), repeats=5)
    wanted = by(exact)(e)[1]
    most = jnp.max(jnp.abs(wanted))
    off, theirs_off = (float(jnp.max(jnp.abs(f(e)[1] - wanted)) / most) for f in (run, peer))
    note = f"restarted {MOST} times in a scan"
    return Row(f"{COUNT} balls, value and gradient", mine, theirs, "-", off, theirs_off, note)


def body(t: Any, y: Any, args: Any) -> Array:
    """Gut, blood and tissue under infusions."""
    on = jnp.any((t >= INFUSIONS) & (t < INFUSIONS + LENGTH))
    exchange = 0.3 * y[1] - 0.05 * y[2]
    gut = jnp.where(on, 100.0 / LENGTH, 0.0) - 0.8 * y[0]
    return jnp.stack([gut, 0.8 * y[0] - 0.15 * y[1] - exchange, exchange])


def by_pieces() -> Array:
    matrix = jnp.array([[-0.8, 0, 0, 1.0], [0.8, -0.45, 0.05, 0], [0, 0.3, -0.05, 0], [0] * 4])
    y = jnp.zeros(4)
    for _ in INFUSIONS:
        y = expm(matrix * LENGTH) @ y.at[3].set(100.0 / LENGTH)
        y = expm(matrix * (12.0 - LENGTH)) @ y.at[3].set(0.0)
    return y[:3]


def infusions() -> Row:
    """Twenty infusions: steps that end on the edges, here and in diffrax; and steps that do not."""
    edges = np.sort(np.concatenate([INFUSIONS[1:], INFUSIONS + LENGTH]))
    start, span, true = jnp.zeros(3), (0.0, 240.0), by_pieces()
    options: dict[str, Any] = {"rtol": RTOL, "atol": ATOL, "max_steps": 16384}

    @jax.jit
    def run(start: Array) -> jo.Solution:
        return jo.solve(body, start, span, jumps=edges, **options)

    @jax.jit
    def peer(start: Array) -> Array:
        controller = diffrax.ClipStepSizeController(
            diffrax.PIDController(rtol=RTOL, atol=ATOL), jump_ts=jnp.asarray(edges)
        )
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(body), diffrax.Tsit5(), *span, None, start,
            stepsize_controller=controller, max_steps=16384,
        )  # fmt: skip
        assert sol.ys is not None
        return sol.ys[-1]

    plain = jo.solve(body, start, span, dt=0.1, **options)
    mine, theirs = run_times(lambda: run(start), lambda: peer(start), repeats=31)
    sol = run(start)
    steps = f"{int(sol.stats.num_steps)} steps; {int(plain.stats.num_steps)} without jumps"
    off, theirs_off = (float(jnp.max(jnp.abs(y / true - 1))) for y in (sol.y1, peer(start)))
    return Row("20 infusions", mine, theirs, "-", off, theirs_off, steps)
