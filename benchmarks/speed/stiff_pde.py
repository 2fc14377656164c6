"""Diffusion by the method of lines, beside SciPy's BDF with the same structure of the Jacobian."""

from typing import Any

import numpy as np
import scipy.integrate

from benchmarks.harness.comparison import Comparison
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import run_times
from benchmarks.harness.work_precision import (
    Curves,
    EndStateByRtol,
    Point,
    fastest_solver,
    loosest_point,
    measure_curve,
)
from benchmarks.problems.diffusion import (
    DiffusionProblem,
    brusselator,
    heat_1d,
    heat_2d,
    solve_diffusion,
)
from jaxode.solvers.registry import SOLVERS

TITLE = (
    "Diffusion by the method of lines, each library at the loosest tolerance that reaches an error "
    "of 1e-5, relative to the largest component of the end state (ms)"
)
SETTINGS = beside_diffrax(
    rtol="the loosest of 1e-3 to 1e-10 that reaches the error, in the note",
    atol="equal to rtol",
    solver=("the fastest of rodas5p, kvaerno5, bdf, in the note", "SciPy's BDF"),
    controller=("each solver's own default", "SciPy's own"),
    adjoint="not differentiated",
    max_steps=("4096", "no limit"),
    Jacobian=("banded, or products in cg", "exact if constant, else its sparsity"),
)
ERROR = 1e-5
OUR_SOLVERS = ("rodas5p", "kvaerno5", "bdf")


def rows() -> list[Comparison]:
    return [against_scipy(problem) for problem in (heat_1d(), brusselator(), heat_2d())]


def against_scipy(problem: DiffusionProblem) -> Comparison:
    """The fastest of jaxode's solvers beside SciPy's BDF, each at its loosest tolerance."""
    solves = {name: solve_diffusion(name, problem) for name in OUR_SOLVERS if name in SOLVERS}
    ours: Curves = {name: measure_curve(solve, problem.error) for name, solve in solves.items()}
    theirs = scipy_solve(problem)
    fastest = fastest_solver(ours, ERROR)
    peer = loosest_point(measure_curve(theirs, problem.error), ERROR)
    if fastest is None or peer is None:
        nan = float("nan")
        return Comparison(problem.name, nan, nan, "> 1", note="the error was not reached")
    return compare(problem, solves[fastest[0]], fastest, theirs, peer)


def compare(
    problem: DiffusionProblem,
    ours: EndStateByRtol,
    fastest: tuple[str, Point],
    theirs: EndStateByRtol,
    peer: Point,
) -> Comparison:
    """The times of both, interleaved."""
    solver, point = fastest
    our_time, peer_time = run_times(
        lambda: ours(point.rtol), lambda: theirs(peer.rtol), repeats=7, min_round_ms=50.0
    )
    kind = getattr(problem.linear_solver, "method", type(problem.linear_solver).__name__)
    note = f"{solver}, {kind}, rtol {point.rtol:.1e}; SciPy's {peer.rtol:.1e}"
    return Comparison(problem.name, our_time, peer_time, "> 1", point.error, peer.error, note)


def scipy_solve(problem: DiffusionProblem) -> EndStateByRtol:
    """SciPy's BDF with the exact Jacobian if that is constant, otherwise with its pattern."""
    jacobian: dict[str, Any] = (
        {"jac": problem.matrix} if problem.linear else {"jac_sparsity": problem.matrix}
    )
    span = (0.0, problem.t1)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        return problem.field(np, y)

    def end_state(rtol: float) -> np.ndarray:
        options = {"rtol": rtol, "atol": rtol, **jacobian}
        return scipy.integrate.solve_ivp(field, span, problem.y0, "BDF", **options).y[:, -1]

    return end_state
