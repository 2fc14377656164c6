"""Every block of Python on README and the pages of `docs` runs, and shows what it says it does."""

import ast
import inspect
import os
import re
import subprocess
import sys

import pytest

import jaxode as jo
from tests.support.page_code import PAGES, ROOT, blocks_of, run_page
from tests.support.sweeps import few

TRAINS = ["README.md"]  # for long: in a process that compiles with optimisation
WITH_CODE = [str(page.relative_to(ROOT)) for page in PAGES if blocks_of(page.read_text())]
FAST = [f"docs/{name}.md" for name in ("gradients", "jit")]
NOT_RUN = ["docs/development/design.md"]


@pytest.mark.parametrize("page", few(sorted({*WITH_CODE} - {*TRAINS, *NOT_RUN}), *FAST))
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(ROOT / page)


@pytest.mark.slow
@pytest.mark.parametrize("page", TRAINS)
def test_the_blocks_of_a_page_that_trains_run(page, tmp_path):
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", "tests.support.page_code", str(ROOT / page)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "fit: 100%" in done.stderr


def test_few_blocks_do_not_run_and_say_why():
    skipped = {
        page: [block.reason for block in blocks_of((ROOT / page).read_text()) if block.reason]
        for page in WITH_CODE
    }
    assert [page for page, reasons in skipped.items() if reasons] == NOT_RUN
    assert all(len(reason.split()) > 3 for reasons in skipped.values() for reason in reasons)


def test_the_block_that_does_not_run_has_the_options_and_defaults_of_both_drivers():
    [block] = blocks_of((ROOT / NOT_RUN[0]).read_text())
    calls = [node for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.Call)]
    for driver, elsewhere in ((jo.solve, {"t0", "t1", "start"}), (jo.solve_batch, None)):
        [call] = [c for c in calls if ast.unparse(c.func) == f"jo.{driver.__name__}"]
        shown = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        options = inspect.signature(driver).parameters.values()
        defaults = {p.name: p.default for p in options if p.kind is p.KEYWORD_ONLY}
        assert shown.items() <= defaults.items()
        assert elsewhere is None or {*defaults} - {*shown} == elsewhere


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_python_stands_in_another_kind_of_block(page):
    """Fences in pairs, each with a language, so that none is passed over."""
    text = page.read_text()
    fences = re.findall(r"^\s*(?:```|~~~)(.*)$", text, re.M)
    assert {*fences[1::2]} <= {""}
    assert {*fences[::2]} <= {"python", "bash", "text"}
    assert fences[::2].count("python") == len(blocks_of(text))


def test_a_block_knows_its_line_and_its_reason():
    text = "a\n\n```python\nx = 1\n```\n\n<!-- not run: needs a GPU -->\n\n```python\ny\n```\n"
    assert blocks_of(text) == [(4, "x = 1\n", None, None), (10, "y\n", "needs a GPU", None)]


def test_a_check_that_fails_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n<!-- check: x == 1 -->\n\n```python\nx = 2\n```\n")
    run_page(page)
    page.write_text("```python\nx = 1\n```\n\n<!-- check: x == 2 -->\n")
    with pytest.raises(AssertionError, match="x == 2"):
        run_page(page)
