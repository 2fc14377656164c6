"""The page of results: each script writes its own section of `docs/results.md`."""

import datetime
import pathlib
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence

import jax

import jaxode

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "results.md"
HEAD = """# What the models reach

Every section is written by its own command, on one processor each, without a GPU, two at a time:
milliseconds are rough. Figures are means over seeds, with the smallest and the largest in brackets
where there is more than one. All models of a section had as many training steps.
"""


def publish(name: str, title: str, lines: Iterable[str], page: pathlib.Path = PAGE) -> str:
    """Put a section in the place of the one of the same name, or behind the others; return it."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    made = f"{datetime.datetime.now(datetime.UTC).date()}, Python {platform.python_version()}"
    versions = f"jax {jax.__version__}, jaxode {jaxode.__version__}"
    script = pathlib.Path(sys.argv[0]).stem
    command = " ".join([f"python -m benchmarks.accuracy.{script}", *sys.argv[1:]])
    command = f"`{command}`, {made}, {versions}."
    section = "\n".join([f"{begin}## {title}\n", *lines, "", command]) + f"\n{end}"
    text = page.read_text() if page.exists() else HEAD
    if begin in text:
        before, rest = text.split(begin)
        text = before + section + rest.split(end)[1]
    else:
        text = f"{text}\n{section}"
    page.write_text(text)
    return section


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, line by line."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """The mean, with the smallest and the largest."""
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else mean
