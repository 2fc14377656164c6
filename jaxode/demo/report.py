"""The table that the demo prints."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..training import Log
from .pelts import SPECIES

MODEL = "neural ODE"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under a header and a rule: the first column to the left, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def spaced(line: Sequence[str]) -> str:
        first, *rest = (line[i].rjust(w) if i else line[i].ljust(w) for i, w in enumerate(widths))
        return "  ".join([first, *rest])

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([spaced(lines[0]), rule, *map(spaced, lines[1:])])


def format_fits(logs: Mapping[str, Log]) -> str:
    """What each fit cost: its solver's work, the time of a step, the time to compile."""
    header = ["fit", "steps", "evaluations per solve", "rejected steps per solve"]
    return format_table(
        [*header, "ms per step", "compile s"], [_fit_row(*item) for item in logs.items()]
    )


def _fit_row(name: str, log: Log) -> list[str]:
    evaluations, rejected = (np.mean(log.history[key]) for key in ("evaluations", "rejected"))
    times = [f"{log.ms_per_step:.2f}", f"{log.compile_seconds:.1f}"]
    return [name, str(log.loss.size), f"{evaluations:.1f}", f"{rejected:.2f}", *times]


def format_errors(errors: Mapping[str, np.ndarray]) -> str:
    """The forecasts' errors by model, thousands of pelts, each of shape (2,): hare, lynx."""
    rows = [[name, *(f"{value:.1f}" for value in error)] for name, error in errors.items()]
    return format_table(["forecast RMSE, 1915-1920, thousand pelts", *SPECIES], rows)


def verdict(errors: Mapping[str, np.ndarray]) -> str:
    """A line for each baseline that says on which species the neural ODE beats it."""
    ours = errors[MODEL]
    lines = []
    for name, theirs in errors.items():
        if name == MODEL:
            continue
        beaten = [species for i, species in enumerate(SPECIES) if ours[i] < theirs[i]]
        missed = [species for species in SPECIES if species not in beaten]
        parts = [f"beats {name} on {' and '.join(beaten)}"] if beaten else []
        parts += [f"does NOT beat {name} on {' or '.join(missed)}"] if missed else []
        lines.append(f"The neural ODE {', but '.join(parts)}.")
    return "\n".join(lines)
