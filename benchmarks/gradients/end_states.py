"""Exact gradients of end states: Lotka-Volterra, Lorenz to t = 5, an MLP on a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import relative_error
from benchmarks.harness.gradsolve import gradsolve_gradient, gradsolve_name
from benchmarks.harness.peers import diffrax_tsit5
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import compile_times, run_times
from benchmarks.problems.lorenz import PARAMETERS, lorenz
from benchmarks.problems.lotka_volterra import fit_problem, lotka_volterra
from benchmarks.problems.neural_ode import PARAMS, SAMPLES, TIMES, batch_field

TITLE = "Value and gradient of the end state, Tsit5, by Discrete and by RecursiveCheckpoint (ms)"
SETTINGS = beside_diffrax(
    rtol="Lotka-Volterra 1e-6, Lorenz 1e-7, MLP 1e-4",
    atol="Lotka-Volterra 1e-8, Lorenz 1e-9, MLP 1e-6",
    adjoint=(
        'jo.Discrete(); "every stage stored": jo.Discrete(memory="stages")',
        "RecursiveCheckpointAdjoint()",
    ),
    max_steps='4096; "at most 8 steps" and "every stage stored": 8',
)


class Case(NamedTuple):
    """An initial value problem, its tolerances, and options of jaxode's solve alone."""

    name: str
    field: Callable
    y0: Array
    ts: Array
    args: PyTree
    rtol: float
    atol: float
    options: dict[str, Any]
    max_steps: int = 4096

    @property
    def inputs(self) -> tuple[PyTree, float, float]:
        return self.args, self.rtol, self.atol


def cases() -> list[Case]:
    """Two small systems, and a network with three choices of steps and memory."""
    y0, _, p, _ = fit_problem()
    nonlinear = Case(
        "Lotka-Volterra", lotka_volterra, y0, jnp.array([0.0, 10.0]), p, 1e-6, 1e-8, {}
    )
    y0, args = jnp.array([1.0, 0.0, 0.0]), jnp.array(PARAMETERS)
    chaotic = Case("Lorenz to t = 5", lorenz, y0, jnp.array([0.0, 5.0]), args, 1e-7, 1e-9, {})
    network, stages = (
        (batch_field, SAMPLES, TIMES, PARAMS, 1e-4, 1e-6),
        jo.Discrete(memory="stages"),
    )
    return [
        nonlinear,
        chaotic,
        Case("MLP 2-64-64-2 on 256 samples", *network, {}),
        Case("MLP, at most 8 steps", *network, {}, 8),
        Case("MLP, every stage stored", *network, {"sensitivity": stages}, 8),
    ]


def our_loss(case: Case, args: PyTree, rtol: float, atol: float) -> Array:
    """The sum of squares of the end state by jaxode."""
    options = {"max_steps": case.max_steps, **case.options}
    return jnp.sum(
        jo.solve(case.field, case.y0, case.ts, args, rtol=rtol, atol=atol, **options).y1 ** 2
    )


def peer_loss(case: Case, args: PyTree, rtol: float, atol: float) -> Array:
    """The sum of squares of the end state by diffrax."""
    solution = diffrax_tsit5(
        case.field, case.y0, case.ts, args, rtol, atol, ends=True, max_steps=case.max_steps
    )
    return jnp.sum(solution.ys[-1] ** 2)  # pyright: ignore[reportOptionalSubscript]


def make_gradient(loss: Callable, case: Case) -> tuple[Any, tuple]:
    """Value and gradient of the loss, jitted, and its inputs."""
    return jax.jit(jax.value_and_grad(partial(loss, case))), case.inputs


def rows() -> list[Comparison]:
    return [row for case in cases() for row in case_rows(case)]


def case_rows(case: Case) -> list[Comparison]:
    """Run and compile times of a case beside diffrax, for small systems gradsolve's time too."""
    ours, peer = make_gradient(our_loss, case)[0], make_gradient(peer_loss, case)[0]
    precise = case._replace(max_steps=4096, options={}, rtol=1e-12, atol=1e-13)
    reference, inputs = make_gradient(our_loss, precise)
    exact = reference(*inputs)[1]
    times = run_times(
        lambda: ours(*case.inputs),
        lambda: peer(*case.inputs),
        repeats=51 if case.y0.ndim > 1 else 301,
    )
    errors = [relative_error(f(*case.inputs)[1], exact) for f in (ours, peer)]
    found = [
        Comparison(case.name, times[0], times[1], ">= 2", errors[0], errors[1]),
        compile_row(case),
    ]
    if case.y0.ndim == 1 and gradsolve_name():
        found.append(gradsolve_row(case, ours, exact))
    return found


def compile_row(case: Case) -> Comparison:
    """The compile times of value and gradient."""
    our_time, peer_time = compile_times(
        lambda: make_gradient(our_loss, case), lambda: make_gradient(peer_loss, case), repeats=3
    )
    ratio = f"{our_time / peer_time:.2f}x"
    return Comparison(f"compile, {case.name}", our_time, peer_time, "<= 0.4x", note=ratio)


def gradsolve_row(case: Case, ours: Callable, exact: PyTree) -> Comparison:
    """The run times beside gradsolve, which records on the host and takes a batch, here of one."""
    peer = gradsolve_gradient(case.field, lambda ends: jnp.sum(ends**2))
    inputs = case.args[None], case.y0[None], case.ts, case.rtol, case.atol
    times = run_times(lambda: ours(*case.inputs), lambda: peer(*inputs), repeats=5)
    gradients = ours(*case.inputs)[1], peer(*inputs)[1][0]
    errors = [relative_error(gradient, exact) for gradient in gradients]
    return Comparison(
        f"{case.name}; {gradsolve_name()}", times[0], times[1], ">= 2", errors[0], errors[1]
    )
