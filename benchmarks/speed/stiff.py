"""Single stiff problems at equal reached error, beside diffrax, CVODE and SciPy."""

import functools

import jax
import jax.numpy as jnp

import jaxode as jo
from benchmarks.figures.work_precision import draw_work_precision
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import run_times
from benchmarks.harness.work_precision import (
    Curves,
    EndStateByRtol,
    Point,
    fastest_solver,
    measure_curve,
)
from benchmarks.problems.stiff import PROBLEMS, StiffProblem
from benchmarks.speed.stiff_peers import peer_solves
from jaxode.solvers.registry import SOLVERS

TITLE = (
    "Stiff problems, each library at the loosest tolerance that reaches a relative error of 1e-6 "
    "in every component of the end state; called in rounds of 20 ms or more (ms)"
)
SETTINGS = beside_diffrax(
    rtol="the loosest of 1e-3 to 1e-10 that reaches the error, in the note",
    atol="rtol times " + ", ".join(f"{p.atol_per_rtol:g} ({p.name})" for p in PROBLEMS),
    solver="the fastest of its stiff solvers, in the note",
    controller=("each solver's own default", "diffrax: PI, 0.3 and 0.4; others: their own"),
    adjoint="not differentiated",
    max_steps=("100,000", "diffrax 100,000; CVODE and LSODA 1,000,000; SciPy has no limit"),
    field=("compiled", "diffrax: compiled; others: plain Python"),
)
ERROR = 1e-6
# The stiff solvers of jaxode that are measured; "auto" shows the cost of switching.
OUR_SOLVERS = ("rosenbrock23", "rodas4", "rodas5p", "auto", "kvaerno5", "radau_iia5", "bdf")


def rows() -> list[Comparison]:
    draw_work_precision({problem.name: drawn_curves(problem) for problem in PROBLEMS})
    return [row for problem in PROBLEMS for row in against_peers(problem)]


@functools.cache
def curves(problem: StiffProblem) -> tuple[Curves, Curves]:
    """The work-precision curves of jaxode's solvers, and of the peers', by peer and solver."""
    ours = {name: our_solve(name, problem) for name in OUR_SOLVERS if name in SOLVERS}
    theirs = {
        f"{peer} {solver}": solve
        for peer, solves in peer_solves(problem).items()
        for solver, solve in solves.items()
    }
    our_curves, peer_curves = (
        {name: measure_curve(solve, problem.error) for name, solve in solves.items()}
        for solves in (ours, theirs)
    )
    return our_curves, peer_curves


def drawn_curves(problem: StiffProblem) -> tuple[Curves, Curves]:
    """The curves of jaxode's solvers, and that of the fastest solver of each peer."""
    ours, theirs = curves(problem)
    drawn = {}
    for peer in peer_solves(problem):
        of_peer = _of_peer(theirs, peer)
        fastest = fastest_solver(of_peer, ERROR)
        if fastest is not None:
            drawn[peer.split(",")[0]] = of_peer[fastest[0]]
    return ours, drawn


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
    """The fastest of jaxode's solvers beside the fastest of each peer's."""
    ours, theirs = curves(problem)
    fastest = fastest_solver(ours, ERROR)
    if fastest is None:
        nan = float("nan")
        return [Comparison(problem.name, nan, nan, "", note="no solver reached the error")]
    return [
        compare(problem, peer, fastest, fastest_solver(_of_peer(theirs, peer), ERROR))
        for peer in peer_solves(problem)
    ]


def _of_peer(curves: Curves, peer: str) -> Curves:
    """The curves of one peer, by its solvers."""
    start = f"{peer} "
    return {name.removeprefix(start): c for name, c in curves.items() if name.startswith(start)}


def compare(
    problem: StiffProblem, peer: str, ours: tuple[str, Point], theirs: tuple[str, Point] | None
) -> Comparison:
    """The times of both, interleaved."""
    (solver, point), work = ours, f"{problem.name}; {peer}"
    our_run, goal = our_solve(solver, problem), target(problem, peer)
    if theirs is None:
        nan = float("nan")
        return Comparison(work, point.time, nan, goal, point.error, note="not reached")
    name, their_point = theirs
    peer_run = peer_solves(problem)[peer][name]
    times = run_times(
        lambda: our_run(point.rtol),
        lambda: peer_run(their_point.rtol),
        repeats=min(21, max(3, int(500 / their_point.time))),
        min_round_ms=20.0,
    )
    note = f"{solver}, rtol {point.rtol:.1e}; {name}, rtol {their_point.rtol:.1e}"
    return Comparison(work, times[0], times[1], goal, point.error, their_point.error, note)


def target(problem: StiffProblem, name: str) -> str:
    """The targeted ratio to a peer's time."""
    if name.startswith("diffrax"):
        return ">= 30" if len(problem.y0) <= 3 else ">= 10"
    return "> 1" if name == "CVODE" else ""
