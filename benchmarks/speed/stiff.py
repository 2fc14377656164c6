"""Single stiff problems at equal reached error, beside diffrax, CVODE and SciPy."""

import functools

import jax
import jax.numpy as jnp

import jaxode as jo
from benchmarks.figures.work_precision import draw_work_precision
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.timing import run_times
from benchmarks.harness.work_precision import (
    Curves,
    EndStateByRtol,
    Point,
    fastest_solver,
    loosest_point,
    measure_curve,
)
from benchmarks.problems.stiff import PROBLEMS, StiffProblem
from benchmarks.speed.stiff_peers import peer_solves
from jaxode.solvers.registry import SOLVERS

TITLE = (
    "Stiff problems, each library at the loosest tolerance that reaches a relative error of 1e-6 "
    "in every component of the end state; called in rounds of 20 ms or more (ms)"
)
ERROR = 1e-6
# The stiff solvers of jaxode that are measured; "auto" shows the cost of switching.
OUR_SOLVERS = ("rosenbrock23", "rodas4", "rodas5p", "auto", "kvaerno5", "radau_iia5", "bdf")


def rows() -> list[Comparison]:
    draw_work_precision({problem.name: curves(problem) for problem in PROBLEMS})
    return [row for problem in PROBLEMS for row in against_peers(problem)]


@functools.cache
def curves(problem: StiffProblem) -> tuple[Curves, Curves]:
    """The work-precision curves of jaxode's solvers, and of the peers."""
    ours = {name: our_solve(name, problem) for name in OUR_SOLVERS if name in SOLVERS}
    our_curves, peer_curves = (
        {name: measure_curve(solve, problem.error) for name, solve in solves.items()}
        for solves in (ours, peer_solves(problem))
    )
    return our_curves, peer_curves


@functools.cache
def our_solve(solver: str, problem: StiffProblem) -> EndStateByRtol:
    """The solve of `problem` by one of jaxode's solvers."""

    @jax.jit
    def end_state(y0, rates, rtol, atol):
        return jo.solve(
            problem.field, y0, (0.0, problem.t1), rates,
            solver=solver, rtol=rtol, atol=atol, max_steps=100_000,
        ).y1  # fmt: skip

    y0, rates = jnp.array(problem.y0), jnp.array(problem.rates)
    return lambda rtol: end_state(y0, rates, rtol, rtol * problem.atol_per_rtol)


def against_peers(problem: StiffProblem) -> list[Comparison]:
    """The fastest of jaxode's solvers beside each peer."""
    ours, theirs = curves(problem)
    fastest = fastest_solver(ours, ERROR)
    if fastest is None:
        nan = float("nan")
        return [Comparison(problem.name, nan, nan, "", note="no solver reached the error")]
    solver, point = fastest
    solve = our_solve(solver, problem)
    return [
        compare(problem, (solver, solve, point), (name, peer, loosest_point(theirs[name], ERROR)))
        for name, peer in peer_solves(problem).items()
    ]


def compare(
    problem: StiffProblem,
    ours: tuple[str, EndStateByRtol, Point],
    theirs: tuple[str, EndStateByRtol, Point | None],
) -> Comparison:
    """The times of both, interleaved."""
    (solver, our_run, point), (name, peer_run, peer) = ours, theirs
    work = f"{problem.name}; {name}"
    if peer is None:
        nan = float("nan")
        goal = target(problem, name)
        return Comparison(work, point.time, nan, goal, point.error, note="not reached")
    repeats = min(21, max(3, int(500 / peer.time)))
    times = run_times(
        lambda: our_run(point.rtol),
        lambda: peer_run(peer.rtol),
        repeats=repeats,
        min_round_ms=20.0,
    )
    note = f"{solver}, rtol {point.rtol:.1e}; peer's {peer.rtol:.1e}"
    return Comparison(
        work, times[0], times[1], target(problem, name), point.error, peer.error, note
    )


def target(problem: StiffProblem, name: str) -> str:
    """The targeted ratio to a peer's time."""
    if name.startswith("diffrax"):
        return ">= 30" if len(problem.y0) <= 3 else ">= 10"
    return "> 1" if name == "CVODE" else ""
