"""Where a host reads the conditions of loops, a step has no loops, and the same results."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import jaxode as jo
from jaxode.integrate import xla_loops
from tests.support.sweeps import few

TS = jnp.array([0.0, 0.0, 0.1, 0.11, 0.12, 0.13, 0.5, 1.0, 1.0, 3.0, 3.0])
MATRIX = jax.random.normal(jax.random.key(0), (3, 3))
STATES = jax.random.normal(jax.random.key(1), (11, 3))
OWN_TIMES = TS * jnp.linspace(0.0, 1.0, 11)[:, None]  # the first trajectory is over at its start
WEIGHTS = jnp.arange(1.0, 12.0)[:, None]


def swinging(t: Any, y: Any, matrix: Any) -> Any:
    return jnp.sin(matrix @ y) * (1 + t)


def one(y0: Any, ts: Any, matrix: Any, **options: Any) -> Any:
    def read(t: Any, y: Any, matrix: Any) -> dict[str, Any]:
        return {"scaled": matrix @ y, "time": t * y[0]}

    return jo.solve(swinging, y0[0], ts, matrix, save=read, throw=False, **options)


def many(y0: Any, ts: Any, matrix: Any, **options: Any) -> Any:
    axes = (0, ts.ndim - 1 or None, None) if ts.ndim == 1 else (0, 0, None)
    options = {"lanes": 8, "in_axes": axes, "throw": False, **options}
    return jo.solve_batch(swinging, y0, ts, matrix, **options)


def gradient(solve: Callable, **options: Any) -> Callable:
    def loss(y0: Any, ts: Any, matrix: Any) -> Any:
        ys = jax.tree.leaves(solve(y0, ts, matrix, **options).ys)
        return sum(jnp.sum(jnp.sin(x) * WEIGHTS.reshape(-1, *[1] * (x.ndim - 1))) for x in ys)

    return jax.grad(loss, (0, 1, 2))


CASES: dict[str, tuple[Callable, Any]] = {
    "values at times": (lambda *a: one(*a), TS),
    "backwards in time": (lambda *a: one(*a), 3 - TS),
    "more slopes for what is inside": (lambda *a: one(*a, solver="vern7"), TS),
    "out of order": (jax.jit(lambda *a: one(*a)), TS.at[4].set(0.3)),
    "a gradient": (gradient(one), TS),
    "a batch": (lambda *a: many(*a), TS),
    "a batch of fewer trajectories than lanes": (lambda *a: many(*a, lanes=16), TS),
    "a batch with times of its own": (lambda *a: many(*a), OWN_TIMES),
    "a batch of which some fail": (lambda *a: many(*a, max_steps=9), OWN_TIMES),
    "a batch of every step": (lambda *a: many(*a, save="steps", max_steps=64), OWN_TIMES),
    "a batch's gradient": (gradient(many), OWN_TIMES),
    "a batch's gradient by steps": (gradient(many, save="steps", max_steps=10), TS),
}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, loops are written as for a GPU."""
    jax.clear_caches()
    return lambda: monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def compared(name: str) -> list[Any]:
    function, ts = CASES[name]
    found = function(STATES, ts, MATRIX)
    if isinstance(found, jo.Solution):
        found = found.ys, found.y1, found.ts, found.status, found.stats.num_steps
    return jax.tree.leaves(found)


FAST = ("a batch of which some fail",)


@pytest.mark.parametrize("name", few(CASES, *FAST))
def test_results_are_those_of_loops_within_loops(name, host, monkeypatch):
    """With chunks of the usual size, and with ones so small that there are many."""
    expected = compared(name)
    host()
    for size in (xla_loops.CHUNK_NUMBERS, 64):
        jax.clear_caches()
        monkeypatch.setattr(xla_loops, "CHUNK_NUMBERS", size)
        for a, b in zip(expected, compared(name), strict=True):
            scale = float(np.max(np.abs(np.nan_to_num(a)), initial=1.0))
            np.testing.assert_allclose(b, a, 1e-9, 1e-11 * scale)


def loops(program: Any, depth: int = 0) -> Iterator[int]:
    """How deep each loop of a program stands inside others."""
    for equation in program.eqns:
        inside = equation.primitive.name in ("while", "cond")
        if inside:
            yield depth + 1
        values = jax.tree.leaves(list(equation.params.values()))
        if "operation" in equation.params:  # one solve, which `vmap` would put into lanes
            values = [equation.params["operation"].program([x.aval for x in equation.invars])]
        for value in values:
            if isinstance(value, Jaxpr | ClosedJaxpr):
                inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
                yield from loops(inner, depth + inside)


@pytest.mark.parametrize("name", few(CASES, *FAST, "a gradient", "a batch's gradient by steps"))
def test_a_step_reads_one_condition(name, host):
    function, ts = CASES[name]
    host()
    program = jax.make_jaxpr(function)(STATES, ts, MATRIX)
    # A batch's log goes by segments of steps: a loop over these, and one over their steps. Slopes
    # for dense output alone are cheaper to ask for than to compute in vain.
    two = "batch's" in name or "slopes" in name
    assert max(loops(program.jaxpr)) == 1 + two
