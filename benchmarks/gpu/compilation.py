"""Programs of jobs, compiled side by side: a GPU's compiler leaves most of a machine idle."""

import concurrent.futures
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from benchmarks.gpu.jobs import Job, Key, Outcome


class Program(NamedTuple):
    """A call that gives the outcome, and the seconds to trace and compile it."""

    call: Callable[[], Outcome]
    seconds: float


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compiled(
    jobs: Mapping[Key, Job], traces: Callable[[Key | None], None]
) -> Iterator[tuple[Key, Program | Exception]]:
    """Each as soon as it is there, or what was raised instead; `traces` hears what is traced."""
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        under_way: dict[concurrent.futures.Future, Key] = {}
        # Traced one after the other: a model's functions are exchanged while it is.
        for key, job in jobs.items():
            traces(key)
            begin = time.perf_counter()
            try:
                function, inputs = job.make()
                lowered = function if job.eager else jax.jit(function).lower(*inputs)
            except Exception as error:
                yield key, error
                continue
            seconds = time.perf_counter() - begin
            under_way[pool.submit(_compile, lowered, inputs, seconds)] = key
        traces(None)
        for future in concurrent.futures.as_completed(under_way):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield under_way[future], error or future.result()


def _compile(lowered: Any, inputs: tuple, seconds: float) -> Program:
    begin = time.perf_counter()
    function = lowered.compile() if isinstance(lowered, jax.stages.Lowered) else lowered
    seconds += time.perf_counter() - begin
    return Program(lambda: function(*inputs), seconds)
