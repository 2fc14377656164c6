"""Wrong values of every argument of every public function: errors of jaxode, before a compilation.

The functions and their arguments are found by inspection, so a new one that is not listed here
fails. What is listed is how each is called, and which of the wrong values an argument does take.
"""

import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.base import Solver
from tests.support.compilations import compilations_of

Y0 = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])


def decay(t, y, args):
    return -y


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
STATES = {"0.5", "nan", "inf", "complex", "dict", "pair", "seven numbers", "rank three"}
# Which of the wrong values an argument takes, by its name.
TAKES: dict[str, Any] = {
    "args": EVERY,
    "f": set(),
    "func": set(),
    "y0": STATES,
    "ts": {"pair", "seven numbers"},
    "solver": set(),
    "rtol": {"0"} | POSITIVE,
    "atol": {"0"} | POSITIVE,
    "dt": {"None"} | POSITIVE,
    "controller": {"None"},
    "save": {"vector"},
    "sensitivity": set(),
    "events": {"None", "empty list"},
    "jumps": {"None", "empty list", "pair", "seven numbers"},
    "max_events": COUNTS,
    "overflow": set(),
    "max_steps": {"None"} | COUNTS,
    "throw": {"True"},
    "progress": {"None", "True"},
    "in_axes": set(),
    "lanes": {"None"} | COUNTS,
    "sharding": {"None"},
    "kernel": {"True"},
    "work": {"None"},
    "t": {"0", "1", "-1", "0.5", "huge"},
    "conserved": {"None", "pair"},
    "linear_solver": {"None"},
    "mxstep": {"1", "huge", "inf"},
    "hmax": {"inf"} | POSITIVE,
    "direction": {"0", "1", "-1"},
    "condition": {"vector"},
    "apply": {"None"},
    "terminal": {"True"} | COUNTS,
    "times": {"empty list", "pair", "seven numbers"},
    "saved": set(),
    "ends": set(),
    "pcoeff": {"None"} | NUMBERS - {"nan", "inf"},
    "icoeff": {"None"} | NUMBERS - {"nan", "inf"},
    "dcoeff": {"None"} | NUMBERS - {"nan", "inf"},
    "safety": {"None", "0.5", "1"},
    "factor_min": {"None", "0.5"},
    "factor_max": {"None", "huge", "inf"},
    "factor_max_first": {"None"} | POSITIVE,
    "dead_band": {"None", "pair"},
    "dtmin": {"None"} | POSITIVE,
    "dtmax": {"None", "inf"} | POSITIVE,
    "norm": set(),
    "force": set(),
    "step_ts": {"None", "empty list", "pair", "seven numbers"},
    "norm_of_tree": set(),
    "memory": {"None"} | COUNTS,
    "at_rest": {"True"},
    "method": set(),
    "seminorm": {"True"},
    "restarts": {"0", "1", "huge"},
    "coupling": {"None", "0.5", "1"},
    "rate": {"None"} | POSITIVE,
    "a": set(),
    "b": set(),
    "embedded": set(),
    "damping": {"1"},
    "base": set(),
    "spectral_radius": {"None"} | POSITIVE,
    "max_order": {"1"},
    "jac": {"None"},
    "mass": {"None"},
    "restart": COUNTS,
    "preconditioner": {"None"} | CALLABLE,
    "lower": {"0", "1"},
    "upper": {"0", "1"},
    "pattern": set(),
    "seed": {"0", "1", "huge"},
}
# Those of one function alone.
TAKES_ALONE: dict[tuple[str, str], Any] = {
    ("AtRest", "rtol"): POSITIVE,
    ("AtRest", "atol"): POSITIVE,
    ("Continuous", "rtol"): {"None"} | POSITIVE,
    ("Continuous", "atol"): {"None"} | POSITIVE,
    ("Continuous", "solver"): {"None"},
    ("Krylov", "rtol"): POSITIVE,
    ("Krylov", "max_steps"): COUNTS,
    ("Fixed", "dt"): POSITIVE,
    ("Grid", "times"): set(),
    ("odeint", "rtol"): {"None", "0"} | POSITIVE,
    ("odeint", "atol"): {"None", "0"} | POSITIVE,
    ("sparsity", "y0"): {"pair", "seven numbers"},
    ("odeint", "t"): {"pair", "seven numbers"},
}
# The solve sets it.
UNTOLD = {"tolerance"}
LINEAR = jo.Rodas5P


def solve(**options: Any) -> Any:
    return jo.solve(decay, Y0[0], (0.0, 1.0), **options)


def solved_with(name: str, make: Callable) -> Callable[..., Any]:
    """Make an option and solve with it."""
    return lambda **arguments: solve(**{name: make(**arguments)})


