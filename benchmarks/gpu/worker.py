"""The process that measures a section: compiles side by side, then times in turn, all guarded."""

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
from benchmarks.gpu.compilation import Program, compiled, cores
from benchmarks.gpu.jobs import PROCESSOR, Job, Key, Part, Row, Section, blank, chunks, first_line
from benchmarks.gpu.profiling import watched
from benchmarks.gpu.sizes import Sizes
from benchmarks.harness.timing import run_times

# Seconds: of a run that is not repeated, and of one that is not begun.
LONG, TOO_LONG = 2.0, 100.0
# Runs of a comparison, and milliseconds that each has at least in a turn.
FEWEST, MOST, TURN = 3, 21, 2.0


class Order(NamedTuple):
    """What a process is told to do.

    `until`: when it will be ended. `done`: what is not to be measured again. `singly`: the one
    before it died while it compiled several, so now each is compiled by itself.
    """

    section: str
    sizes: Sizes
    until: float
    done: frozenset[Key] = frozenset()
    singly: bool = False


class Begun(NamedTuple):
    """What is at work: if the process dies now, it is theirs; `traced` alone if it is silent."""

    keys: tuple[Key, ...]
    traced: Key | None = None


class Provisional(NamedTuple):
    """A row after one run, for the case that there is no time for more; or one with more in it."""

    row: Row


class TooLongError(Exception):
    """A run that is not begun."""


def work(connection: Connection, order: Order) -> None:
    """Send the plan, then `Begun` and a row for each job; None at the end."""
    if order.section == PROCESSOR:
        jax.config.update("jax_platforms", "cpu")
    warnings.filterwarnings("ignore", category=jo.ToleranceWarning)  # 1e-8 in float32 is asked for
    module = importlib.import_module(f"benchmarks.gpu.sections.{order.section}")
    with jax.enable_x64(True):  # the shapes of the fields whose operations are counted
        section: Section = module.section(order.sizes)
    jax.config.update("jax_enable_x64", section.x64)
    rows = [blank(order.section, section, job) for job in section.jobs]
    keys = [row.key for row in rows]
    connection.send((Part(section.title, section.text, section.base, keys), rows))
    jobs = dict(zip(keys, section.jobs, strict=True))
    Bench(connection, order, jobs, {row.key: row for row in rows}).run()
    connection.send(None)


