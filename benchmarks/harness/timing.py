"""Run times as medians of interleaved calls, and compile times from a cold cache."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


class Median(float):
    """A median time in ms, of so many `runs`."""

    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Median":
        """The median of times in seconds."""
        median = cls(1e3 * statistics.median(seconds))
        median.runs = len(seconds)
        return median

    def times(self, factor: float) -> "Median":
        """The median in another unit, of as many runs."""
        median = Median(factor * self)
        median.runs = self.runs
        return median


def run_times(
    *functions: Callable[[], Any], repeats: int = 101, min_round_ms: float = 0.0
) -> list[Median]:
    """The median run time of each function in ms, after one warm-up call.

    The functions are called in rounds, one after the other, so that a drift of the machine's speed
    affects all of them. In a round each function runs once, or for at least `min_round_ms`: next to
    a call that takes seconds, a call of microseconds would otherwise always start with cold caches.
    """
    for function in functions:
        jax.block_until_ready(function())
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, samples in zip(functions, times, strict=True):
            end = time.perf_counter() + 1e-3 * min_round_ms
            while True:
                begin = time.perf_counter()
                jax.block_until_ready(function())
                now = time.perf_counter()
                samples.append(now - begin)
                if now >= end:
                    break
    return [Median.of(samples) for samples in times]


def compile_times(*makers: Callable[[], tuple[Any, tuple]], repeats: int = 5) -> list[Median]:
    """The median time in ms to trace and compile; each maker returns a newly jitted function."""
    times: list[list[float]] = [[] for _ in makers]
    for _ in range(repeats):
        for maker, samples in zip(makers, times, strict=True):
            jax.clear_caches()
            function, args = maker()
            begin = time.perf_counter()
            function.lower(*args).compile()
            samples.append(time.perf_counter() - begin)
    return [Median.of(samples) for samples in times]
