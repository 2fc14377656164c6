"""Ensembles of stiff problems whose rates are spread: end states, and gradients by the rates."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxode.stepping.solvers import SOLVERS

from .batches import (
    Ensemble,
    batch,
    lockstep_share,
    make,
    make_gradient,
    median_share,
    useful_share,
)
from .peers_stiff import diffrax_ends
from .stiff_problems import POLLU, ROBER, Stiff
from .timing import Row, run_times

TITLE = (
    "Stiff ensembles, rates times exp(0.5 N(0, 1)), each library at the loosest tolerance that "
    "reaches a relative error of 1e-6 in every component, median over trajectories (ms)"
)
ERROR = 1e-6
RTOLS = (1e-3, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
OURS = ("rodas4", "rodas5p", "bdf")


class Reached(NamedTuple):
    """The ensemble's end states by rtol, the rtol that is wanted, its time and error there."""

    run: Callable[[float], Array]
    rtol: float
    time: float
    error: float


def rows() -> list[Row]:
    rober, pollu = spread(ROBER, 1024), spread(POLLU, 256)
    solver, rtols, found = end_states("1,024 ROBER", ROBER, rober, ">= 100", repeats=3)
    gradients = gradient_row("1,024 ROBER, value and gradient", solver, rtols, rober, ROBER)
    return [found, gradients, end_states("256 POLLU", POLLU, pollu, ">= 20", repeats=3)[2]]


def spread(problem: Stiff, count: int) -> Ensemble:
    """The problem with rates of its own for each trajectory."""
    factors = np.exp(0.5 * np.random.default_rng(0).normal(size=(count, len(problem.rates))))
    y0 = jnp.tile(jnp.array(problem.y0), (count, 1))
    args = jnp.asarray(factors * np.array(problem.rates))
    return Ensemble(problem.field, args, y0, jnp.array([0.0, problem.t1]), 0.0, 0.0)


def our_ends(solver: str) -> Callable[..., Array]:
    def ends(f: Callable, args: Array, y0: Array, ts: Array, rtol: Any, atol: Any) -> Array:
        return batch(f, args, y0, ts, rtol, atol, solver=solver, max_steps=16384).y1

    return ends


def at(ensemble: Ensemble, problem: Stiff, rtol: float) -> Ensemble:
    return ensemble._replace(rtol=rtol, atol=rtol * problem.share)


def worst(found: Array, exact: Array) -> float:
    """The median over trajectories of the largest relative error of a component."""
    return float(jnp.median(jnp.abs(found / exact - 1).max(axis=-1)))


def end_states(
    work: str, problem: Stiff, ensemble: Ensemble, target: str, repeats: int
) -> tuple[str, tuple[float, float], Row]:
    """The fastest of our solvers, its and diffrax's tolerance, and the row of both."""
    exact = make(our_ends("rodas5p"), at(ensemble, problem, 1e-11))
    error = partial(worst, exact=exact[0](*exact[1]))

    def reached(ends: Callable) -> Reached:
        function = make(ends, ensemble)[0]
        return loosest(lambda rtol: function(*at(ensemble, problem, rtol).inputs), error)

    ours = {name: reached(our_ends(name)) for name in OURS if name in SOLVERS}
    solver, mine = min(ours.items(), key=lambda item: item[1].time)
    theirs = reached(diffrax_ends)
    times = run_times(
        lambda: mine.run(mine.rtol), lambda: theirs.run(theirs.rtol), repeats=repeats
    )
    sols = batch(*at(ensemble, problem, mine.rtol), solver=solver)
    lockstep = lockstep_share(sols.stats.num_steps)
    note = (
        f"{solver}, rtol {mine.rtol:.0e}; diffrax's {theirs.rtol:.0e}; useful share "
        f"{useful_share(sols):.2f}, in lockstep {lockstep:.2f}"
    )
    row = Row(work, *times, target, mine.error, theirs.error, note)
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

    times = run_times(lambda: mine(*inputs), run, repeats=1)
    errors = [
        median_share(gradient * ensemble.args, exact) for gradient in (mine(*inputs)[1], found[-1])
    ]
    return Row(work, *times, ">= 50", *errors, f"{solver}; errors relative, by the logarithms")
