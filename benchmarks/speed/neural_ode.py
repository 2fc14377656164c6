"""A neural ODE 2-64-64-2 on a batch of 256 samples as one system: value and gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import relative_error
from benchmarks.harness.peers import diffrax_values
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import compile_times, run_times
from benchmarks.problems.neural_ode import PARAMS, SAMPLES, TIMES, batch_field

TITLE = "Neural ODE 2-64-64-2 tanh, 256 samples as one system, Tsit5, rtol 1e-4, atol 1e-6 (ms)"
RTOL, ATOL = 1e-4, 1e-6
SETTINGS = beside_diffrax("1e-4", "1e-6")


def our_loss(params: PyTree, rtol: float, atol: float) -> Array:
    return jnp.mean(jo.solve(batch_field, SAMPLES, TIMES, params, rtol=rtol, atol=atol).y1 ** 2)


def peer_loss(params: PyTree, rtol: float, atol: float) -> Array:
    ends = diffrax_values(batch_field, SAMPLES, TIMES, params, rtol, atol, ends=True)
    return jnp.mean(ends[-1] ** 2)


def bare_loop(evaluations: int, vjps: int) -> Callable[[PyTree], Any]:
    """Two plain loops: evaluations of the vector field, then evaluations with their VJPs."""

    def evaluate(params: PyTree) -> tuple[Array, PyTree]:
        def forward(_: int, y: Array) -> Array:
            return y + 1e-3 * batch_field(jnp.zeros(()), y, params)

        def backward(_: int, state: tuple) -> tuple:
            y, a, g = state
            dy, vjp = jax.vjp(lambda y, p: batch_field(jnp.zeros(()), y, p), y, params)
            da, dg = vjp(a)
            return y - 1e-3 * dy, a + 1e-3 * da, jax.tree.map(jnp.add, g, dg)

        y = lax.fori_loop(0, evaluations, forward, SAMPLES)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return lax.fori_loop(0, vjps, backward, (y, y, zeros))[1:]

    return jax.jit(evaluate)


def rows() -> list[Comparison]:
    ours, peer = (jax.jit(jax.value_and_grad(loss)) for loss in (our_loss, peer_loss))
    stats = jo.solve(batch_field, SAMPLES, TIMES, PARAMS, rtol=RTOL, atol=ATOL).stats
    # The backward pass takes six VJPs for each step, and one for the derivative at the start.
    bare = bare_loop(int(stats.num_evaluations), 6 * int(stats.num_accepted) + 1)
    our_time, peer_time, loop_time = run_times(
        lambda: ours(PARAMS, RTOL, ATOL),
        lambda: peer(PARAMS, RTOL, ATOL),
        lambda: bare(PARAMS),
        repeats=51,
    )
    exact = ours(PARAMS, 1e-10, 1e-12)[1]
    errors = [relative_error(f(PARAMS, RTOL, ATOL)[1], exact) for f in (ours, peer)]
    steps = f"{int(stats.num_accepted)} steps, {int(stats.num_rejected)} rejected"
    ratio = f"{our_time / loop_time:.2f}x the bare loop"
    return [
        Comparison(
            "value and gradient", our_time, peer_time, ">= 1.2", errors[0], errors[1], steps
        ),
        Comparison("against the bare loop", our_time, loop_time, "<= 1.3x", note=ratio),
        compile_row(),
    ]


def compile_row() -> Comparison:
    """The compile times of value and gradient."""
    makers = (
        lambda loss=loss: (jax.jit(jax.value_and_grad(loss)), (PARAMS, RTOL, ATOL))
        for loss in (our_loss, peer_loss)
    )
    our_time, peer_time = compile_times(*makers, repeats=3)
    return Comparison("compile", our_time, peer_time, "", note=f"{our_time / peer_time:.2f}x")
