"""Sections of `docs/results.md`: each module of `benchmarks.accuracy` writes its own."""

import datetime
import pathlib
import platform
import sys
from collections.abc import Iterable

import jax

import jaxode
from benchmarks.harness.folders import ACCURACY_PAGE

PAGE_HEAD = """# What the models reach

Every section is written by its own command, on one processor each, without a GPU, two at a time:
milliseconds are rough. Figures are means over seeds, with the smallest and the largest in brackets
where there is more than one. All models of a section had as many training steps.
"""


def publish_section(
    name: str, title: str, lines: Iterable[str], page: pathlib.Path = ACCURACY_PAGE
) -> str:
    """Replace the section called `name` on the page, or append it; return its text."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    section = "\n".join([f"{begin}## {title}\n", *lines, "", _provenance()]) + f"\n{end}"
    text = page.read_text() if page.exists() else PAGE_HEAD
    if begin in text:
        before, rest = text.split(begin)
        text = before + section + rest.split(end)[1]
    else:
        text = f"{text}\n{section}"
    page.write_text(text)
    return section


def _provenance() -> str:
    """The command that is running, the date and the versions."""
    script = pathlib.Path(sys.argv[0]).stem
    command = " ".join([f"python -m benchmarks.accuracy.{script}", *sys.argv[1:]])
    date = datetime.datetime.now(datetime.UTC).date()
    python = f"Python {platform.python_version()}"
    return f"`{command}`, {date}, {python}, jax {jax.__version__}, jaxode {jaxode.__version__}."
