"""Stiff ensembles with random reaction rates: end states, and gradients by the rates."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import median_max_relative_error, median_relative_error
from benchmarks.harness.peers import diffrax_stiff_ends
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import run_times
from benchmarks.problems.ensembles import Ensemble
from benchmarks.problems.stiff import POLLU, ROBER, StiffProblem
from benchmarks.speed.ensemble_solves import (
    lockstep_share,
    make_forward,
    make_gradient,
    solve_ensemble,
)
from jaxode.solvers.registry import SOLVERS

TITLE = (
    "Stiff ensembles, rates times exp(0.5 N(0, 1)), each library at the loosest tolerance that "
    "reaches a relative error of 1e-6 in every component, median over trajectories (ms)"
)
SETTINGS = beside_diffrax(
    rtol="the loosest of 1e-3 to 1e-7 that reaches the error, in the note",
    atol=f"rtol times {ROBER.atol_per_rtol:g} (ROBER), {POLLU.atol_per_rtol:g} (POLLU)",
    solver=("the fastest of rodas4, rodas5p, kvaerno5, bdf, in the note", "Kvaerno5"),
    controller=("each solver's own default", "PI, 0.3 and 0.4"),
    max_steps=("16,384", "4096"),
)
ERROR = 1e-6
RTOLS = tuple(10.0 ** (-0.5 * k) for k in range(6, 15))
OUR_SOLVERS = ("rodas4", "rodas5p", "kvaerno5", "bdf")


class LoosestSolve(NamedTuple):
    """A solve by rtol, the loosest rtol that reaches the error, and time and error there."""

    solve: Callable[[float], Array]
    rtol: float
    time: float
    error: float


def rows() -> list[Comparison]:
    rober, pollu = random_rates(ROBER, 1024), random_rates(POLLU, 256)
    solver, rtols, rober_row = end_states("1,024 ROBER", ROBER, rober, ">= 100")
    gradients = gradient_row("1,024 ROBER, value and gradient", solver, rtols, rober, ROBER)
    return [rober_row, gradients, end_states("256 POLLU", POLLU, pollu, ">= 20")[2]]


def random_rates(problem: StiffProblem, count: int) -> Ensemble:
    """The problem with random rates for each trajectory."""
    factors = np.exp(0.5 * np.random.default_rng(0).normal(size=(count, len(problem.rates))))
    y0 = jnp.tile(jnp.array(problem.y0), (count, 1))
    args = jnp.asarray(factors * np.array(problem.rates))
    return Ensemble(problem.field, args, y0, jnp.array([0.0, problem.t1]), 0.0, 0.0)


def our_solve(solver: str) -> Callable[..., jo.Solution]:
    """The solve of an ensemble by one of jaxode's solvers."""
    return partial(solve_ensemble, solver=solver, max_steps=16384)


def our_ends(solver: str) -> Callable[..., Array]:
    """The end states of an ensemble by one of jaxode's solvers."""
    return lambda *inputs: our_solve(solver)(*inputs).y1


def with_rtol(ensemble: Ensemble, problem: StiffProblem, rtol: float) -> Ensemble:
    """The ensemble with the tolerances that belong to `rtol`."""
    return ensemble._replace(rtol=rtol, atol=rtol * problem.atol_per_rtol)


def end_states(
    work: str, problem: StiffProblem, ensemble: Ensemble, target: str
) -> tuple[str, tuple[float, float], Comparison]:
    """The fastest of jaxode's solvers, its and diffrax's tolerance, and the row of both."""
    names = [name for name in OUR_SOLVERS if name in SOLVERS]
    solves = {name: jax.jit(partial(our_solve(name), ensemble.field)) for name in names}
    exact = solves["rodas5p"](*with_rtol(ensemble, problem, 1e-11).inputs).y1

    def loosest(ends: Callable) -> LoosestSolve:
        solve = lambda rtol: ends(*with_rtol(ensemble, problem, rtol).inputs)  # noqa: E731
        return loosest_solve(solve, partial(median_max_relative_error, exact=exact))

    candidates = {
        name: loosest(lambda *inputs, solve=solve: solve(*inputs).y1)
        for name, solve in solves.items()
    }
    solver, ours = min(candidates.items(), key=lambda item: (item[1].error > ERROR, item[1].time))
    peer = loosest(make_forward(diffrax_stiff_ends, ensemble)[0])
    times = run_times(
        lambda: ours.solve(ours.rtol),
        lambda: peer.solve(peer.rtol),
        repeats=3,
        min_round_ms=200.0,
    )
    stats = solves[solver](*with_rtol(ensemble, problem, ours.rtol).inputs).stats
    note = (
        f"{solver}, rtol {ours.rtol:.1e}; diffrax's {peer.rtol:.1e}; useful share "
        f"{float(stats.useful_share):.2f}, in lockstep {lockstep_share(stats.num_steps):.2f}"
    )
    row = Comparison(work, times[0], times[1], target, ours.error, peer.error, note)
    return solver, (ours.rtol, peer.rtol), row


def loosest_solve(solve: Callable[[float], Array], error: Callable[[Array], float]) -> LoosestSolve:
    """The solve at the loosest tolerance that reaches `ERROR`, or at the tightest one."""
    jax.block_until_ready(solve(RTOLS[0]))
    for rtol in RTOLS:
        begin = time.perf_counter()
        ends = jax.block_until_ready(solve(rtol))
        found = LoosestSolve(solve, rtol, time.perf_counter() - begin, error(ends))
        if found.error <= ERROR:
            break
    return found


def gradient_row(
    work: str, solver: str, rtols: tuple[float, float], ensemble: Ensemble, problem: StiffProblem
) -> Comparison:
    """The gradient of the sum of squares of the end states by each trajectory's rates.

    Tolerances are those of the end states, and errors those of the gradient by the logarithms of
    the rates. `RecursiveCheckpointAdjoint` runs only twice, which takes half a minute.
    """
    ours, inputs = make_gradient(our_ends(solver), with_rtol(ensemble, problem, rtols[0]))
    peer, peer_inputs = make_gradient(diffrax_stiff_ends, with_rtol(ensemble, problem, rtols[1]))
    exact = ours(*with_rtol(ensemble, problem, 1e-9).inputs)[1] * ensemble.args
    peer_gradients: list[Array] = []

    def run_peer() -> None:
        peer_gradients.append(jax.block_until_ready(peer(*peer_inputs))[1])

    times = run_times(lambda: ours(*inputs), run_peer, repeats=1, min_round_ms=1000.0)
    gradients = ours(*inputs)[1], peer_gradients[-1]
    errors = [median_relative_error(gradient * ensemble.args, exact) for gradient in gradients]
    note = f"{solver}; errors relative, by the logarithms"
    return Comparison(work, times[0], times[1], ">= 50", errors[0], errors[1], note)
