"""What a training shows while it runs: a bar, or lines where there is no terminal."""

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..integrate.progress import tqdm_class
from ..problem.errors import OptionError
from .log import History, shown_names

# Seconds between two texts of a bar, and between two lines.
BAR_INTERVAL, LINE_INTERVAL = 0.1, 5.0


class Display(Protocol):
    """What shows the progress."""

    def update(self, text: Callable[[], str]) -> None:
        """Count a step; `text` is called only where it is shown."""
        ...

    def close(self) -> None:
        """Show the last text."""
        ...


class Silence:
    """Shows nothing."""

    def update(self, text: Callable[[], str]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A bar of tqdm, in a terminal or a notebook."""

    def __init__(self, make: Any, total: int | None, label: str) -> None:
        self._bar = make(total=total, desc=label)
        self._text: Callable[[], str] | None = None
        self._shown = 0.0

    def update(self, text: Callable[[], str]) -> None:
        """Count a step."""
        self._text, now = text, time.perf_counter()
        if now - self._shown > BAR_INTERVAL:
            self._bar.set_postfix_str(text(), refresh=False)
            self._shown = now
        self._bar.update()

    def close(self) -> None:
        """Show the last text, and end the line."""
        if self._text is not None:
            self._bar.set_postfix_str(self._text())
        self._bar.close()


class Lines:
    """A line every few seconds, and one at the end, for log files."""

    def __init__(self, total: int | None, label: str) -> None:
        self._total, self._label, self._done = total, label, 0
        self._start = self._shown = time.perf_counter()
        self._text: Callable[[], str] | None = None

    def update(self, text: Callable[[], str]) -> None:
        """Count a step."""
        self._text, self._done = text, self._done + 1
        now = time.perf_counter()
        if now - self._shown > LINE_INTERVAL:
            self._show(now)

    def close(self) -> None:
        """Write the last line."""
        if self._text is not None:
            self._show(time.perf_counter())

    def _show(self, now: float) -> None:
        assert self._text is not None
        self._shown, elapsed = now, now - self._start
        share, left = "", ""
        if self._total is not None:
            share = f" {100 * self._done // self._total}%"
            left = f" of {elapsed * self._total / self._done:.0f}"
        steps = self._done if self._total is None else f"{self._done}/{self._total}"
        text = f"{self._label}:{share} {steps} [{elapsed:.0f}{left} s, {self._text()}]"
        print(text, file=sys.stderr, flush=True)


def open_display(progress: bool | None, total: int | None, label: str) -> Display:
    """A bar where it can be shown, else lines; nothing if `progress` is False.

    **Raises:** `OptionError` if `progress` is True and tqdm is not installed.
    """
    if progress is False:
        return Silence()
    try:
        make = tqdm_class()
    except OptionError:
        if progress:
            raise
        return Silence()
    notebook = any(base.__name__ == "tqdm_notebook" for base in make.__mro__)
    terminal = getattr(sys.stderr, "isatty", lambda: False)()
    return Bar(make, total, label) if notebook or terminal else Lines(total, label)


def progress_text(history: History) -> str:
    """The last values, and the time per step."""
    record = history.records[-1]
    values = {name: f"{float(record[name]):.4g}" for name in shown_names(record)}
    if history.validations:
        values["validation loss"] = f"{history.validations[-1]['loss']:.4g}"
    values["ms/step"] = f"{1e3 * float(np.median(history.seconds[-20:])):.1f}"
    return ", ".join(f"{name} {value}" for name, value in values.items())
