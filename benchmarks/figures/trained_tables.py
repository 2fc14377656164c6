"""Tables of what trained models reach, from the data in `docs/results/`."""

import json
from typing import Any, NamedTuple

from benchmarks.harness.folders import TRAINED
from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.trained import figure_cell, figure_table


class TrainedRow(NamedTuple):
    """A row: its label, and the column of a result that it shows for all models."""

    label: str
    result: str
    column: str


README_ROWS = (
    TrainedRow("digits, 8 x 8: test error, %", "digits", "test error, %"),
    TrainedRow(
        "six toy densities by flow matching: test likelihood, nats from the entropy",
        "densities",
        "above the entropy",
    ),
    TrainedRow(
        "the direction in which spirals turn, no point missing: % right", "chirality", "0% missing"
    ),
    TrainedRow("the same, 70 % of the points missing", "chirality", "70% missing"),
    TrainedRow(
        "Lotka-Volterra with an unknown interaction, forecast ten times as far as shown: error",
        "ude",
        "error, t = 3 to 30",
    ),
)


def result(name: str) -> dict[str, Any]:
    """The data of the result called `name`."""
    return json.loads((TRAINED / f"{name}.json").read_text())


def trained_table(rows: tuple[TrainedRow, ...], folder: str) -> str:
    """A table with a cell for all models of a result: means, ranges, weights."""
    cells = [
        (f"[{label}]({folder}{name}.md)", all_models(result(name), column))
        for label, name, column in rows
    ]
    return "\n".join(markdown_table(("task", "mean (range over seeds) of each model"), cells))


def all_models(data: dict[str, Any], column: str) -> str:
    """The figures of all models in one column, with their weights where these differ."""
    form = data["columns"][column]
    differ = len({row["weights"] for row in data["rows"]} - {None}) > 1
    parts = []
    for row in data["rows"]:
        weights = f", {row['weights']:,} weights" if differ and row["weights"] else ""
        parts.append(f"{row['name']}{weights}: {figure_cell(row['figures'][column], form)}")
    return "; ".join(parts)


def all_results() -> str:
    """A section with the table of every result."""
    sections = []
    for path in sorted(TRAINED.glob("*.json")):
        data = json.loads(path.read_text())
        link = f"[Settings, what was asked, and notes](results/{path.stem}.md), {data['date']}."
        sections += [f"## {data['title']}", "", *figure_table(data), "", link, ""]
    return "\n".join(sections).rstrip()
