"""The process that measures a section: it compiles programs in parallel, then times them."""

import contextlib
import dataclasses
import gc
import importlib
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import jax
import jax.numpy as jnp

import jaxode as jo
from benchmarks.gpu.compilation import Program, compile_jobs, num_cores
from benchmarks.gpu.jobs import (
    PROCESSOR,
    Job,
    JobKey,
    Measurement,
    Section,
    SectionPlan,
    chunks,
    first_line,
    unmeasured,
)
from benchmarks.gpu.profiling import profile
from benchmarks.gpu.sizes import Sizes
from benchmarks.harness.timing import run_times

# Seconds of a run that is not repeated, and of one that is not started.
LONG, TOO_LONG = 2.0, 100.0
MIN_ROUNDS, MAX_ROUNDS, MIN_ROUND_MS = 3, 21, 2.0


class SectionOrder(NamedTuple):
    """The task of a process: a section, its sizes, and what is measured already.

    At the time `until` the process is killed. With `one_by_one` each program is compiled alone,
    because the previous process died while it compiled several.
    """

    section: str
    sizes: Sizes
    until: float
    done: frozenset[JobKey] = frozenset()
    one_by_one: bool = False


class Running(NamedTuple):
    """A message that names the running jobs, which are to blame if the process dies.

    If the process makes no progress, the job that is being traced is to blame alone.
    """

    keys: tuple[JobKey, ...]
    traced: JobKey | None = None


class Provisional(NamedTuple):
    """A message with a measurement that counts only if no better one follows."""

    measurement: Measurement


class TooLongError(Exception):
    """Raised for a run that would take too long to be started."""


def measure_section(connection: Connection, order: SectionOrder) -> None:
    """Send the plan, then `Running` and a measurement for each job; None at the end."""
    if order.section == PROCESSOR:
        jax.config.update("jax_platforms", "cpu")
    # The tolerance 1e-8 is intended, although float32 cannot reach it.
    warnings.filterwarnings("ignore", category=jo.ToleranceWarning)
    module = importlib.import_module(f"benchmarks.gpu.sections.{order.section}")
    # Vector fields whose operations are counted may have float64 arguments.
    with jax.enable_x64(True):
        section: Section = module.section(order.sizes)
    jax.config.update("jax_enable_x64", section.x64)
    planned = [unmeasured(order.section, section, job) for job in section.jobs]
    keys = [measurement.key for measurement in planned]
    connection.send((SectionPlan(section.title, section.text, section.base, keys), planned))
    jobs = dict(zip(keys, section.jobs, strict=True))
    SectionRunner(connection, order, jobs, dict(zip(keys, planned, strict=True))).run()
    connection.send(None)


