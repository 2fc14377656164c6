"""Comparisons of jaxode with a peer, and their table in Markdown."""

import dataclasses
import math
import re
from typing import Any

from benchmarks.harness.markdown import markdown_table

COLUMNS = (
    "work", "jaxode", "peer", "ratio", "asked", "met", "runs", "error, jaxode", "error, peer", "",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A row of a table: times of jaxode and a peer in ms, the ratio asked for, and their errors.

    `asked`: ">= 2" for the peer's time over jaxode's, "<= 0.4x" for its inverse, or words.
    """

    work: str
    ours: float
    peer: float
    asked: str
    our_error: float = math.nan
    peer_error: float = math.nan
    note: str = ""

    @property
    def ratio(self) -> float:
        """The peer's time over jaxode's."""
        return self.peer / self.ours

    @property
    def met(self) -> str:
        """Whether the ratio is what was asked for; "" if that is none, or was not measured."""
        bound = re.fullmatch(r"(>=|>|<=) ([0-9.]+)(x?)", self.asked)
        if bound is None or not math.isfinite(self.ratio):
            return ""
        sign, number, inverse = bound.groups()
        value = 1 / self.ratio if inverse else self.ratio
        is_met = {">=": value >= float(number), ">": value > float(number)}
        return "met" if is_met.get(sign, value <= float(number)) else "missed"

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


def _error(error: float) -> str:
    return "" if math.isnan(error) else f"{error:.1e}"
