"""Error against time over tolerances: stiff solvers and peers on single stiff problems."""

import functools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import jaxode as jo
from benchmarks.problems.stiff import Stiff
from benchmarks.speed import stiff_peers as peers_stiff
from benchmarks.speed.stiff_peers import Run
from jaxode.solvers.registry import SOLVERS

# Those of jaxode's stiff solvers that are measured; "auto" is there to show what it costs.
OURS = ("rosenbrock23", "rodas4", "rodas5p", "auto", "kvaerno5", "radau_iia5", "bdf")
RTOLS = tuple(10.0 ** (-0.5 * k) for k in range(6, 21))
# A curve ends where its errors or its times leave the figure: relative, ms.
LEAST_ERROR, MOST_TIME = 1e-9, 1000.0


class Point(NamedTuple):
    """A solve to a relative tolerance: its time in ms, its error."""

    rtol: float
    time: float
    error: float


# From a solver's name, the points from loose to tight tolerances.
Curves = dict[str, list[Point]]


@functools.cache
def curves(problem: Stiff) -> tuple[Curves, Curves]:
    """Those of jaxode's solvers, and of the peers."""
    ours = {name: our_run(name, problem) for name in OURS if name in SOLVERS}
    found = [
        {name: curve(run, problem.error) for name, run in runs.items()}
        for runs in (ours, peers_stiff.runs(problem))
    ]
    return found[0], found[1]


@functools.cache
def our_run(solver: str, problem: Stiff) -> Run:
    """The end state of `problem` by one of jaxode's solvers."""

    @jax.jit
    def end(y0, rates, rtol, atol):
        return jo.solve(
            problem.field, y0, (0.0, problem.t1), rates,
            solver=solver, rtol=rtol, atol=atol, max_steps=100_000,
        ).y1  # fmt: skip

    y0, rates = jnp.array(problem.y0), jnp.array(problem.rates)
    return lambda rtol: end(y0, rates, rtol, rtol * problem.share)


def curve(run: Run, error: Callable[..., float]) -> list[Point]:
    """The points of one solver. Solves that failed have none."""
    points = []
    jax.block_until_ready(run(RTOLS[0]))
    for rtol in RTOLS:
        point = Point(rtol, *timed(lambda: run(rtol), error))  # noqa: B023
        if math.isfinite(point.error):
            points.append(point)
        if point.error < LEAST_ERROR or point.time > MOST_TIME:
            break
    return points


def timed(call: Callable, error: Callable[..., float]) -> tuple[float, float]:
    """The least of a few times of `call`, ms, and the error of what it returns."""
    times, end = [], None
    while len(times) < 7 and sum(times) < 100:
        begin = time.perf_counter()
        end = jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times), error(end)


def reaching(points: list[Point], error: float) -> Point | None:
    """The loosest tolerance that reaches `error`, as the next one does too if it is there."""
    good = [point.error <= error for point in points]
    for i, point in enumerate(points):
        if all(good[i : i + 2]):
            return point
    return None


def best(found: Curves, error: float) -> tuple[str, Point] | None:
    """The solver that reaches `error` in the least time."""
    reached = {name: reaching(points, error) for name, points in found.items()}
    able = {name: point for name, point in reached.items() if point is not None}
    return min(able.items(), key=lambda item: item[1].time) if able else None
