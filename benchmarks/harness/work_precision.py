"""Work-precision curves: error against time over a range of tolerances."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

RTOLS = tuple(10.0 ** (-0.5 * k) for k in range(6, 21))
# A curve ends at the first relative error, or the first time in ms, outside the figure.
MIN_ERROR, MAX_TIME = 1e-9, 1000.0

# A function of rtol that returns the end state.
EndStateByRtol = Callable[[float], Any]


class Point(NamedTuple):
    """A solve at one relative tolerance: its time in ms and its error."""

    rtol: float
    time: float
    error: float


# For each solver's name, the points from loose to tight tolerances.
Curves = dict[str, list[Point]]


def measure_curve(solve: EndStateByRtol, error: Callable[..., float]) -> list[Point]:
    """The points of one solver, without the tolerances at which the solve failed."""
    points = []
    jax.block_until_ready(solve(RTOLS[0]))
    for rtol in RTOLS:
        point = Point(rtol, *_time_and_error(lambda: solve(rtol), error))  # noqa: B023
        if math.isfinite(point.error):
            points.append(point)
        if point.error < MIN_ERROR or point.time > MAX_TIME:
            break
    return points


def _time_and_error(solve: Callable, error: Callable[..., float]) -> tuple[float, float]:
    """The smallest of a few run times in ms, and the error of the end state."""
    times, end = [], None
    while len(times) < 7 and sum(times) < 100:
        begin = time.perf_counter()
        end = jax.block_until_ready(solve())
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times), error(end)


def loosest_point(points: list[Point], error: float) -> Point | None:
    """The point with the loosest tolerance that reaches `error`; the next one must reach it too."""
    reached = [point.error <= error for point in points]
    for i, point in enumerate(points):
        if all(reached[i : i + 2]):
            return point
    return None


def fastest_solver(curves: Curves, error: float) -> tuple[str, Point] | None:
    """The solver that reaches `error` in the least time, and its point; None if none does."""
    points = {name: loosest_point(points, error) for name, points in curves.items()}
    reached = {name: point for name, point in points.items() if point is not None}
    return min(reached.items(), key=lambda item: item[1].time) if reached else None
