"""Exact gradients of end states: Lotka-Volterra, Lorenz to t = 5, an MLP on a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness import peers
from benchmarks.harness.timing import Row, compile_times, run_times
from benchmarks.speed import lorenz, lotka_volterra, neural_ode
from benchmarks.speed.ensemble_solves import sum_of_squares
from benchmarks.speed.neural_ode import distance

TITLE = "Value and gradient of the end state, Tsit5, by Discrete and by RecursiveCheckpoint (ms)"


class Case(NamedTuple):
    """A problem, what its steps may err, and the options that only jaxode has."""

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
    y0, _, p, _ = lotka_volterra.setting()
    nonlinear = Case(
        "Lotka-Volterra", lotka_volterra.field, y0, jnp.array([0.0, 10.0]), p, 1e-6, 1e-8, {}
    )
    start, args = jnp.array([1.0, 0.0, 0.0]), jnp.array(lorenz.ARGS)
    chaotic = Case(
        "Lorenz to t = 5", lorenz.field, start, jnp.array([0.0, 5.0]), args, 1e-7, 1e-9, {}
    )
    net = neural_ode.field, neural_ode.X, neural_ode.TS, neural_ode.PARAMS, 1e-4, 1e-6
    return [
        nonlinear,
        chaotic,
        Case("MLP 2-64-64-2 on 256 samples", *net, {}),
        Case("the same, at most 8 steps", *net, {}, 8),
        Case("the same, every stage kept", *net, {"sensitivity": jo.Discrete(memory="stages")}, 8),
    ]


def our_loss(case: Case, args: PyTree, rtol: float, atol: float) -> Array:
    options = {"max_steps": case.max_steps, **case.options}
    return jnp.sum(
        jo.solve(case.field, case.y0, case.ts, args, rtol=rtol, atol=atol, **options).y1 ** 2
    )


def peer_loss(case: Case, args: PyTree, rtol: float, atol: float) -> Array:
    found = peers.solution(
        case.field, case.y0, case.ts, args, rtol, atol, ends=True, max_steps=case.max_steps
    )
    return jnp.sum(found.ys[-1] ** 2)  # pyright: ignore[reportOptionalSubscript]


def make(loss: Callable, case: Case) -> tuple[Any, tuple]:
    return jax.jit(jax.value_and_grad(partial(loss, case))), case.inputs


def rows() -> list[Row]:
    found = []
    for case in cases():
        (ours, _), (peer, _) = make(our_loss, case), make(peer_loss, case)
        exact = make(our_loss, case._replace(max_steps=4096, options={}))[0](
            case.args, 1e-12, 1e-13
        )
        mine, theirs = run_times(
            lambda: ours(*case.inputs),  # noqa: B023
            lambda: peer(*case.inputs),  # noqa: B023
            repeats=51 if case.y0.ndim > 1 else 301,
        )
        errors = [distance(f(*case.inputs)[1], exact[1]) for f in (ours, peer)]
        found.append(Row(case.name, mine, theirs, ">= 2", errors[0], errors[1]))
        mine, theirs = compile_times(
            lambda: make(our_loss, case),  # noqa: B023
            lambda: make(peer_loss, case),  # noqa: B023
            repeats=3,
        )
        share = f"{mine / theirs:.2f}x"
        found.append(Row(f"compile, {case.name}", mine, theirs, "<= 0.4x", note=share))
        if case.y0.ndim == 1 and peers.gradsolve_name():
            found.append(by_replay(case, ours, exact[1]))
    return found


def by_replay(case: Case, ours: Callable, exact: PyTree) -> Row:
    """Beside gradsolve, which records on the host and takes a batch: here of one."""
    peer = peers.gradsolve_gradient(case.field, sum_of_squares)
    inputs = case.args[None], case.y0[None], case.ts, case.rtol, case.atol
    mine, theirs = run_times(lambda: ours(*case.inputs), lambda: peer(*inputs), repeats=5)
    errors = distance(ours(*case.inputs)[1], exact), distance(peer(*inputs)[1][0], exact)
    return Row(f"{case.name}; {peers.gradsolve_name()}", mine, theirs, ">= 2", *errors)
