"""What is measured: jobs, in comparisons and sections; and the row that comes of a job."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

NAN = math.nan
OUT_OF_TIME = "skipped: out of time"
# The section that has no GPU.
PROCESSOR = "processor"


class Key(NamedTuple):
    """Which job it is; those that differ in `by` alone are a comparison, and timed in turn."""

    section: str
    work: str
    count: int
    by: str


class Outcome(NamedTuple):
    """What was computed, and the steps that a trajectory tried: the mean over them, the most."""

    value: Any
    steps: Any = NAN
    most: Any = NAN


@dataclasses.dataclass(frozen=True)
class Job:
    """One thing to time.

    `make` gives a function and its inputs, the arrays; it is compiled, or called as it is where
    `eager`. `error` and `note` are asked with the outcome's value; `flops` are those of a step of
    a trajectory; `traced`: the profiler watches a run.
    """

    work: str
    count: int
    by: str
    make: Callable[[], tuple[Callable[..., Outcome], tuple]]
    error: Callable[[Any], float] | None = None
    note: Callable[[Any], str] | None = None
    flops: float = NAN
    eager: bool = False
    traced: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """Jobs with a title; ratios are the times of `base`, the fastest of them, over the others."""

    title: str
    text: str
    jobs: Sequence[Job]
    base: str = "diffrax"
    x64: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found; `failure` says in a line why nothing was."""

    key: Key
    flops: float = NAN
    x64: bool = False
    ms: float = NAN
    turns: int = 0
    compiled: float = NAN  # seconds
    steps: float = NAN
    most: float = NAN
    error: float = NAN
    note: str = ""
    idle: float = NAN
    read_backs: float = NAN  # per step
    failure: str = OUT_OF_TIME

    @property
    def ns_per_step(self) -> float:
        """Nanoseconds per step of a trajectory."""
        return 1e6 * self.ms / (self.key.count * self.steps)

    @property
    def gflops(self) -> float:
        """Useful operations per nanosecond."""
        return self.flops / self.ns_per_step


class Part(NamedTuple):
    """A section as the page has it."""

    title: str
    text: str
    base: str
    keys: list[Key]


def blank(name: str, section: Section, job: Job) -> Row:
    """The row of a job that has not run."""
    return Row(Key(name, job.work, job.count, job.by), job.flops, section.x64)


def chunks(keys: Sequence[Key], least: int) -> Iterator[list[list[Key]]]:
    """Comparisons, whole, by chunks of `least` jobs or a few more: what is compiled together."""
    comparisons: dict[tuple, list[Key]] = {}
    for key in keys:
        comparisons.setdefault(key[:3], []).append(key)
    chunk: list[list[Key]] = []
    for comparison in comparisons.values():
        chunk.append(comparison)
        if sum(map(len, chunk)) >= least:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, short."""
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    return f"{type(error).__name__}: {said}".replace("|", "/")[:200]
