"""Wrong values of every argument of every public function: errors of jaxode, before a compilation.

The functions and their arguments are found by inspection, so a new one that is not listed here
fails. What is listed is how each is called, and which of the wrong values an argument does take.
"""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.base import Solver
from tests.support.wrong_arguments import (
    CALLABLE,
    COUNTS,
    EVERY,
    NUMBERS,
    POSITIVE,
    STATES,
    faults_of,
    parameters_of,
    public_functions,
)

Y0 = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])


def decay(t, y, args):
    return -y


# Which of the wrong values an argument takes, by its name.
TAKES: dict[str, Any] = {
    "args": EVERY,
    "f": set(),
    "func": set(),
    "y0": STATES,
    "ts": {"pair", "seven numbers"},
    "t0": {"None", "0", "-1"},
    "t1": {"None", "1", "huge"},
    "start": {"None"},
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
    "model": CALLABLE - {"class"},
    "data": {"vector"},  # compiles in the function of the user; refused in test_batches.py
    "loss": set(),
    "steps": {"None"} | COUNTS,
    "epochs": {"None"} | COUNTS,
    "optimizer": {"None"},
    "batch_size": {"None", "1"},
    "data_axes": {"0"},
    "validation": {"None", "0.5", "vector"},
    "validate_every": {"None"} | COUNTS,
    "patience": {"None"} | COUNTS,
    "metric": {"None"} | CALLABLE,
    "metrics": {"None", "empty list", "empty dict"} | CALLABLE,
    "on_failure": set(),
    "callbacks": {"empty list"} | (CALLABLE - {"class"}),
    "network": set(),
    "scale": {"0"} | POSITIVE,
    "path": {"string"},
    "folder": {"string"},
    "key": {"None", "key"},
    "label": {"string"},
    "field": CALLABLE - {"class"},
    "augment": {"0"} | COUNTS,
    "order": COUNTS,
    "integral_loss": {"None"} | (CALLABLE - {"class"}),
    "fun": set(),
    "t_span": {"pair"},
    "t_eval": {"None", "empty list", "seven numbers"},
    "dense_output": {"True"},
    "vectorized": {"True"},
    "first_step": {"None"} | POSITIVE,
    "max_step": {"inf"} | POSITIVE,
    "min_step": {"0"} | POSITIVE,
    "jac_sparsity": {"None"},
    "lband": {"None", "0", "1"},
    "uband": {"None", "0", "1"},
    "guess": {"None"},
    "max_iterations": {"None"} | COUNTS,
    "report": {"None"} | CALLABLE,
    "every": {"1"},
    "directory": {"None", "string"},
}
# Those of one function alone.
TAKES_ALONE: dict[tuple[str, str], Any] = {
    ("NeuralODE", "t0"): {"0", "1", "-1", "0.5", "huge"},
    ("NeuralODE", "t1"): {"0", "1", "-1", "0.5", "huge"},
    ("NeuralDE", "t0"): {"0", "1", "-1", "0.5", "huge"},
    ("NeuralDE", "t1"): {"0", "1", "-1", "0.5", "huge"},
    ("AtRest", "rtol"): POSITIVE,
    ("AtRest", "atol"): POSITIVE,
    ("Continuous", "rtol"): {"None"} | POSITIVE,
    ("Continuous", "atol"): {"None"} | POSITIVE,
    ("Continuous", "solver"): {"None"},
    ("Krylov", "rtol"): POSITIVE,
    ("Krylov", "max_steps"): COUNTS,
    ("Fixed", "dt"): POSITIVE,
    ("Grid", "times"): set(),
    ("fit", "seed"): {"None", "0", "1"},
    ("printing", "every"): COUNTS,
    ("csv", "every"): COUNTS,
    ("tensorboard", "every"): COUNTS,
    ("odeint", "rtol"): {"None", "0"} | POSITIVE,
    ("odeint", "atol"): {"None", "0"} | POSITIVE,
    ("SaveAt", "ts"): {"None", "empty list", "seven numbers"},
    ("multiple_shooting", "ts"): {"pair", "seven numbers"},
    ("multiple_shooting", "solver"): set(),
    ("sparsity", "y0"): {"pair", "seven numbers"},
    ("odeint", "t"): {"pair", "seven numbers"},
    ("solve_ivp", "args"): {"None", "empty list"},
    ("solve_ivp", "rtol"): {"0", "pair"} | POSITIVE,
    ("solve_ivp", "atol"): {"0", "pair"} | POSITIVE,
    ("solve_ivp", "y0"): {"empty list", "pair", "seven numbers"},
    ("solve_ivp", "events"): {"None", "empty list", "vector"},
}
# The solve sets it.
UNTOLD = {"tolerance"}
LINEAR = jo.Rodas5P
LINEAR_MODEL = eqx.nn.Linear(2, 2, key=jax.random.key(0))


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
    "solve_ivp": (
        jo.solve_ivp,
        {"fun": lambda t, y: -y, "t_span": (0.0, 1.0), "y0": Y0[0], "method": "BDF"},
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
    "fit": (jo.fit, {"model": LINEAR_MODEL, "data": (Y0, Y0), "loss": "mse"}),
    "small_last_layer": (jo.small_last_layer, {"network": LINEAR_MODEL}),
    "NeuralODE": (jo.NeuralODE, {"field": LINEAR_MODEL}),
    "NeuralDE": (jo.NeuralDE, {"field": LINEAR_MODEL}),
    "SaveAt": (solved_with("save", jo.SaveAt), {}),
    "cache": (jo.cache, {}),
    "multiple_shooting": (jo.multiple_shooting, {"f": decay, "y0": Y0[0], "ts": (0.0, 1.0)}),
}
# What solves and trainings return, base classes, and what their methods exchange.
NO_ARGUMENTS = {
    "Solution", "Stats", "Events", "SteadyState", "Status", "Log", "MultipleShooting",
    "BackwardStats", "Solver", "Controller", "StepResult", "EvaluationCounts", "AttemptedStep",
    "Decision",
}  # fmt: skip


