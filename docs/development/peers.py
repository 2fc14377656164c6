"""The tables of `docs/peers.md`, from `peers.toml` beside this file.

`python docs/development/peers.py` writes them into the page. `tests/peers/test_peers_page.py`
fails where page and file differ, and where the code in the second column of a table does not run.
"""

import re
import tomllib
from pathlib import Path

PAGE = Path(__file__).parents[1] / "peers.md"
DATA = Path(__file__).with_suffix(".toml")

# The library as the header of a table names it.
NAMES = {
    "scipy": "SciPy",
    "jax": "JAX",
    "diffrax": "diffrax",
    "torchdiffeq": "torchdiffeq",
    "torchdyn": "torchdyn",
}


def rows_of_peers() -> dict[str, list[list[str]]]:
    """For each library the rows of its table: what it writes, and what is written here."""
    return {peer: table["rows"] for peer, table in tomllib.loads(DATA.read_text()).items()}


def with_tables(text: str) -> str:
    """The text of the page with its tables as the file has them."""
    for peer, rows in rows_of_peers().items():
        lines = [f"| {NAMES[peer]} | here |", "|---|---|"]
        lines += [f"| {theirs} | {ours} |" for theirs, ours in rows]
        table = "\n".join(lines)
        mark = f"<!-- table of {peer} -->"
        parts = re.split(rf"{mark}\n.*?<!-- end -->", text, flags=re.DOTALL)
        if len(parts) != 2:
            raise ValueError(f"{PAGE.name} has {len(parts) - 1} places for the table of {peer}")
        text = f"{mark}\n\n{table}\n\n<!-- end -->".join(parts)
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
