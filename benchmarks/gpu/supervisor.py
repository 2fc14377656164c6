"""The process that stays: it starts one that measures for each section, and outlives it."""

import dataclasses
import multiprocessing
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.gpu.device import Card, this_card
from benchmarks.gpu.jobs import Key, Part, Row
from benchmarks.gpu.report import publish, shown
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.worker import Begun, Order, Provisional, work

# Seconds kept for writing, those to begin, and what a second round is worth while for.
WRITING, BEGINNING, SECOND = 5.0, 120.0, 20.0


class Findings:
    """What is known so far, and the page that says it."""

    def __init__(self, card: Card, folder: pathlib.Path, begin: float) -> None:
        self.card, self.folder, self.begin = card, folder, begin
        self.parts: list[Part] = []
        self.rows: dict[Key, Row] = {}
        self.done: set[Key] = set()
        self.troubles: list[str] = []

    def plan(self, part: Part, rows: list[Row]) -> None:
        """What a section is going to have; a second process of it says so again."""
        if part.keys[0] not in self.rows:
            self.parts.append(part)
            self.rows |= {row.key: row for row in rows}

    def add(self, row: Row) -> None:
        """Print it, keep it, write the page."""
        self.rows[row.key] = row
        self.done.add(row.key)
        print(f"{time.time() - self.begin:6.1f} s  {shown(row)}", flush=True)
        self.publish()

    def failed(self, key: Key, why: str) -> None:
        self.add(dataclasses.replace(self.rows[key], failure=why))

    def publish(self, last: bool = False) -> list[pathlib.Path]:
        """Write the page as far as it has come, and the figure at last."""
        seconds = time.time() - self.begin
        return publish(self.folder, self.card, self.parts, self.rows, self.troubles, seconds, last)


def ask_card() -> Card | str:
    """What there is, asked in a process of its own: what holds a device here holds its memory."""
    receive, process = _started(_send_card, ())
    try:
        if receive.poll(BEGINNING):
            return receive.recv()
        return f"JAX has not started in {BEGINNING:.0f} s"
    except EOFError:
        process.join()
        return f"JAX does not start here (status {process.exitcode})"
    finally:
        process.kill()


def _send_card(connection: Any) -> None:
    connection.send(this_card())


def measure(shares: Mapping[str, float], sizes: Sizes, end: float, findings: Findings) -> None:
    """Section after section; then what was left out, if there is time.

    What a section does not need of its share of the time is for those that follow.
    """
    _round(shares, sizes, end - WRITING, findings)
    skipped = {key.section for key in findings.rows if key not in findings.done}
    if end - time.time() > SECOND:
        again = {name: share for name, share in shares.items() if name in skipped}
        _round(again, sizes, end - WRITING, findings)
    for path in findings.publish(last=True):
        print(f"written to {path}", flush=True)


def _round(shares: Mapping[str, float], sizes: Sizes, end: float, findings: Findings) -> None:
    left = sum(shares.values())
    for name, share in shares.items():
        now = time.time()
        until = now + (end - now) * share / left
        left -= share
        _section(Order(name, sizes, until), findings)
        if all(key.section != name for key in findings.rows):
            findings.troubles.append(f"{name}: nothing of it was begun")


def _section(order: Order, findings: Findings) -> None:
    """Start processes until one ends by itself or by the clock."""
    while True:
        end = _one_process(order._replace(done=frozenset(findings.done)), findings)
        if end.why is None:
            return
        # Of several at work one did it, which the next process finds out; all are late together.
        known = end.late or order.singly or len(end.begun) == 1
        for key in end.begun if known else ():
            if key not in findings.done:  # it may have said itself what happened
                findings.failed(key, end.why)
        if known and not end.begun:
            findings.troubles.append(f"{order.section}: {end.why}")
            return
        order = order._replace(singly=not known)


class _End(NamedTuple):
    """Why a process died, None if it was over; what was at work then; whether for too long."""

    why: str | None
    begun: tuple[Key, ...] = ()
    late: bool = False


def _one_process(order: Order, findings: Findings) -> _End:
    receive, process = _started(work, (order,))
    begun = Begun(())
    try:
        while True:
            silence = order.sizes.silence
            if not receive.poll(min(silence, max(0.0, order.until - time.time()))):
                if time.time() >= order.until:
                    return _End(None)
                at_work = (begun.traced,) if begun.traced else begun.keys
                return _End(f"given up after {silence:.0f} s", at_work, late=True)
            message = receive.recv()
            if message is None:
                return _End(None)
            if isinstance(message, Begun):
                begun = message
            elif isinstance(message, Row):
                findings.add(message)
            elif isinstance(message, Provisional):
                findings.rows[message.row.key] = message.row
            else:
                findings.plan(*message)
    except EOFError:
        process.join()
        return _End(f"the process died with status {process.exitcode}", begun.keys)
    finally:
        process.kill()
        process.join()


def _started(target: Any, given: tuple) -> tuple[Any, Any]:
    """The end of a pipe to read from, and the process, which has no state of this one."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(send, *given), daemon=True)
    process.start()
    send.close()
    return receive, process
