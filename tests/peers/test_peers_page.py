"""The page for those who come from another library: its tables are those of their file, and run."""

import functools
import inspect
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import jaxode as jo
from docs.development.peers import PAGE, rows_of_peers, with_tables
from jaxode.drivers.options import SENSITIVITIES
from jaxode.drivers.solve_ivp import _METHODS as METHODS
from jaxode.solvers.registry import SOLVERS

ROWS = rows_of_peers()
# What is called with these names is traced, which finds every error but is not compiled.
TRACED = re.compile(r"jo\.(solve|odeint|steady_state)|jax\.vmap|model\(")
OPTIONS = {
    name
    for function in (jo.solve, jo.solve_ivp, jo.odeint, jo.Event, jo.PID, jo.Jumps)
    for name in inspect.signature(function).parameters
}
KNOWN = {*SOLVERS, *SENSITIVITIES, *METHODS, "natural_cubic", "linear", "rectilinear"}


def decay(t, y, args):
    return -y


def network(inputs, outputs):
    return eqx.nn.MLP(inputs, outputs, 4, 1, activation=jnp.tanh, key=jax.random.key(0))


@functools.cache
def names() -> dict[str, Any]:
    """What the code of the tables may use."""
    y0, ts = jnp.array([1.0, 0.5]), jnp.array([0.0, 0.5, 1.0])
    half = jo.Event(lambda t, y: y[0] - 0.7)
    return {
        "jo": jo, "jax": jax, "jnp": jnp, "False": False, "jit": jax.jit, "grad": jax.grad,
        "hessian": jax.hessian, "jvp": jax.jvp, "f": decay, "y0": y0, "ts": ts, "t0": 0.0,
        "t1": 1.0, "t2": 2.0, "args": None, "k": 2.0, "fun": lambda t, y, k=1.0: -k * y,
        "stiff": decay, "other": decay, "batch": jnp.stack([y0, y0]), "x": jnp.ones((3, 2)),
        "condition": lambda t, y, args: y[0] - 0.7, "key": jax.random.key(0),
        "sol": jo.solve(decay, y0, ts, save="dense", events=half, max_events=2, max_steps=64),
        "network": network(2, 2), "wide": network(4, 4), "wider": network(3, 2),
        "energy": lambda y: jnp.sum(y**2), "model": jo.NeuralODE(network(2, 2)),
    }  # fmt: skip


def run(code: str) -> Any:
    """Evaluate an expression, or trace a solve with options."""
    try:
        compiled = compile(code, "peers.toml", "eval")
    except SyntaxError:
        options = eval(f"dict({code})", dict(names()))
        assert {*options} <= OPTIONS
        of_solve = {*options} <= {*inspect.signature(jo.solve).parameters}
        return trace("jo.solve(f, y0, (t0, t1), args, **options)", options) if of_solve else None
    if TRACED.match(code):
        return trace(code, {})
    value = eval(compiled, dict(names()))
    assert not code.startswith('"') or value.lower() in KNOWN
    return value


def trace(code: str, options: dict[str, Any]) -> None:
    def solve(y0):
        eval(code, {**names(), "y0": y0, "options": options})

    jax.eval_shape(solve, names()["y0"])


def code_of(ours: str) -> list[str]:
    """The code of a cell, without names of options and arguments."""
    found = re.findall(r"`([^`]+)`", ours)
    words = {*OPTIONS, *names(), "jax.numpy"}
    return [code for code in found if code.removesuffix("=") not in words]


def test_the_tables_of_the_page_are_those_of_the_file():
    text = PAGE.read_text()
    assert text == with_tables(text), "run `python docs/development/peers.py`"


@pytest.mark.parametrize("peer", ROWS)
def test_what_is_written_here_runs(peer):
    for theirs, ours in ROWS[peer]:
        for code in code_of(ours):
            try:
                run(code)
            except Exception as error:
                error.add_note(f"in the row of {theirs}")
                raise


@pytest.mark.parametrize(
    "code", ["jo.Tsit6()", "jo.solve(f, y0, ts, slover='rk4')", '"rk5"', "dtt=1"]
)
def test_what_does_not_exist_is_found(code):
    with pytest.raises((AttributeError, TypeError, AssertionError)):
        run(code)


def test_no_row_stands_twice():
    for rows in ROWS.values():
        assert len({theirs for theirs, _ in rows}) == len(rows)