@dataclasses.dataclass
class Bench:
    """Runs jobs and sends rows; `times` are milliseconds by work and `by`, and by size."""

    connection: Connection
    order: Order
    jobs: dict[Key, Job]
    rows: dict[Key, Row]
    times: dict[tuple, dict[int, float]] = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        """Chunk by chunk."""
        left = [key for key in self.jobs if key not in self.order.done]
        # Two cores for each: a GPU's compiler has threads of its own.
        for chunk in chunks(left, 1 if self.order.singly else max(1, cores() // 2)):
            keys = [key for comparison in chunk for key in comparison]
            programs: dict[Key, Program] = {}
            for group in [[key] for key in keys] if self.order.singly else [keys]:
                programs |= self.compiled(group)
            for comparison in chunk:
                self.compare([key for key in comparison if key in programs], programs)
                gc.collect()

    def compiled(self, keys: Sequence[Key]) -> dict[Key, Program]:
        """Programs of those that could be compiled."""
        found: dict[Key, Program] = {}
        waiting = list(keys)

        def said(traced: Key | None = None) -> None:
            self.connection.send(Begun(tuple(waiting), traced))

        for key, program in compiled({key: self.jobs[key] for key in keys}, said):
            waiting.remove(key)
            if isinstance(program, Exception):
                self.failed([key], first_line(program))
            else:
                found[key] = program
                self.rows[key] = dataclasses.replace(self.rows[key], compiled=program.seconds)
            said()
        return found

    def compare(self, keys: Sequence[Key], programs: dict[Key, Program]) -> None:
        """Run each once for what it computes; then all in turn, but for long ones."""
        good = [key for key in keys if self.first(key, programs[key])]
        short = [key for key in good if self.rows[key].ms <= 1e3 * LONG]
        if short:
            with self.guard(short):
                self.in_turn(short, programs)
        for key in good:
            if not self.rows[key].failure:
                self.connection.send(self.rows[key])
                if self.jobs[key].traced:
                    self.watch(key, programs[key])
        for key in keys:
            del programs[key]

    def first(self, key: Key, program: Program) -> bool:
        """The row of a first run, and whether there was one."""
        with self.guard([key]):
            self.refuse_too_long(key)
            begin = time.perf_counter()
            outcome = jax.block_until_ready(program.call())
            ms = 1e3 * (time.perf_counter() - begin)
            self.times.setdefault(_kind(key), {})[key.count] = ms
            job = self.jobs[key]
            self.rows[key] = dataclasses.replace(
                self.rows[key], ms=ms, turns=1, steps=float(outcome.steps),
                most=float(outcome.most), failure="",
                error=job.error(outcome.value) if job.error else math.nan,
                note=job.note(outcome.value) if job.note else "",
            )  # fmt: skip
            self.connection.send(Provisional(self.rows[key]))
            return True
        return False

    def in_turn(self, keys: Sequence[Key], programs: dict[Key, Program]) -> None:
        """Medians, in the place of the times of first runs."""
        calls = [programs[key].call for key in keys]
        once = sum(run_times(*calls, repeats=1))  # a first run may be several times as long
        repeats = min(max(math.ceil(1e3 * self.order.sizes.seconds / once), FEWEST), MOST)
        for key, ms in zip(keys, run_times(*calls, repeats=repeats, turn=TURN), strict=True):
            self.rows[key] = dataclasses.replace(self.rows[key], ms=ms, turns=repeats)
            self.times[_kind(key)][key.count] = ms

    def watch(self, key: Key, program: Program) -> None:
        """What the profiler says; without it the row is as good."""
        row = self.rows[key]
        try:
            seen = watched(program.call)
        except Exception as error:
            self.rows[key] = dataclasses.replace(row, note=f"not profiled: {first_line(error)}")
            return
        if seen:
            idle, read = max(0.0, 1 - seen.busy / row.ms), seen.read_backs / row.most
            self.rows[key] = dataclasses.replace(row, idle=idle, read_backs=read)

    def refuse_too_long(self, key: Key) -> None:
        """**Raises:** `TooLongError` if a run, going by a smaller one, would take far too long.

        Going by its size alone, that is: a GPU that is not full takes less.
        """
        smaller = {n: ms for n, ms in self.times.get(_kind(key), {}).items() if n < key.count}
        if smaller:
            largest = max(smaller)
            seconds = 1e-3 * smaller[largest] * key.count / largest
            if seconds > min(TOO_LONG, 2 * (self.order.until - time.time())):
                raise TooLongError(f"skipped: about {seconds:.0f} s a run")

    @contextlib.contextmanager
    def guard(self, keys: Sequence[Key]) -> Iterator[None]:
        """An error becomes the rows of `keys`; one that has killed the device ends the process."""
        self.connection.send(Begun(tuple(keys)))
        try:
            yield
        except Exception as error:
            self.failed(keys, str(error) if isinstance(error, TooLongError) else first_line(error))
            gc.collect()
            if not _alive():
                raise SystemExit("the device does not answer any more") from None
        self.connection.send(Begun(()))

    def failed(self, keys: Sequence[Key], why: str) -> None:
        for key in keys:
            self.rows[key] = dataclasses.replace(self.rows[key], failure=why)
            self.connection.send(self.rows[key])


def _kind(key: Key) -> tuple:
    return key.work, key.by


def _alive() -> bool:
    try:
        return float(jnp.ones(1).sum()) == 1.0
    except Exception:
        return False
