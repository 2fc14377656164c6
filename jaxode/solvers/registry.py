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

# The class of every name; the order is that of the classes, each class's own name first.
SOLVERS: dict[str, type[Solver]] = {}


def register(solver: SolverClass) -> SolverClass:
    """Register a solver class under its `names`, so that `solver="my_solver"` finds it.

    It serves as a decorator. The classes in the files of `jaxode.solvers` are registered without
    it; an unregistered class can be passed as an object, `solver=MySolver()`.

    **Arguments:**

    - `solver`: a subclass of `jaxode.solvers.base.Solver` that can be made without arguments. Its
      `names` are its own name and then any others.

    **Returns:** the class.

    **Raises:** `OptionError` for an object that is no solver class, for a class without `names`,
    for one that is abstract or needs arguments, and for a name that another class has.

    ```python
    from typing import ClassVar

    import jaxode as jo
    from jaxode.solvers.explicit.runge_kutta import ExplicitRungeKutta
    from jaxode.solvers.explicit.tableau import ButcherTableau, quadratic_dense


    @jo.register
    class HeunEulerPair(ExplicitRungeKutta):
        names: ClassVar[tuple[str, ...]] = ("heun_euler_pair",)
        tableau: ClassVar[ButcherTableau] = ButcherTableau(
            order=2,
            embedded_order=1,
            c=(0.0, 1.0),
            a=((1.0,),),
            b=(0.5, 0.5),
            error=(-0.5, 0.5),
            dense=quadratic_dense((0.5, 0.5)),
        )


    sol = jo.solve(lambda t, y: -y, 1.0, (0.0, 1.0), solver="heun_euler_pair")
    ```
    """
    if not (inspect.isclass(solver) and issubclass(solver, Solver)):
        raise OptionError(f"register takes a class of solvers, got {solver!r}")
    if not solver.names:
        raise OptionError(
            f'{solver.__name__} has no names: set names: ClassVar[tuple[str, ...]] = ("my_solver",)'
        )
    if inspect.isabstract(solver) or _needs_arguments(solver):
        raise OptionError(
            f"{solver.__name__} is abstract or needs arguments: a name must make a solver, so "
            f"{solver.__name__}() must work"
        )
    for name in solver.names:
        if SOLVERS.get(name, solver) is not solver:
            raise OptionError(f'the name "{name}" is that of {SOLVERS[name].__name__}')
    SOLVERS.update(dict.fromkeys(solver.names, solver))
    return solver


def _needs_arguments(solver: type[Solver]) -> bool:
    """True if the class has an argument without a default."""
    try:
        inspect.signature(solver).bind()
    except TypeError:
        return True
    return False


def solver_classes() -> tuple[type[Solver], ...]:
    """The registered classes, each once, in the order of their registration."""
    return tuple(dict.fromkeys(SOLVERS.values()))


def _classes_of_package() -> Iterator[type[Solver]]:
    """The solver classes that define `names` in the files of this package, by file name."""
    for info in pkgutil.walk_packages(solvers.__path__, f"{solvers.__name__}."):
        if info.name == __name__:
            continue
        module = importlib.import_module(info.name)
        for member in vars(module).values():
            defined_here = inspect.isclass(member) and member.__module__ == module.__name__
            if not (defined_here and issubclass(member, Solver)):
                continue
            if "names" in vars(member) and member.names:
                yield member


for _solver in _classes_of_package():
    register(_solver)
