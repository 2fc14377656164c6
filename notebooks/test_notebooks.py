"""The notebooks: their fast forms run, and what is committed was made from the sources.

`make test-notebooks` runs them; the other tests leave them out.
"""

from pathlib import Path

import nbformat
import pytest

from notebooks.__main__ import (
    FOLDER,
    MAX_BYTES,
    execute,
    source_hash,
    sources,
    with_new_text,
)

SOURCES = sources()


def figures_of(notebook: nbformat.NotebookNode) -> int:
    """The number of pictures among the outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", ()) for output in outputs)


def committed(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def test_each_has_a_number_of_its_own():
    numbers = [path.name[:2] for path in SOURCES]
    assert numbers == sorted(set(numbers))
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_outputs_are_of_this_source(path):
    notebook = committed(path)
    assert notebook.metadata["jaxode_source"] == source_hash(path), f"make notebooks: {path.stem}"
    assert path.with_suffix(".ipynb").stat().st_size <= MAX_BYTES
    errors = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "ename" in o]
    assert not errors
    assert figures_of(notebook) > 0


def test_new_text_keeps_the_outputs_and_new_code_has_to_run(tmp_path):
    path = tmp_path / SOURCES[0].name
    path.with_suffix(".ipynb").write_text(SOURCES[0].with_suffix(".ipynb").read_text())
    path.write_text(SOURCES[0].read_text() + "\n# %% [markdown]\n# More text.\n")
    renewed = with_new_text(path)
    assert renewed.cells[-1].source == "More text."
    assert figures_of(renewed) == figures_of(committed(SOURCES[0]))
    path.write_text(SOURCES[0].read_text() + "\n# %%\n1 + 1\n")
    with pytest.raises(ValueError, match="its code has changed"):
        with_new_text(path)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_pictures_and_links_in_the_text_exist(path):
    for cell in committed(path).cells:
        if cell.cell_type != "markdown":
            continue
        for part in cell.source.split("](")[1:]:
            target = part.split(")")[0].split("#")[0]
            assert target.startswith("http") or (FOLDER / target).exists(), target


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_fast_form_runs_and_draws_as_many_pictures(path):
    assert figures_of(execute(path, fast=True)) == figures_of(committed(path))
