"""Lotka-Volterra with 101 save points: value and gradient of a fit by four parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import relative_error
from benchmarks.harness.peers import diffrax_values
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import compile_times, run_times
from benchmarks.problems.lotka_volterra import fit_problem, lotka_volterra

TITLE = "Lotka-Volterra fit, Tsit5, rtol 1e-6, atol 1e-8, 101 save points, value and gradient (ms)"
RTOL, ATOL = 1e-6, 1e-8
SETTINGS = beside_diffrax("1e-6", "1e-8")


def our_loss(p: Array, y0: Array, ts: Array, data: Array, rtol: float, atol: float) -> Array:
    return jnp.mean((jo.solve(lotka_volterra, y0, ts, p, rtol=rtol, atol=atol).ys - data) ** 2)


def peer_loss(p: Array, y0: Array, ts: Array, data: Array, rtol: float, atol: float) -> Array:
    return jnp.mean((diffrax_values(lotka_volterra, y0, ts, p, rtol, atol) - data) ** 2)


def make_gradient(loss: Callable[..., Array]) -> tuple[Any, tuple]:
    """Value and gradient by the parameters, jitted, and its inputs."""
    y0, ts, p, data = fit_problem()
    return jax.jit(jax.value_and_grad(loss)), (p, y0, ts, data, RTOL, ATOL)


def exact_gradient() -> Array:
    """The gradient; `tests/benchmarks/test_references.py` checks it."""
    gradient, args = make_gradient(our_loss)
    return gradient(*args[:4], 1e-12, 1e-13)[1]


def rows() -> list[Comparison]:
    (ours, args), (peer, _) = make_gradient(our_loss), make_gradient(peer_loss)
    exact = exact_gradient()
    times = run_times(lambda: ours(*args), lambda: peer(*args), repeats=301)
    errors = [relative_error(f(*args)[1], exact) for f in (ours, peer)]
    compiling = compile_times(lambda: make_gradient(our_loss), lambda: make_gradient(peer_loss))
    ratio = f"{compiling[0] / compiling[1]:.2f}x"
    return [
        Comparison("value and gradient", times[0], times[1], ">= 2", errors[0], errors[1]),
        Comparison("compile", compiling[0], compiling[1], "<= 0.4x", note=ratio),
    ]
