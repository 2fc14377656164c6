"""The README's tables of speed are those of the results; whether a bound is met is computed."""

import math

import pytest

from benchmarks.figures import readme
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.timing import run_times


def test_the_tables_of_the_readme_are_those_of_the_results():
    text = readme.README.read_text()
    assert readme.with_tables(text) == text, "run `python -m benchmarks.figures.readme`"


@pytest.mark.parametrize(
    ("asked", "met"),
    [
        (">= 2", "met"), (">= 2.1", "missed"), ("> 2", "missed"), ("<= 0.5x", "met"),
        ("<= 0.4x", "missed"), ("", ""), ("1 within 5%", ""),
    ],
)  # fmt: skip
def test_whether_a_bound_is_met(asked, met):
    assert Comparison("work", 1.0, 2.0, asked).met == met
    assert Comparison("work", 1.0, math.nan, asked).met == ""


def test_a_median_knows_its_runs():
    times = run_times(lambda: None, lambda: None, repeats=3)
    assert Comparison("work", times[0], times[1], "").as_data()["runs"] == "3"
    assert Comparison("work", 1.0, times[1], "").runs == ", 3"
