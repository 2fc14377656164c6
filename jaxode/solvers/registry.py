"""The registry of solvers by name, made from the classes."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import TypeVar

from .. import solvers
from ..problem.errors import OptionError
from .base import Solver

SolverClass = TypeVar("SolverClass", bound=type[Solver])

# Every name, with the class that it makes: a class stands under its own name first.
SOLVERS: dict[str, type[Solver]] = {}


def register(solver: SolverClass) -> SolverClass:
    """Register a solver class under its `names`, so that `solver="name"` finds it.

    Serves as a decorator. Classes in the files of `jaxode.solvers` are registered by themselves.

    **Raises:** `OptionError` for what is no solver class, for a class without `names`, for a class
    that needs arguments, and for a name that another class has.
    """
    if not (inspect.isclass(solver) and issubclass(solver, Solver)):
        raise OptionError(f"register takes a class of solvers, got {solver!r}")
    if not solver.names:
        raise OptionError(
            f'{solver.__name__} has no names: set names: ClassVar[tuple[str, ...]] = ("my_solver",)'
        )
    for name in solver.names:
        if SOLVERS.get(name, solver) is not solver:
            raise OptionError(f'the name "{name}" is that of {SOLVERS[name].__name__}')
    SOLVERS.update(dict.fromkeys(solver.names, solver))
    return solver


def solver_classes() -> tuple[type[Solver], ...]:
    """The registered classes, each once."""
    return tuple(dict.fromkeys(SOLVERS.values()))


def _defined() -> Iterator[type[Solver]]:
    """The classes with names of their own in the files of this package, in alphabetical order."""
    for info in pkgutil.walk_packages(solvers.__path__, f"{solvers.__name__}."):
        if info.name == __name__:
            continue
        module = importlib.import_module(info.name)
        for kind in vars(module).values():
            own = inspect.isclass(kind) and kind.__module__ == module.__name__
            if own and issubclass(kind, Solver) and "names" in vars(kind) and kind.names:
                yield kind


for _kind in _defined():
    register(_kind)
