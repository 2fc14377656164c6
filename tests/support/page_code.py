"""The blocks of Python on README and the pages of `docs`, and how a page is run.

`python -m tests.support.page_code PAGE` runs one in a process of its own.
"""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^(?:<!-- not run: (.*) -->\n+)?^```python\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A block of Python on a page.

    - `line`: the number of its first line. `code`: its text.
    - `reason`: why it does not run, from the comment before it; None if it runs.
    """

    line: int
    code: str
    reason: str | None


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page in order."""
    return [
        Block(text.count("\n", 0, found.start(2)) + 1, found[2], found[1])
        for found in _BLOCK.finditer(text)
    ]


def run_page(page: Path) -> dict[str, Any]:
    """Run the blocks of a page in order in one namespace, which is returned.

    Without float64, as a reader has it.
    """
    namespace: dict[str, Any] = {"__name__": page.stem}
    with jax.enable_x64(False):
        for block in blocks_of(page.read_text()):
            if block.reason is None:
                # Empty lines first, so that errors name the lines of the page.
                code = "\n" * (block.line - 1) + block.code
                exec(compile(code, str(page), "exec"), namespace)
    return namespace


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
