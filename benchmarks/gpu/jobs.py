"""Jobs to measure, in comparisons and sections, and the measurement that each job yields."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

NAN = math.nan
OUT_OF_TIME = "skipped: out of time"
# The section that runs without a GPU.
PROCESSOR = "processor"


class JobKey(NamedTuple):
    """The identity of a job; keys that differ in `method` alone are one comparison."""

    section: str
    work: str
    count: int
    method: str


class Outcome(NamedTuple):
    """The computed value, with the mean and the largest number of steps over trajectories."""

    value: Any
    mean_steps: Any = NAN
    max_steps: Any = NAN


@dataclasses.dataclass(frozen=True)
class Job:
    """One program to time.

    `make` returns a function and its input arrays; the function is compiled, unless the job is
    `eager`. `error` and `note` take the outcome's value; `flops` are the operations of one step of
    one trajectory; with `profiled` the profiler records one more run.
    """

    work: str
    count: int
    method: str
    make: Callable[[], tuple[Callable[..., Outcome], tuple]]
    error: Callable[[Any], float] | None = None
    note: Callable[[Any], str] | None = None
    flops: float = NAN
    eager: bool = False
    profiled: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """Jobs with a title and a text; ratios are the times of the method `base` over the others."""

    title: str
    text: str
    jobs: Sequence[Job]
    base: str = "diffrax"
    x64: bool = False


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The result of a job; `failure` says in one line why there is none."""

    key: JobKey
    flops: float = NAN
    x64: bool = False
    ms: float = NAN
    rounds: int = 0
    compile_seconds: float = NAN
    mean_steps: float = NAN
    max_steps: float = NAN
    error: float = NAN
    note: str = ""
    idle_share: float = NAN
    reads_per_step: float = NAN
    failure: str = OUT_OF_TIME

    @property
    def ns_per_step(self) -> float:
        """Nanoseconds per step of a trajectory."""
        return 1e6 * self.ms / (self.key.count * self.mean_steps)

    @property
    def gflops(self) -> float:
        """Useful operations per nanosecond."""
        return self.flops / self.ns_per_step


class SectionPlan(NamedTuple):
    """A section as the report shows it: its text and the keys of its jobs."""

    title: str
    text: str
    base: str
    keys: list[JobKey]


def unmeasured(name: str, section: Section, job: Job) -> Measurement:
    """The measurement of a job that has not run."""
    return Measurement(JobKey(name, job.work, job.count, job.method), job.flops, section.x64)


def chunks(keys: Sequence[JobKey], min_jobs: int) -> Iterator[list[list[JobKey]]]:
    """Chunks of whole comparisons with at least `min_jobs` jobs each, to be compiled together."""
    comparisons: dict[tuple, list[JobKey]] = {}
    for key in keys:
        comparisons.setdefault(key[:3], []).append(key)
    chunk: list[list[JobKey]] = []
    for comparison in comparisons.values():
        chunk.append(comparison)
        if sum(map(len, chunk)) >= min_jobs:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message, shortened."""
    lines = str(error).strip().splitlines()
    message = lines[0] if lines else ""
    return f"{type(error).__name__}: {message}".replace("|", "/")[:200]
