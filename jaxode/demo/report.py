"""The tables that the demo prints."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..training import Log
from .pelts import SPECIES

MODEL = "neural ODE"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format rows under a header: the first column aligned to the left, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def aligned(line: Sequence[str]) -> str:
        first, *rest = (line[i].rjust(w) if i else line[i].ljust(w) for i, w in enumerate(widths))
        return "  ".join([first, *rest])

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([aligned(lines[0]), rule, *map(aligned, lines[1:])])


def format_fits(logs: Mapping[str, Log]) -> str:
    """Format the cost of each fit: evaluations, rejected steps, time per step, compile time."""
    header = ["fit", "steps", "evaluations per solve", "rejected steps per solve"]
    return format_table(
        [*header, "ms per step", "compile s"], [_fit_row(*item) for item in logs.items()]
    )


def _fit_row(name: str, log: Log) -> list[str]:
    evaluations, rejected = (np.mean(log.history[key]) for key in ("evaluations", "rejected"))
    times = [f"{log.ms_per_step:.2f}", f"{log.compile_seconds:.1f}"]
    return [name, str(log.loss.size), f"{evaluations:.1f}", f"{rejected:.2f}", *times]


def format_errors(errors: Mapping[str, np.ndarray]) -> str:
    """Format forecast errors by model, thousands of pelts, each of shape (2,): hare, lynx."""
    rows = [[name, *(f"{value:.1f}" for value in error)] for name, error in errors.items()]
    return format_table(["forecast RMSE, 1915-1920, thousand pelts", *SPECIES], rows)


def verdict(errors: Mapping[str, np.ndarray]) -> str:
    """Format a line per baseline that says on which species the neural ODE beats it."""
    neural_ode = errors[MODEL]
    lines = []
    for name, baseline in errors.items():
        if name == MODEL:
            continue
        beaten = [species for i, species in enumerate(SPECIES) if neural_ode[i] < baseline[i]]
        not_beaten = [species for species in SPECIES if species not in beaten]
        clauses = [f"beats {name} on {' and '.join(beaten)}"] if beaten else []
        clauses += [f"does NOT beat {name} on {' or '.join(not_beaten)}"] if not_beaten else []
        lines.append(f"The neural ODE {', but '.join(clauses)}.")
    return "\n".join(lines)
