"""Compilation of several jobs in parallel, since a compiler for GPUs uses few processors."""

import concurrent.futures
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from benchmarks.gpu.jobs import Job, JobKey, Outcome


class Program(NamedTuple):
    """A compiled job: a call that returns its outcome, and the seconds to trace and compile."""

    call: Callable[[], Outcome]
    compile_seconds: float


def num_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compile_jobs(
    jobs: Mapping[JobKey, Job], on_trace: Callable[[JobKey | None], None]
) -> Iterator[tuple[JobKey, Program | Exception]]:
    """Yield each program as soon as it is compiled, or the exception that its job raised.

    `on_trace` is called with the job that is traced next, and with None after the last one.
    """
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        running: dict[concurrent.futures.Future, JobKey] = {}
        # Jobs are traced one after the other, since those of models replace module attributes.
        for key, job in jobs.items():
            on_trace(key)
            begin = time.perf_counter()
            try:
                function, inputs = job.make()
                lowered = function if job.eager else jax.jit(function).lower(*inputs)
            except Exception as error:
                yield key, error
                continue
            seconds = time.perf_counter() - begin
            running[pool.submit(_compile, lowered, inputs, seconds)] = key
        on_trace(None)
        for future in concurrent.futures.as_completed(running):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield running[future], error or future.result()


def _compile(lowered: Any, inputs: tuple, trace_seconds: float) -> Program:
    """The program of a lowered function, or of an eager one."""
    begin = time.perf_counter()
    function = lowered.compile() if isinstance(lowered, jax.stages.Lowered) else lowered
    seconds = trace_seconds + time.perf_counter() - begin
    return Program(lambda: function(*inputs), seconds)
