"""Lorenz to t = 5, before chaos amplifies all differences: end state, 100 to 10,000 save points."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.peers import diffrax_values
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import compile_times, run_times
from benchmarks.problems.lorenz import PARAMETERS, lorenz

TITLE = "Lorenz, Tsit5, rtol 1e-7, atol 1e-9, to t = 5 (ms)"
RTOL, ATOL = 1e-7, 1e-9
SETTINGS = beside_diffrax("1e-7", "1e-9", adjoint="not differentiated")
# For each number of save points, the targeted ratio.
TARGETS = {2: ">= 2.5", 100: ">= 3", 1000: ">= 2.5", 10000: ">= 1.5"}


def make_ours(points: int) -> tuple[Any, tuple]:
    """jaxode's solve, jitted, and its inputs."""

    def saved_states(y0: Array, ts: Array, args: Array) -> Array:
        return jo.solve(lorenz, y0, ts, args, rtol=RTOL, atol=ATOL).ys

    return jax.jit(saved_states), inputs(points)


def make_peer(points: int) -> tuple[Any, tuple]:
    """diffrax's solve, jitted, and its inputs."""

    def saved_states(y0: Array, ts: Array, args: Array) -> Array:
        return diffrax_values(lorenz, y0, ts, args, RTOL, ATOL, ends=points == 2)

    return jax.jit(saved_states), inputs(points)


def inputs(points: int) -> tuple[Array, Array, Array]:
    """Initial state, save points, and parameters."""
    return jnp.array([1.0, 0.0, 0.0]), jnp.linspace(0.0, 5.0, points), jnp.array(PARAMETERS)


def exact_states(points: int) -> Array:
    """The states at the save points; `tests/benchmarks/test_references.py` checks them."""
    options: Any = {"solver": "dopri8", "rtol": 1e-13, "atol": 1e-14, "max_steps": 20000}
    return jo.solve(lorenz, *inputs(points), **options).ys


def errors(points: int) -> tuple[float, float]:
    """The largest error of each."""
    y0, ts, args = inputs(points)
    exact = exact_states(points)
    ours = jo.solve(lorenz, y0, ts, args, rtol=RTOL, atol=ATOL).ys
    peer = diffrax_values(lorenz, y0, ts, args, RTOL, ATOL, ends=points == 2)
    peer = peer[-1:] if points == 2 else peer
    exact_for_peer = exact[-1:] if points == 2 else exact
    return float(jnp.abs(ours - exact).max()), float(jnp.abs(peer - exact_for_peer).max())


def rows() -> list[Comparison]:
    solves = [solve_row(points, target) for points, target in TARGETS.items()]
    return [*solves, *(compile_row(points) for points in (2, 100))]


def solve_row(points: int, target: str) -> Comparison:
    """The run times with so many save points."""
    (ours, args), (peer, peer_args) = make_ours(points), make_peer(points)
    our_time, peer_time = run_times(lambda: ours(*args), lambda: peer(*peer_args), repeats=301)
    work = "end state only" if points == 2 else f"{points:,} save points"
    return Comparison(work, our_time, peer_time, target, *errors(points))


def compile_row(points: int) -> Comparison:
    """The compile times with so many save points."""
    our_time, peer_time = compile_times(lambda: make_ours(points), lambda: make_peer(points))
    work = "compile, end state" if points == 2 else f"compile, {points} save points"
    ratio = f"{our_time / peer_time:.2f}x"
    return Comparison(work, our_time, peer_time, "<= 0.4x", note=ratio)
