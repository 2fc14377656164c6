"""The docstring of `solve` names every registered solver."""

import subprocess
import sys

import pytest

import jaxode as jo
from jaxode.drivers.solver_list import solver_families
from jaxode.solvers.registry import SOLVERS, solver_classes

DOCSTRING = jo.solve.__doc__ or ""


@pytest.mark.parametrize("name", SOLVERS)
def test_the_docstring_names_the_solver(name):
    if SOLVERS[name].__module__.startswith("jaxode."):
        assert DOCSTRING.count(f'"{name}"') >= 1


def test_every_solver_has_a_family():
    families = solver_families()
    listed = [solver for members in families.values() for solver in members]
    assert sorted(map(repr, listed)) == sorted(map(repr, solver_classes()))
    own = [s for s in families.get("other", []) if s.__module__.startswith("jaxode.")]
    assert not own


def test_the_docstring_is_wrapped():
    assert "{solvers}" not in DOCSTRING
    assert max(map(len, DOCSTRING.splitlines())) <= 100


@pytest.mark.slow
def test_without_docstrings():
    program = "import jaxode; print(jaxode.solve.__name__, jaxode.solve.__doc__)"
    run = subprocess.run(
        [sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "solve None"