def call_of(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    value = getattr(jo, name)
    if name not in CALLS and inspect.isclass(value) and issubclass(value, Solver):
        fixed = value().error_exponent is None
        options = {"dt": 0.1} if fixed else {}
        return lambda **given: solve(solver=value(**given), **options), {}
    assert name in CALLS, f"say in CALLS how jo.{name} is called"
    return CALLS[name]


def arguments_of(name: str) -> list[str]:
    if name not in ("PI", "I"):
        return [p for p in parameters_of(getattr(jo, name)) if p not in UNTOLD]
    # Those of PI and I are of `**options`, which may not set the coefficients again.
    return [p for p in parameters_of(jo.PID) if p not in ("pcoeff", "icoeff", "dcoeff")]


def takes(name: str, argument: str) -> Any:
    """Which of the wrong values an argument takes."""
    if (name, argument) in TAKES_ALONE:
        return TAKES_ALONE[name, argument]
    assert argument in TAKES, f"say in TAKES what {argument} of jo.{name} takes"
    return TAKES[argument]


@pytest.fixture(scope="module", autouse=True)
def scalars_are_staged():
    """The conversion of a step size is compiled once in a process: before anything is counted."""
    solve(solver="rk4", dt=0.1)


# Equinox warns of arrays where none is expected, before our error is raised.
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize("name", public_functions(jo, NO_ARGUMENTS))
def test_wrong_values_raise_errors_of_jaxode_before_a_compilation(name):
    taken = {argument: takes(name, argument) for argument in arguments_of(name)}
    assert not faults_of(name, *call_of(name), taken)


@pytest.mark.parametrize("name", public_functions(jo.callbacks, {"TrainingState"}))
def test_wrong_values_of_callbacks(name):
    function = getattr(jo.callbacks, name)
    taken = {argument: takes(name, argument) for argument in parameters_of(function)}
    needed = {what: "log" for what in taken if what in ("path", "folder")}
    assert not faults_of(name, function, needed, taken)
