"""Tables and numbers in Markdown."""

import statistics
from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def mean_and_range(values: Sequence[float], form: str = ".3g") -> str:
    """The mean, with the smallest and the largest value in brackets if there are several."""
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else mean
