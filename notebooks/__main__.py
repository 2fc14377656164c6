"""Execute the notebooks: `python -m notebooks`, or `python -m notebooks 00 03` for some of them.

Each `NAME.py` is the source, in jupytext's percent format; `NAME.ipynb` beside it holds the same
cells with outputs, and the hash of the source that made them. `--fast` runs the fast form of each,
as the tests do, and writes nothing. `--text` keeps the outputs where only the text has changed.
"""

import argparse
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
# The most seconds of a run, and of the fast form; and the most bytes of a notebook with outputs.
MAX_SECONDS, MAX_FAST_SECONDS, MAX_BYTES = 600, 300, 500_000


def sources(names: Sequence[str] = ()) -> list[Path]:
    """The sources whose names begin with one of `names`; all of them without any."""
    paths = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    return [path for path in paths if not names or path.name.startswith(tuple(names))]


def source_hash(path: Path) -> str:
    """The hash of a source, that the notebook made from it holds in its metadata."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def execute(path: Path, fast: bool = False) -> nbformat.NotebookNode:
    """Run a notebook from top to bottom in a kernel of its own; returns it with its outputs."""
    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3", "language": "python", "name": "python3",
    }  # fmt: skip
    os.environ["JAXODE_FAST"] = str(int(fast))
    client = NotebookClient(
        notebook,
        timeout=MAX_FAST_SECONDS if fast else MAX_SECONDS,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute()
    return notebook


def write(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write a notebook with its outputs beside its source. **Raises:** ValueError if too large."""
    notebook.metadata["jaxode_source"] = source_hash(path)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, which differ from run to run
    text = nbformat.writes(notebook)
    if len(text) > MAX_BYTES:
        raise ValueError(f"{path.stem}.ipynb has {len(text)} bytes, of {MAX_BYTES} at most")
    path.with_suffix(".ipynb").write_text(text + "\n")


def with_new_text(path: Path) -> nbformat.NotebookNode:
    """The notebook with the text of its source and the outputs that it has.

    **Raises:** ValueError if the code has changed.
    """
    notebook, made = jupytext.read(path), nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    new, old = ([c for c in nb.cells if c.cell_type == "code"] for nb in (notebook, made))
    if [c.source for c in new] != [c.source for c in old]:
        raise ValueError(f"{path.stem}: its code has changed, so it has to run again")
    for cell, before in zip(new, old, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    notebook.metadata = made.metadata
    return notebook


def main() -> None:
    """Execute the notebooks that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", help="the first characters of their names")
    parser.add_argument("--fast", action="store_true", help="run the fast forms, write nothing")
    parser.add_argument("--text", action="store_true", help="renew their text, run no code")
    arguments = parser.parse_args()
    for path in sources(arguments.names):
        start = time.perf_counter()
        notebook = with_new_text(path) if arguments.text else execute(path, arguments.fast)
        if not arguments.fast:
            write(path, notebook)
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
