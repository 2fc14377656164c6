"""Lorenz to t = 20: the end state alone, and 100, 1,000 and 10,000 saved points."""

import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness import peers
from benchmarks.harness.timing import Row, compile_times, run_times

TITLE = "Lorenz, Tsit5, rtol 1e-7, atol 1e-9, to t = 20 (ms)"
RTOL, ATOL = 1e-7, 1e-9
ARGS = (10.0, 28.0, 8.0 / 3.0)
POINTS = {2: ">= 2.5", 100: ">= 3", 1000: ">= 2.5", 10000: ">= 1.5"}


def field(t: Array, y: Array, args: Array) -> Array:
    sigma, rho, beta = args
    return jnp.stack([sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]])


def make_ours(points: int):
    ts = jnp.linspace(0.0, 20.0, points)

    def run(y0: Array, ts: Array, args: Array) -> Array:
        return jo.solve(field, y0, ts, args, rtol=RTOL, atol=ATOL).ys

    return jax.jit(run), (jnp.array([1.0, 0.0, 0.0]), ts, jnp.array(ARGS))


def make_peer(points: int):
    ts = jnp.linspace(0.0, 20.0, points)

    def run(y0: Array, ts: Array, args: Array) -> Array:
        return peers.solve(field, y0, ts, args, RTOL, ATOL, ends=points == 2)

    return jax.jit(run), (jnp.array([1.0, 0.0, 0.0]), ts, jnp.array(ARGS))


def errors(points: int) -> tuple[float, float]:
    """Largest error up to t = 5, before chaos drowns what the solvers differ in."""
    y0, ts, args = jnp.array([1.0, 0.0, 0.0]), jnp.linspace(0.0, 5.0, points), jnp.array(ARGS)
    exact = jo.solve(
        field, y0, ts, args, solver="dopri8", rtol=1e-13, atol=1e-14, max_steps=20000
    ).ys
    ours = jo.solve(field, y0, ts, args, rtol=RTOL, atol=ATOL).ys
    peer = peers.solve(field, y0, ts, args, RTOL, ATOL, ends=points == 2)
    peer = peer[-1:] if points == 2 else peer
    exact_for_peer = exact[-1:] if points == 2 else exact
    return float(jnp.abs(ours - exact).max()), float(jnp.abs(peer - exact_for_peer).max())


def rows() -> list[Row]:
    found = []
    for points, target in POINTS.items():
        (ours, args), (peer, peer_args) = make_ours(points), make_peer(points)
        mine, theirs = run_times(
            lambda: ours(*args),  # noqa: B023
            lambda: peer(*peer_args),  # noqa: B023
            repeats=301,
        )
        work = "end state only" if points == 2 else f"{points:,} save points"
        found.append(Row(work, mine, theirs, target, *errors(points)))
    for points in (2, 100):
        mine, theirs = compile_times(lambda: make_ours(points), lambda: make_peer(points))  # noqa: B023
        what = "end state" if points == 2 else f"{points} save points"
        share = f"{mine / theirs:.2f}x"
        found.append(Row(f"compile, {what}", mine, theirs, "<= 0.4x", note=share))
    return found
