"""The tables of README and docs are those of the results; each page has settings and whole rows."""

import importlib
import json
import math

import pytest

from benchmarks.figures import readme
from benchmarks.harness.catalogue import MODULES
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.folders import RESULTS, TRAINED
from benchmarks.harness.side_by_side import REQUIRED
from benchmarks.harness.timing import run_times
from benchmarks.harness.trained import result_page


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_results(page):
    expected = readme.with_tables(page)
    assert page.read_text() == expected, "run `python -m benchmarks.figures.readme`"


@pytest.mark.parametrize("path", sorted(TRAINED.glob("*.json")), ids=lambda path: path.stem)
def test_the_page_of_a_result_is_that_of_its_figures(path):
    page = path.with_suffix(".md").read_text()
    assert page == result_page(path.stem, json.loads(path.read_text()))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_rows_of_a_benchmark_have_different_names(path):
    names = [row["work"] for row in json.loads(path.read_text())["rows"]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("module", MODULES.values())
def test_every_benchmark_says_the_settings_of_both_sides(module):
    settings = importlib.import_module(f"benchmarks.{module}").SETTINGS
    assert set(REQUIRED) <= set(settings)
    assert all(len(both) == 2 and all(both) for both in settings.values())


@pytest.mark.parametrize(
    ("asked", "met"),
    [
        (">= 2", "met"), (">= 2.1", "missed"), ("> 2", "missed"), ("<= 0.5x", "met"),
        ("<= 0.4x", "missed"), ("", ""), ("1 within 5%", "missed"), ("1 within 100%", "met"),
        (">= 1.9 (47% fewer)", "met"),
    ],
)  # fmt: skip
def test_whether_a_bound_is_met(asked, met):
    assert Comparison("work", 1.0, 2.0, asked).met == met
    assert Comparison("work", 1.0, math.nan, asked).met == ""


def test_what_is_asked_in_words_says_whether_it_is_met():
    assert Comparison("work", 1.0, 2.0, "as fast as light", is_met=False).met == "missed"
    with pytest.raises(ValueError, match="'as fast as light' is met has to be said"):
        Comparison("work", 1.0, 2.0, "as fast as light")


def test_a_median_knows_its_runs():
    times = run_times(lambda: None, lambda: None, repeats=3)
    assert Comparison("work", times[0], times[1], "").as_data()["runs"] == "3"
    assert Comparison("work", 1.0, times[1], "").runs == ", 3"
