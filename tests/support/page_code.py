"""The blocks of Python on README and the pages of `docs`, and how a page is run.

`python -m tests.support.page_code PAGE` runs one in a process of its own. A comment before a block
says why it does not run, `<!-- not run: needs a GPU -->`; one after it what is then true,
`<!-- check: x == 1 -->`.
"""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- not run: ([^\n]*) -->\n+)?^```python\n(.*?)^```$(?:\n+<!-- check: ([^\n]*) -->)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of Python on a page.

    - `line`: the number of its first line. `code`: its text.
    - `reason`: why it does not run, None if it runs. `check`: what is true after it, None if
      nothing is checked.
    """

    line: int
    code: str
    reason: str | None
    check: str | None


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page in order."""
    return [
        Block(text.count("\n", 0, found.start(2)) + 1, found[2], found[1], found[3])
        for found in _BLOCK.finditer(text)
    ]


def run_page(page: Path) -> None:
    """Run the blocks of a page in order in one namespace; without float64, as a reader does.

    **Raises:** what a block raises; `AssertionError` where a check fails.
    """
    namespace: dict[str, Any] = {"__name__": page.stem}
    with jax.enable_x64(False):
        for block in blocks_of(page.read_text()):
            if block.reason is not None:
                continue
            # Empty lines first, so that errors name the lines of the page.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(page), "exec"), namespace)
            assert block.check is None or eval(block.check, namespace), block.check


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
