"""Every behaviour in `behaviours.toml` is guarded by a test that exists, and there are enough."""

import ast
import functools
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
LEDGER: dict[str, dict[str, str]] = tomllib.loads(
    Path(__file__).with_name("behaviours.toml").read_text()
)
FEWEST = {"diffrax": 100, "scipy": 40, "torchdiffeq": 25}


@functools.cache
def functions_of(file: str) -> set[str]:
    """The test functions of a file."""
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def cases_of(file: str, name: str) -> Iterator[str]:
    """The values that a parametrised test is called with, as strings."""
    module = importlib.import_module("tests." + file.removesuffix(".py").replace("/", "."))
    for mark in getattr(getattr(module, name), "pytestmark", []):
        values: Any = mark.args[1] if mark.name == "parametrize" else ()
        yield from (str(getattr(value, "values", [value])[0]) for value in values)


def exists(test: str) -> bool:
    found = re.fullmatch(r"(\w+/\w+\.py)::(test_\w+)(?:\[(.*)\])?", test)
    if not found or not (TESTS / found[1]).exists():
        return False
    file, name, case = found.groups()
    return name in functions_of(file) and (case is None or case in cases_of(file, name))


@pytest.mark.parametrize("peer", FEWEST)
def test_every_behaviour_has_a_test(peer):
    assert [test for test in LEDGER[peer].values() if not exists(test)] == []


@pytest.mark.parametrize("peer", FEWEST)
def test_there_are_enough_and_none_stands_twice(peer):
    tests = list(LEDGER[peer].values())
    assert len(tests) >= FEWEST[peer]
    assert sorted(tests) == sorted(set(tests))


@pytest.mark.parametrize("peer", FEWEST)
def test_the_tests_of_a_peers_behaviours_are_all_listed(peer):
    file = f"peers/test_{peer}_behaviours.py"
    listed = {test.split("::")[1].split("[")[0] for test in LEDGER[peer].values() if file in test}
    assert {name for name in functions_of(file) if name.startswith("test_")} == listed


@pytest.mark.parametrize(
    "test",
    [
        "integrate/test_solve.py::test_that_does_not_exist",
        "integrate/no_file.py::test_scalar_state_stays_scalar",
        "problem/test_bad_input.py::test_options[no such case]",
        "test_scalar_state_stays_scalar",
    ],
)
def test_a_test_that_does_not_exist_is_found(test):
    assert not exists(test)
