"""Wrong values of arguments, and what is wrong with the errors that they raise."""

import inspect
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.compilations import compilations_of


def no_arguments():
    return 0.0


def one_argument(x):
    return x


def raises(*args):
    raise ValueError("of the user's own")


def vector(*args):
    return jnp.ones(7)


WRONG: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "1": 1,
    "-1": -1,
    "0.5": 0.5,
    "nan": np.nan,
    "inf": np.inf,
    "complex": 1.0 + 2.0j,
    "huge": 2**70,
    "string": "a",
    "bytes": b"a",
    "empty list": [],
    "empty dict": {},
    "strings": ["a", "b"],
    "dict": {"a": 1.0},
    "set": {1.0},
    "pair": (1.0, 2.0),
    "list of None": [None],
    "seven numbers": np.ones(7),
    "rank three": np.ones((2, 3, 5)),
    "booleans": np.array([True]),
    "NumPy strings": np.array(["a"]),
    "objects": np.array([None], object),
    "longdouble": np.ones(3, np.longdouble),
    "date": np.datetime64("2020-01-01"),
    "key": jax.random.key(0),
    "shape": jax.ShapeDtypeStruct((2,), jnp.float32),
    "object": object(),
    "class": int,
    "module": np,
    "slice": slice(3),
    "frozenset": frozenset({1.0}),
    "exception": ValueError("a"),
    "no arguments": no_arguments,
    "one argument": one_argument,
    "raises": raises,
    "vector": vector,
}
EVERY = frozenset(WRONG)
CALLABLE = {"class", "no arguments", "one argument", "raises", "vector"}
NUMBERS = {"0", "1", "-1", "0.5", "nan", "inf", "huge"}
POSITIVE = {"0.5", "1", "huge"}
COUNTS = {"1", "huge"}
STATES = {
    "0", "1", "-1", "huge", "0.5", "nan", "inf", "complex", "dict", "pair", "seven numbers",
    "rank three",
}  # fmt: skip


def public_functions(module: ModuleType, without: set[str]) -> list[str]:
    """The names of a module's public functions and classes; errors and warnings are none."""
    return [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and not isinstance(value, ModuleType)
        and not (inspect.isclass(value) and issubclass(value, BaseException))
        and name not in without
    ]


def parameters_of(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments of a function, without `*args` and `**options`."""
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in variadic]


def faults_of(
    name: str,
    call: Callable[..., Any],
    needed: Mapping[str, Any],
    taken: Mapping[str, Any],
) -> list[str]:
    """What is wrong with the errors for wrong values of the arguments of a function.

    `call` is called with the arguments that it `needs`, one of them replaced. `taken`: for each
    argument the wrong values that it takes; they are not tried.
    """
    faults = []
    for argument in taken:
        for wrong, value in WRONG.items():
            if wrong in taken[argument]:
                continue
            where, message = f"{name}({argument}={wrong})", ""

            def run(value: Any = value, argument: str = argument) -> None:
                nonlocal message
                try:
                    call(**{**needed, argument: value})
                    message = "nothing is raised"
                except Exception as error:
                    if type(error).__module__ != "jaxode.problem.errors":
                        message = f"{type(error).__name__}: {error}"
                    elif re.search(r"(?<![\w.])_[A-Z]\w+|PyTreeDef|Traced<", str(error)):
                        message = f"a private name: {error}"

            compiled = compilations_of(run)
            if compiled:
                faults.append(f"{where}: {compiled} programs are compiled")
            if message:
                faults.append(f"{where}: {message[:300]}")
    return faults
