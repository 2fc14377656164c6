"""How things are timed: in turn, in one process, medians; compilation from a cold cache."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison. Times in milliseconds; errors against a reference, or NaN."""

    work: str
    ours: float
    peer: float
    target: str
    our_error: float = float("nan")
    peer_error: float = float("nan")
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.peer / self.ours


def run_times(*functions: Callable[[], Any], repeats: int = 101, turn: float = 0.0) -> list[float]:
    """The median run time of each, ms; called in turn after a warm-up, so that a drift hits all.

    A turn is one call, or as many as take `turn` ms: beside one of seconds, a call of microseconds
    would else be timed with cold caches alone.
    """
    for function in functions:
        jax.block_until_ready(function())
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, seen in zip(functions, times, strict=True):
            end = time.perf_counter() + 1e-3 * turn
            while True:
                begin = time.perf_counter()
                jax.block_until_ready(function())
                now = time.perf_counter()
                seen.append(now - begin)
                if now >= end:
                    break
    return [1e3 * statistics.median(seen) for seen in times]


def compile_times(*makers: Callable[[], tuple[Any, tuple]], repeats: int = 5) -> list[float]:
    """The median time to trace and compile, ms; each maker gives a fresh jitted function."""
    times: list[list[float]] = [[] for _ in makers]
    for _ in range(repeats):
        for maker, seen in zip(makers, times, strict=True):
            jax.clear_caches()
            function, args = maker()
            begin = time.perf_counter()
            function.lower(*args).compile()
            seen.append(time.perf_counter() - begin)
    return [1e3 * statistics.median(seen) for seen in times]


def table(title: str, rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        f"### {title}",
        "",
        "| work | jaxode | peer | ratio | asked for | error, jaxode | error, peer | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.work} | {row.ours:.4g} | {row.peer:.4g} | {row.ratio:.2f} | {row.target} | "
            f"{row.our_error:.1e} | {row.peer_error:.1e} | {row.note} |"
        )
    return "\n".join(lines) + "\n"
