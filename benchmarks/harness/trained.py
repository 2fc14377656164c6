"""What trained models reach: the tables of a result, its page and its data in `docs/results/`."""

import dataclasses
import json
import math
from typing import Any

from benchmarks.harness.folders import TRAINED
from benchmarks.harness.markdown import markdown_table, mean_and_range


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A row: figures on test data by column, one for each seed, of a model with chosen settings.

    `weights`: the number of trained parameters, None where nothing is trained. `chosen`: the
    settings that were chosen on validation data, as text.
    """

    name: str
    weights: int | None
    figures: dict[str, list[float]]
    chosen: str = ""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked of a result, what it reached, and whether that is enough."""

    asked: str
    reached: float
    met: bool


@dataclasses.dataclass(frozen=True)
class Result:
    """A result: models side by side, on test data that no choice has seen.

    `columns`: the format of each column of figures. `settings`: those of all models, by name, with
    the candidates among which validation chose. `notes`: paragraphs below the table.
    """

    title: str
    columns: dict[str, str]
    rows: list[TrainedModel]
    settings: dict[str, str]
    asked: list[Asked] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """The result as data for JSON, in which numbers are finite; others are text."""
        data = dataclasses.asdict(self)
        for row in data["rows"]:
            row["figures"] = {
                column: [x if math.isfinite(x) else str(x) for x in map(float, figures)]
                for column, figures in row["figures"].items()
            }
        return data


def figure_cell(figures: list[float | str], form: str) -> str:
    """The mean and the range of the figures of all seeds; "" where there is none."""
    return mean_and_range([float(x) for x in figures], form) if figures else ""


def figure_table(data: dict[str, Any]) -> list[str]:
    """The table of the models and their figures, from a result's data."""
    columns = data["columns"]
    cells = []
    for row in data["rows"]:
        seeds = max(len(figures) for figures in row["figures"].values())
        figures = [figure_cell(row["figures"].get(c, []), form) for c, form in columns.items()]
        weights = "" if row["weights"] is None else f"{row['weights']:,}"
        cells.append([row["name"], weights, *figures, str(seeds), row["chosen"]])
    return markdown_table(["model", "weights", *columns, "seeds", "chosen"], cells)


def result_page(name: str, data: dict[str, Any]) -> str:
    """The page of the result called `name`, from its data."""
    lines = [
        f"# {data['title']}", "",
        f"`python -m benchmarks.accuracy {name}`, {data['date']}, commit {data['commit']}, on "
        f"{data['machine']}; {data['versions']}.", "",
        "Figures are of test data, which no choice has seen: means over seeds, with the smallest "
        "and the largest in brackets. The column \"chosen\" has the settings that were best on "
        "validation data, with a seed of its own.", "",
        *figure_table(data), "",
        *markdown_table(["setting", "of all models"], data["settings"].items()),
    ]  # fmt: skip
    if data["asked"]:
        asked = (
            (row["asked"], f"{row['reached']:.3g}", "met" if row["met"] else "missed")
            for row in data["asked"]
        )
        lines += ["", *markdown_table(["asked", "reached", "met or missed"], asked)]
    for note in data["notes"]:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def write_result(name: str, result: Result, origin: dict[str, str]) -> None:
    """Print and write the page of a result, and its figures as data; `origin` is its provenance."""
    data = json.loads(json.dumps({**origin, **result.as_data()}))
    page = result_page(name, data)
    print(page, flush=True)
    TRAINED.mkdir(exist_ok=True)
    (TRAINED / f"{name}.md").write_text(page)
    (TRAINED / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
