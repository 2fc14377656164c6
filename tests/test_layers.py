"""The layers of the code, read off its imports: none upwards, no cycle, and a true picture."""

import pytest

from docs.development.layers import (
    BENCHMARK_LEVELS,
    LEVELS,
    PICTURE,
    PLANNED,
    ROOT,
    cycle_of,
    depth_of,
    edges_of,
    imports_of,
    package_of,
    picture,
    upward_imports,
)

CODE = imports_of("jaxode")
BENCHMARKS = imports_of("benchmarks")


def test_every_package_has_a_level_and_every_level_a_package():
    listed = {name for level in LEVELS for name in level}
    assert {package_of(module) for module in CODE} == listed - set(PLANNED)
    assert set(PLANNED) <= listed


def test_no_import_leads_upwards():
    assert upward_imports(CODE, LEVELS) == []


def test_no_import_of_the_benchmarks_leads_upwards():
    assert upward_imports(BENCHMARKS, BENCHMARK_LEVELS) == []


@pytest.mark.parametrize("imports", [CODE, BENCHMARKS], ids=["jaxode", "benchmarks"])
def test_no_modules_import_each_other(imports):
    assert cycle_of(imports) == []


def test_the_root_of_the_package_holds_two_files():
    assert {file.name for file in (ROOT / "jaxode").glob("*.py")} == {"__init__.py", "__main__.py"}


def test_packages_levels_and_edges_stay_few():
    edges = edges_of(CODE)
    packages = {name for level in LEVELS for name in level} - {"jaxode", "__main__"}
    assert len(packages) <= 18
    assert depth_of(edges) <= 10
    assert len(edges) <= 80


def test_the_picture_shows_the_imports():
    """Mended by `python docs/development/layers.py`."""
    assert PICTURE.read_text() == picture(edges_of(CODE))


def test_upward_imports_and_cycles_are_found():
    imports = {"p.low.a": {"p.high.b"}, "p.high.b": {"p.low.c"}, "p.low.c": set()}
    assert upward_imports(imports, [["low"], ["high"]]) == ["p.low.a -> p.high.b"]
    assert cycle_of(imports) == []
    imports["p.low.c"] = {"p.low.a"}
    assert sorted(set(cycle_of(imports))) == ["p.high.b", "p.low.a", "p.low.c"]
    assert depth_of({("a", "b"), ("b", "c"), ("a", "c")}) == 3
