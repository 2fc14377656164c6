"""The list of solvers in docstrings, made from the registry."""

import re
import textwrap
from collections.abc import Callable
from typing import TypeVar

from ..solvers.base import Solver
from ..solvers.registry import solver_classes

Function = TypeVar("Function", bound=Callable)

_WIDTH = 100


# By package, and the kind of steps or the feature that tells.
_FAMILIES = {
    "explicit fixed": "explicit, fixed steps",
    "explicit adaptive": "explicit, adaptive steps",
    "explicit reversible": "explicit and reversible",
    "implicit fixed": "implicit, fixed steps",
    "implicit adaptive": "implicit, for stiff problems",
    "implicit imex": "implicit-explicit (IMEX), also for a pair of fields `(stiff, other)`",
    "multistep fixed": "multistep, fixed steps",
    "multistep adaptive": "multistep (BDF for stiff problems)",
    "switching adaptive": "switching between an explicit and a stiff method",
    "symplectic fixed": "for states `(q, p)`, symplectic or Nystrom, fixed steps",
    "symplectic adaptive": "for states `(q, p)`, Nystrom, adaptive steps",
}


def solver_families() -> dict[str, list[type[Solver]]]:
    """The registered solver classes by family, in the order of the registry."""
    families: dict[str, list[type[Solver]]] = {family: [] for family in _FAMILIES.values()}
    for solver in solver_classes():
        families.setdefault(_family(solver), []).append(solver)
    return {family: members for family, members in families.items() if members}


def _family(solver: type[Solver]) -> str:
    """The family of a solver, by its package, its kind of steps and its features."""
    package = solver.__module__.split(".solvers.")[-1].split(".")[0]
    kind = "fixed" if solver().error_exponent is None else "adaptive"
    if package == "explicit" and solver.reversible:
        kind = "reversible"
    if solver.imex:
        kind = "imex"
    return _FAMILIES.get(f"{package} {kind}", "other")


def list_solvers(function: Function) -> Function:
    """Replace the line `{solvers}` of a docstring by the names of all registered solvers.

    Serves as a decorator. Without docstrings (`python -OO`) it does nothing.
    """
    if function.__doc__:
        function.__doc__ = re.sub(
            r"^( *)\{solvers\}$", lambda m: _listing(m[1]), function.__doc__, flags=re.MULTILINE
        )
    return function


def _listing(indent: str) -> str:
    """The items of a Markdown list, one for each family."""
    items = (
        f"- {family}: {', '.join(map(_names, members))}"
        for family, members in solver_families().items()
    )
    return "\n".join(
        textwrap.fill(
            item,
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_on_hyphens=False,
        )
        for item in items
    )


def _names(solver: type[Solver]) -> str:
    """The name of a solver, with its synonyms in parentheses."""
    name, *synonyms = (f'"{name}"' for name in solver.names)
    return f"{name} ({', '.join(synonyms)})" if synonyms else name
