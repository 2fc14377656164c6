"""Every public name is used by a test that `make test` runs.

The sources are parsed: a name counts where a test reads it from a public module, imports it, or
asks for it, if it is a solver, by a name of the registry. Tests and parameters that are marked slow
do not count.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS

PUBLIC = {
    "jo": jo,
    "nn": jo.nn,
    "fields": jo.nn.fields,
    "baselines": jo.baselines,
    "datasets": jo.datasets,
    "plotting": jo.plotting,
    "callbacks": jo.callbacks,
}


def public_names(module: ModuleType) -> list[str]:
    """The names without an underscore, those of submodules left out."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    ]


def is_slow(node: ast.AST) -> bool:
    """True for a function that is decorated as slow, and for a parameter that is marked so."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return any(ast.unparse(mark) == "pytest.mark.slow" for mark in node.decorator_list)
    if isinstance(node, ast.Call):
        return any(word.arg == "marks" and "slow" in ast.unparse(word) for word in node.keywords)
    return False


def used_words(node: ast.AST) -> Iterator[str]:
    """Attributes of modules as `module.name`, imported names and strings alone."""
    if is_slow(node):
        return
    if isinstance(node, ast.Attribute):
        yield f"{ast.unparse(node.value).split('.')[-1]}.{node.attr}"
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxode"):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from used_words(child)


def words_of_fast_tests() -> set[str]:
    tests = Path(__file__).parent
    trees = (
        ast.parse(path.read_text(encoding="utf-8"))
        for path in tests.rglob("*.py")
        if path != Path(__file__)
    )
    return {word for tree in trees for word in used_words(tree)}


@pytest.fixture(scope="module")
def words() -> set[str]:
    return words_of_fast_tests()


@pytest.mark.parametrize("alias", PUBLIC)
def test_fast_tests_use_every_public_name(alias: str, words: set[str]) -> None:
    module = PUBLIC[alias]
    unused = []
    for name in public_names(module):
        value = getattr(module, name)
        qualified = {f"{other}.{name}" for other in PUBLIC if hasattr(PUBLIC[other], name)}
        registered = {word for word, solver in SOLVERS.items() if solver is value}
        if not words & {name, *qualified, *registered}:
            unused.append(name)
    assert not unused


def test_what_is_marked_slow_does_not_count() -> None:
    source = """
@pytest.mark.slow
def test_sweep():
    jo.Tsit5()

@pytest.mark.parametrize("name", ["rk4", pytest.param("euler", marks=pytest.mark.slow)])
def test_order(name):
    jo.solve()
"""
    words = set(used_words(ast.parse(source)))
    assert {"jo.solve", "rk4"} <= words
    assert not {"jo.Tsit5", "euler"} & words
