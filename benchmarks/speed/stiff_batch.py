"""Ensembles of stiff problems whose rates are spread: end states, and gradients by the rates."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxode as jo
from benchmarks.harness.timing import Row, run_times
from benchmarks.problems.stiff import POLLU, ROBER, Stiff
from benchmarks.speed.ensemble_solves import (
    Ensemble,
    batch,
    lockstep_share,
    make,
    make_gradient,
    median_share,
)
from benchmarks.speed.stiff_peers import diffrax_ends
from jaxode.solvers.registry import SOLVERS

TITLE = (
    "Stiff ensembles, rates times exp(0.5 N(0, 1)), each library at the loosest tolerance that "
    "reaches a relative error of 1e-6 in every component, median over trajectories (ms)"
)
ERROR = 1e-6
RTOLS = tuple(10.0 ** (-0.5 * k) for k in range(6, 15))
OURS = ("rodas4", "rodas5p", "kvaerno5", "bdf")


class Reached(NamedTuple):
    """The ensemble's end states by rtol, the rtol that is wanted, its time and error there."""

    run: Callable[[float], Array]
    rtol: float
    time: float
    error: float


def rows() -> list[Row]:
    rober, pollu = spread(ROBER, 1024), spread(POLLU, 256)
    solver, rtols, found = end_states("1,024 ROBER", ROBER, rober, ">= 100")
    gradients = gradient_row("1,024 ROBER, value and gradient", solver, rtols, rober, ROBER)
    return [found, gradients, end_states("256 POLLU", POLLU, pollu, ">= 20")[2]]


def spread(problem: Stiff, count: int) -> Ensemble:
    """The problem with rates of its own for each trajectory."""
    factors = np.exp(0.5 * np.random.default_rng(0).normal(size=(count, len(problem.rates))))
    y0 = jnp.tile(jnp.array(problem.y0), (count, 1))
    args = jnp.asarray(factors * np.array(problem.rates))
    return Ensemble(problem.field, args, y0, jnp.array([0.0, problem.t1]), 0.0, 0.0)


def ours(solver: str) -> Callable[..., jo.Solution]:
    return partial(batch, solver=solver, max_steps=16384)


def our_ends(solver: str) -> Callable[..., Array]:
    return lambda *inputs: ours(solver)(*inputs).y1


def at(ensemble: Ensemble, problem: Stiff, rtol: float) -> Ensemble:
    return ensemble._replace(rtol=rtol, atol=rtol * problem.share)


def worst(found: Array, exact: Array) -> float:
    """The median over trajectories of the largest relative error of a component."""
    return float(jnp.median(jnp.abs(found / exact - 1).max(axis=-1)))


def end_states(
    work: str, problem: Stiff, ensemble: Ensemble, target: str
) -> tuple[str, tuple[float, float], Row]:
    """The fastest of our solvers, its and diffrax's tolerance, and the row of both."""
    solves = {n: jax.jit(partial(ours(n), ensemble.field)) for n in OURS if n in SOLVERS}
    exact = solves["rodas5p"](*at(ensemble, problem, 1e-11).inputs).y1

    def reached(ends: Callable) -> Reached:
        run = lambda rtol: ends(*at(ensemble, problem, rtol).inputs)  # noqa: E731
        return loosest(run, partial(worst, exact=exact))

    found = {
        name: reached(lambda *inputs, solve=solve: solve(*inputs).y1)
        for name, solve in solves.items()
    }
    solver, mine = min(found.items(), key=lambda item: (item[1].error > ERROR, item[1].time))
    theirs = reached(make(diffrax_ends, ensemble)[0])
    times = run_times(
        lambda: mine.run(mine.rtol), lambda: theirs.run(theirs.rtol), repeats=3, turn=200.0
    )
    stats = solves[solver](*at(ensemble, problem, mine.rtol).inputs).stats
    note = (
        f"{solver}, rtol {mine.rtol:.1e}; diffrax's {theirs.rtol:.1e}; useful share "
        f"{float(stats.useful_share):.2f}, in lockstep {lockstep_share(stats.num_steps):.2f}"
    )
    row = Row(work, times[0], times[1], target, mine.error, theirs.error, note)
    return solver, (mine.rtol, theirs.rtol), row


def loosest(run: Callable[[float], Array], error: Callable[[Array], float]) -> Reached:
    """The loosest tolerance that reaches the error; the tightest where none does."""
    jax.block_until_ready(run(RTOLS[0]))
    for rtol in RTOLS:
        begin = time.perf_counter()
        ends = jax.block_until_ready(run(rtol))
        found = Reached(run, rtol, time.perf_counter() - begin, error(ends))
        if found.error <= ERROR:
            break
    return found


def gradient_row(
    work: str, solver: str, rtols: tuple[float, float], ensemble: Ensemble, problem: Stiff
) -> Row:
    """The sum of squares of the end states by each trajectory's rates, errors by their logarithms.

    At the tolerances of the end states; `RecursiveCheckpointAdjoint` is run twice, which takes
    half a minute.
    """
    mine, inputs = make_gradient(our_ends(solver), at(ensemble, problem, rtols[0]))
    other, other_inputs = make_gradient(diffrax_ends, at(ensemble, problem, rtols[1]))
    exact = mine(*at(ensemble, problem, 1e-9).inputs)[1] * ensemble.args
    found: list[Array] = []

    def run() -> None:
        found.append(jax.block_until_ready(other(*other_inputs))[1])

    times = run_times(lambda: mine(*inputs), run, repeats=1, turn=1000.0)
    gradients = mine(*inputs)[1], found[-1]
    errors = [median_share(gradient * ensemble.args, exact) for gradient in gradients]
    note = f"{solver}; errors relative, by the logarithms"
    return Row(work, times[0], times[1], ">= 50", errors[0], errors[1], note)