@dataclasses.dataclass
class SectionRunner:
    """Runs jobs and sends measurements; `times` are in ms, by work and method, and by size."""

    connection: Connection
    order: SectionOrder
    jobs: dict[JobKey, Job]
    measurements: dict[JobKey, Measurement]
    times: dict[tuple, dict[int, float]] = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        """Compile and time the jobs, chunk by chunk."""
        left = [key for key in self.jobs if key not in self.order.done]
        # Each compilation has two cores, since a compiler for GPUs has threads of its own.
        for chunk in chunks(left, 1 if self.order.one_by_one else max(1, num_cores() // 2)):
            keys = [key for comparison in chunk for key in comparison]
            programs: dict[JobKey, Program] = {}
            for group in [[key] for key in keys] if self.order.one_by_one else [keys]:
                programs |= self.compile(group)
            for comparison in chunk:
                self.compare([key for key in comparison if key in programs], programs)
                gc.collect()

    def compile(self, keys: Sequence[JobKey]) -> dict[JobKey, Program]:
        """The programs of the jobs that could be compiled."""
        programs: dict[JobKey, Program] = {}
        waiting = list(keys)

        def report_running(traced: JobKey | None = None) -> None:
            self.connection.send(Running(tuple(waiting), traced))

        for key, program in compile_jobs({key: self.jobs[key] for key in keys}, report_running):
            waiting.remove(key)
            if isinstance(program, Exception):
                self.mark_failed([key], first_line(program))
            else:
                programs[key] = program
                self.update(key, compile_seconds=program.compile_seconds)
            report_running()
        return programs

    def compare(self, keys: Sequence[JobKey], programs: dict[JobKey, Program]) -> None:
        """Run each program once for its value, then time all but the long ones, interleaved."""
        successful = [key for key in keys if self.run_first(key, programs[key])]
        short = [key for key in successful if self.measurements[key].ms <= 1e3 * LONG]
        if short:
            with self.guard(short):
                self.time_interleaved(short, programs)
        for key in successful:
            if not self.measurements[key].failure:
                self.connection.send(self.measurements[key])
                if self.jobs[key].profiled:
                    self.profile(key, programs[key])
        for key in keys:
            del programs[key]

    def run_first(self, key: JobKey, program: Program) -> bool:
        """Measure one run with its error; return True if it succeeded."""
        with self.guard([key]):
            self.refuse_too_long(key)
            begin = time.perf_counter()
            outcome = jax.block_until_ready(program.call())
            ms = 1e3 * (time.perf_counter() - begin)
            self.times.setdefault(_program_kind(key), {})[key.count] = ms
            job = self.jobs[key]
            self.update(
                key, ms=ms, rounds=1, mean_steps=float(outcome.mean_steps),
                max_steps=float(outcome.max_steps), failure="",
                error=job.error(outcome.value) if job.error else math.nan,
                note=job.note(outcome.value) if job.note else "",
            )  # fmt: skip
            self.connection.send(Provisional(self.measurements[key]))
            return True
        return False

    def time_interleaved(self, keys: Sequence[JobKey], programs: dict[JobKey, Program]) -> None:
        """Replace the times of the first runs by medians."""
        calls = [programs[key].call for key in keys]
        # The first run may take several times as long as the others.
        once = sum(run_times(*calls, repeats=1))
        rounds = math.ceil(1e3 * self.order.sizes.seconds / once)
        rounds = min(max(rounds, MIN_ROUNDS), MAX_ROUNDS)
        times = run_times(*calls, repeats=rounds, min_round_ms=MIN_ROUND_MS)
        for key, ms in zip(keys, times, strict=True):
            self.update(key, ms=ms, rounds=rounds)
            self.times[_program_kind(key)][key.count] = ms

    def profile(self, key: JobKey, program: Program) -> None:
        """Add the device's activity to a measurement; without a profile it stays as it is."""
        try:
            activity = profile(program.call)
        except Exception as error:
            self.update(key, note=f"not profiled: {first_line(error)}")
            return
        if activity:
            found = self.measurements[key]
            idle_share = max(0.0, 1 - activity.busy_ms / found.ms)
            reads = activity.host_reads / found.max_steps
            self.update(key, idle_share=idle_share, reads_per_step=reads)

    def update(self, key: JobKey, **changes: float | str) -> None:
        """Replace some attributes of a measurement."""
        self.measurements[key] = dataclasses.replace(self.measurements[key], **changes)

    def refuse_too_long(self, key: JobKey) -> None:
        """**Raises:** `TooLongError` if a run is predicted to take far too long.

        The prediction is proportional to the time of a smaller run; a GPU that is not full takes
        less.
        """
        smaller = {
            n: ms for n, ms in self.times.get(_program_kind(key), {}).items() if n < key.count
        }
        if smaller:
            largest = max(smaller)
            seconds = 1e-3 * smaller[largest] * key.count / largest
            if seconds > min(TOO_LONG, 2 * (self.order.until - time.time())):
                raise TooLongError(f"skipped: about {seconds:.0f} s a run")

    @contextlib.contextmanager
    def guard(self, keys: Sequence[JobKey]) -> Iterator[None]:
        """A context in which an error fails `keys`; the process ends if the device is dead."""
        self.connection.send(Running(tuple(keys)))
        try:
            yield
        except Exception as error:
            reason = str(error) if isinstance(error, TooLongError) else first_line(error)
            self.mark_failed(keys, reason)
            gc.collect()
            if not _device_responds():
                raise SystemExit("the device does not answer any more") from None
        self.connection.send(Running(()))

    def mark_failed(self, keys: Sequence[JobKey], reason: str) -> None:
        """Send the reason as the measurement of `keys`."""
        for key in keys:
            self.update(key, failure=reason)
            self.connection.send(self.measurements[key])


def _program_kind(key: JobKey) -> tuple:
    """The part of a key that programs of different sizes share."""
    return key.work, key.method


def _device_responds() -> bool:
    """True if the device still computes."""
    try:
        return float(jnp.ones(1).sum()) == 1.0
    except Exception:
        return False
