"""Comparisons of jaxode with a peer, and their table in Markdown."""

import dataclasses
import math
import re
from typing import Any

from benchmarks.harness.markdown import markdown_table

COLUMNS = (
    "work", "jaxode", "peer", "ratio", "asked", "met", "runs", "error, jaxode", "error, peer", "",
)  # fmt: skip

# ">= 2", "<= 0.4x", ">= 1.54 (35% fewer)", "1 within 5%".
BOUND = re.compile(r"(>=|>|<=|1 within) ([0-9.]+)(x|%)?(?: \(.*\))?")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A row of a table: times of jaxode and a peer in ms, the ratio asked for, and their errors.

    `asked`: ">= 2" for the peer's time over jaxode's, "<= 0.4x" for its inverse, "1 within 5%"; or
    other words, then `is_met` says whether they are met.
    """

    work: str
    ours: float
    peer: float
    asked: str
    our_error: float = math.nan
    peer_error: float = math.nan
    note: str = ""
    is_met: bool | None = None

    def __post_init__(self) -> None:
        if self.asked and self.is_met is None and BOUND.fullmatch(self.asked) is None:
            raise ValueError(f"whether {self.asked!r} is met has to be said by is_met")

    @property
    def ratio(self) -> float:
        """The peer's time over jaxode's."""
        return self.peer / self.ours

    @property
    def met(self) -> str:
        """Whether the ratio is what was asked for; "" if that is none, or was not measured."""
        if not self.asked or not math.isfinite(self.ratio):
            return ""
        is_met = self.is_met
        if is_met is None:
            bound = BOUND.fullmatch(self.asked)
            assert bound is not None  # see __post_init__
            is_met = _is_within(self.ratio, *bound.groups())
        return "met" if is_met else "missed"

    @property
    def runs(self) -> str:
        """How often jaxode and the peer ran, where the times are medians."""
        counts = [str(getattr(time, "runs", "")) for time in (self.ours, self.peer)]
        return counts[0] if counts[0] == counts[1] else ", ".join(counts)

    def as_data(self) -> dict[str, Any]:
        """The row as data for JSON, in which there is no NaN."""
        numbers = {
            "ours": self.ours, "peer": self.peer, "ratio": self.ratio,
            "our_error": self.our_error, "peer_error": self.peer_error,
        }  # fmt: skip
        finite = {name: float(x) if math.isfinite(x) else None for name, x in numbers.items()}
        words = {"asked": self.asked, "met": self.met, "runs": self.runs, "note": self.note}
        return {"work": self.work, **finite, **words}


def comparison_table(title: str, rows: list[Comparison]) -> str:
    """A titled Markdown table with a line for each comparison."""
    cells = [
        [
            row.work, f"{row.ours:.4g}", f"{row.peer:.4g}", f"{row.ratio:.2f}", row.asked, row.met,
            row.runs, _error(row.our_error), _error(row.peer_error), row.note,
        ]
        for row in rows
    ]  # fmt: skip
    return "\n".join([f"### {title}", "", *markdown_table(COLUMNS, cells)]) + "\n"


def _is_within(ratio: float, sign: str, number: str, unit: str | None) -> bool:
    value, bound = 1 / ratio if unit == "x" else ratio, float(number)
    if sign == "1 within":
        return abs(value - 1) <= bound / 100
    return {">=": value >= bound, ">": value > bound, "<=": value <= bound}[sign]


def _error(error: float) -> str:
    return "" if math.isnan(error) else f"{error:.1e}"
