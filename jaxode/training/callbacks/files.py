"""Callbacks that write files: tables of comma-separated values, and TensorBoard's events."""

import csv as csv_format
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...problem.errors import OptionError
from ...problem.validation import check_count, shown_value
from ..state import TrainingState
from .lines import scalars_of


def csv(path: str | os.PathLike, every: int = 1) -> Callable[[TrainingState], None]:
    """Make a callback that writes a table with a row for every `every` steps.

    An existing file is replaced. Each row is on the disk when the callback returns. Columns: step,
    epoch, loss, validation_loss (empty where there was none), the metrics, learning_rate,
    evaluations, rejected, seconds.

    **Raises:** `OptionError` for a path in no folder, or an `every` that is no positive integer.
    """
    file, every = _path_in_folder("path", path), check_count("every", every)
    columns: list[str] = []

    def write(state: TrainingState) -> None:
        if state.step % every and columns:
            return
        row = {"step": state.step, "epoch": state.epoch, **scalars_of(state)}
        row["seconds"] = round(state.seconds, 6)
        begins = not columns
        if begins:
            names = ["step", "epoch", "loss", "validation_loss", *state.metrics]
            columns.extend([*names, "learning_rate", "evaluations", "rejected", "seconds"])
        with open(file, "w" if begins else "a", newline="") as out:
            table = csv_format.DictWriter(out, columns, restval="", extrasaction="ignore")
            if begins:
                table.writeheader()
            if state.step % every == 0:
                table.writerow(row)

    return write


def tensorboard(folder: str | os.PathLike, every: int = 1) -> Callable[[TrainingState], None]:
    """Make a callback that writes the scalars of every `every` steps for TensorBoard.

    **Raises:** `OptionError` if tensorboardX is not installed, for a folder that is no path or is
    a file, or an `every` that is no positive integer.
    """
    target, every = _path_in_folder("folder", folder, parents=True), check_count("every", every)
    make_writer = _writer_class()
    writers: list[Any] = []

    def write(state: TrainingState) -> None:
        if not writers:
            writers.append(make_writer(str(target)))
        if state.step % every == 0:
            for name, value in scalars_of(state).items():
                writers[0].add_scalar(name, value, state.step)
            writers[0].flush()

    return write


def _path_in_folder(what: str, path: Any, parents: bool = False) -> Path:
    """Check a path of a file in a folder that is there, or of a folder that may be made."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise OptionError(f"{what} must be a path, got {shown_value(path)}")
    found = Path(os.fsdecode(path))
    if parents and found.exists() and not found.is_dir():
        raise OptionError(f"{what} must be a folder, but {found} is a file")
    if not parents and (found.is_dir() or not found.parent.is_dir()):
        raise OptionError(f"{what} must be a file in a folder that exists, got {found}")
    return found


def _writer_class() -> Any:
    """The writer of tensorboardX. **Raises:** `OptionError` if it is not installed."""
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OptionError(
            'jo.callbacks.tensorboard needs tensorboardX: pip install "jaxode[tensorboard]"'
        ) from error
    return SummaryWriter
