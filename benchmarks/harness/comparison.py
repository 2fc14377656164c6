"""Comparisons of jaxode with a peer, and their table in Markdown."""

import dataclasses

from benchmarks.harness.markdown import markdown_table

COLUMNS = ("work", "jaxode", "peer", "ratio", "target", "error, jaxode", "error, peer", "")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A row of a table: times of jaxode and a peer in ms, the targeted ratio, and their errors."""

    work: str
    ours: float
    peer: float
    target: str
    our_error: float = float("nan")
    peer_error: float = float("nan")
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.peer / self.ours


def comparison_table(title: str, rows: list[Comparison]) -> str:
    """A titled Markdown table with a line for each comparison."""
    cells = [
        [
            row.work, f"{row.ours:.4g}", f"{row.peer:.4g}", f"{row.ratio:.2f}", row.target,
            f"{row.our_error:.1e}", f"{row.peer_error:.1e}", row.note,
        ]
        for row in rows
    ]  # fmt: skip
    return "\n".join([f"### {title}", "", *markdown_table(COLUMNS, cells)]) + "\n"
