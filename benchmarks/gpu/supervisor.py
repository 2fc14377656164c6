"""The supervising process: it starts a measuring process for each section, and outlives it."""

import dataclasses
import multiprocessing
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.gpu.device import Device, current_device
from benchmarks.gpu.jobs import JobKey, Measurement, SectionPlan
from benchmarks.gpu.report import progress_line, write_report
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.worker import Provisional, Running, SectionOrder, measure_section

# Seconds reserved for the report, for the start of JAX, and the least for a second pass.
REPORT_SECONDS, START_SECONDS, MIN_SECOND_PASS = 5.0, 120.0, 20.0


class Results:
    """The measurements so far, and the report that shows them."""

    def __init__(self, device: Device, folder: pathlib.Path, begin: float) -> None:
        self.device, self.folder, self.begin = device, folder, begin
        self.sections: list[SectionPlan] = []
        self.measurements: dict[JobKey, Measurement] = {}
        self.done: set[JobKey] = set()
        self.problems: list[str] = []

    def add_section(self, section: SectionPlan, planned: list[Measurement]) -> None:
        """Add a section's plan, unless an earlier process of the section has sent it."""
        if section.keys[0] not in self.measurements:
            self.sections.append(section)
            self.measurements |= {measurement.key: measurement for measurement in planned}

    def add(self, measurement: Measurement) -> None:
        """Print and store a measurement, and write the report."""
        self.measurements[measurement.key] = measurement
        self.done.add(measurement.key)
        print(f"{time.time() - self.begin:6.1f} s  {progress_line(measurement)}", flush=True)
        self.write()

    def mark_failed(self, key: JobKey, reason: str) -> None:
        """Add the reason as the measurement of a job."""
        self.add(dataclasses.replace(self.measurements[key], failure=reason))

    def write(self, last: bool = False) -> list[pathlib.Path]:
        """Write the report with the measurements so far, the last time with the figure."""
        seconds = time.time() - self.begin
        return write_report(
            self.folder, self.device, self.sections, self.measurements, self.problems, seconds, last
        )


def query_device() -> Device | str:
    """The device, or a sentence that says why there is none.

    A separate process asks JAX, because a process that has used a device keeps its memory.
    """
    receive, process = _start_process(_send_device, ())
    try:
        if receive.poll(START_SECONDS):
            return receive.recv()
        return f"JAX has not started in {START_SECONDS:.0f} s"
    except EOFError:
        process.join()
        return f"JAX does not start here (status {process.exitcode})"
    finally:
        process.kill()


def _send_device(connection: Any) -> None:
    """Send the device of this process."""
    connection.send(current_device())


def measure(shares: Mapping[str, float], sizes: Sizes, end: float, results: Results) -> None:
    """Measure every section, then what was left out, if there is time.

    Time that a section does not need is available to the following ones.
    """
    _run_sections(shares, sizes, end - REPORT_SECONDS, results)
    skipped = {key.section for key in results.measurements if key not in results.done}
    if end - time.time() > MIN_SECOND_PASS:
        again = {name: share for name, share in shares.items() if name in skipped}
        _run_sections(again, sizes, end - REPORT_SECONDS, results)
    for path in results.write(last=True):
        print(f"written to {path}", flush=True)


def _run_sections(shares: Mapping[str, float], sizes: Sizes, end: float, results: Results) -> None:
    """Run sections one after the other, each for its share of the time that is left."""
    left = sum(shares.values())
    for name, share in shares.items():
        now = time.time()
        until = now + (end - now) * share / left
        left -= share
        _run_section(SectionOrder(name, sizes, until), results)
        if all(key.section != name for key in results.measurements):
            results.problems.append(f"{name}: no job was started")


def _run_section(order: SectionOrder, results: Results) -> None:
    """Start processes until one finishes, or the section's time is over."""
    while True:
        end = _run_process(order._replace(done=frozenset(results.done)), results)
        if end.reason is None:
            return
        # If several jobs were running, the next process finds out which one failed; after a
        # timeout all of them have failed.
        identified = end.timed_out or order.one_by_one or len(end.running) == 1
        for key in end.running if identified else ():
            # The process may have sent the reason itself.
            if key not in results.done:
                results.mark_failed(key, end.reason)
        if identified and not end.running:
            results.problems.append(f"{order.section}: {end.reason}")
            return
        order = order._replace(one_by_one=not identified)


class _ProcessEnd(NamedTuple):
    """The reason why a process died, None if it finished, and the jobs that were running."""

    reason: str | None
    running: tuple[JobKey, ...] = ()
    timed_out: bool = False


def _run_process(order: SectionOrder, results: Results) -> _ProcessEnd:
    """Start a measuring process and store what it sends until it ends."""
    receive, process = _start_process(measure_section, (order,))
    running = Running(())
    try:
        while True:
            timeout = order.sizes.timeout
            if not receive.poll(min(timeout, max(0.0, order.until - time.time()))):
                if time.time() >= order.until:
                    return _ProcessEnd(None)
                keys = (running.traced,) if running.traced else running.keys
                return _ProcessEnd(f"given up after {timeout:.0f} s", keys, timed_out=True)
            message = receive.recv()
            if message is None:
                return _ProcessEnd(None)
            if isinstance(message, Running):
                running = message
            elif isinstance(message, Measurement):
                results.add(message)
            elif isinstance(message, Provisional):
                results.measurements[message.measurement.key] = message.measurement
            else:
                results.add_section(*message)
    except EOFError:
        process.join()
        return _ProcessEnd(f"the process died with status {process.exitcode}", running.keys)
    finally:
        process.kill()
        process.join()


def _start_process(target: Any, args: tuple) -> tuple[Any, Any]:
    """Start a process that shares no state with this one; return its connection and the process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(send, *args), daemon=True)
    process.start()
    send.close()
    return receive, process