# How functions are called: a function of the argument under test, and the arguments it needs.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "solve": (jo.solve, {"f": decay, "y0": Y0[0], "ts": (0.0, 1.0)}),
    "solve_batch": (jo.solve_batch, {"f": decay, "y0": Y0, "ts": (0.0, 1.0)}),
    "steady_state": (jo.steady_state, {"f": decay, "y0": Y0[0]}),
    "odeint": (
        lambda **given: jo.odeint(**given),
        {"func": lambda y, t: -y, "y0": Y0[0], "t": jnp.array([0.0, 1.0])},
    ),
    "sparsity": (jo.sparsity, {"f": decay, "y0": Y0[0]}),
    "Event": (solved_with("events", jo.Event), {"condition": lambda t, y, args: y[0] - 0.5}),
    "AtRest": (solved_with("events", jo.AtRest), {}),
    "Jumps": (solved_with("jumps", jo.Jumps), {"times": [0.5]}),
    "PID": (solved_with("controller", jo.PID), {}),
    "I": (solved_with("controller", jo.I), {}),
    "PI": (solved_with("controller", jo.PI), {}),
    "Fixed": (solved_with("controller", jo.Fixed), {"dt": 0.1}),
    "Grid": (solved_with("controller", jo.Grid), {"times": [0.0, 1.0]}),
    "Discrete": (solved_with("sensitivity", jo.Discrete), {}),
    "Continuous": (solved_with("sensitivity", jo.Continuous), {}),
    "Reversible": (solved_with("sensitivity", jo.Reversible), {}),
    "Forward": (solved_with("sensitivity", jo.Forward), {}),
    "Banded": (
        lambda **given: solve(solver=LINEAR(linear_solver=jo.Banded(**given))),
        {"lower": 1, "upper": 1},
    ),
    "Dense": (lambda: solve(solver=LINEAR(linear_solver=jo.Dense())), {}),
    "Krylov": (lambda **given: solve(solver=LINEAR(linear_solver=jo.Krylov(**given))), {}),
    "Sparse": (
        lambda **given: solve(solver=LINEAR(linear_solver=jo.Sparse(**given))),
        {"pattern": np.eye(2, dtype=bool)},
    ),
    "ReversibleRK": (solved_with("solver", jo.ReversibleRK), {"base": jo.Tsit5()}),
    "ExplicitTableau": (
        solved_with("solver", jo.ExplicitTableau),
        {"a": [[1.0]], "b": [0.5, 0.5], "embedded": [1.0, 0.0]},
    ),
    "register": (jo.register, {"solver": jo.Tsit5}),
}
# What is returned, raised or warned of, and what has a file of tests for its bad arguments.
NO_ARGUMENTS = {
    "Solution", "Stats", "Events", "SteadyState", "Status", "Log",
    "fit", "NeuralODE", "NeuralDE",  # tests/training/test_bad_training.py
}  # fmt: skip


def public_functions() -> list[str]:
    return [
        name
        for name, value in vars(jo).items()
        if callable(value)
        and not name.startswith("_")
        and not isinstance(value, ModuleType)
        and not (inspect.isclass(value) and issubclass(value, BaseException))
        and name not in NO_ARGUMENTS
    ]


def call_of(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    value = getattr(jo, name)
    if name not in CALLS and inspect.isclass(value) and issubclass(value, Solver):
        fixed = value().error_exponent is None
        options = {"dt": 0.1} if fixed else {}
        return lambda **given: solve(solver=value(**given), **options), {}
    assert name in CALLS, f"say in CALLS how jo.{name} is called"
    return CALLS[name]


def arguments_of(name: str) -> list[str]:
    function = jo.PID if name in ("PI", "I") else getattr(jo, name)
    kinds = inspect.Parameter
    parameters = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) and p.name not in UNTOLD
    ]
    # Those of PI and I are of `**options`, which may not set the coefficients again.
    fixed = ("pcoeff", "icoeff", "dcoeff") if name in ("PI", "I") else ()
    return [p for p in parameters if p not in fixed]


def takes(name: str, argument: str) -> Any:
    """Which of the wrong values an argument takes."""
    if (name, argument) in TAKES_ALONE:
        return TAKES_ALONE[name, argument]
    assert argument in TAKES, f"say in TAKES what {argument} of jo.{name} takes"
    return TAKES[argument]


def faults_of(name: str) -> list[str]:
    """What is wrong with the errors for wrong values of the arguments of a function."""
    call, needed = call_of(name)
    faults = []
    for argument in arguments_of(name):
        taken = takes(name, argument)
        for wrong, value in WRONG.items():
            if wrong in taken:
                continue
            where = f"{name}({argument}={wrong})"
            message = ""

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


# Equinox warns of arrays where none is expected, before our error is raised.
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize("name", public_functions())
def test_wrong_values_raise_errors_of_jaxode_before_a_compilation(name):
    assert not faults_of(name)
