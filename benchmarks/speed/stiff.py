"""Single stiff problems at equal reached error, beside diffrax, CVODE and SciPy."""

from benchmarks.figures import batches as figures
from benchmarks.harness.timing import Row, run_times
from benchmarks.harness.work_precision import Point, best, curves, our_run, reaching
from benchmarks.problems.stiff import PROBLEMS, Stiff
from benchmarks.speed import stiff_peers as peers_stiff
from benchmarks.speed.stiff_peers import Run

TITLE = (
    "Stiff problems, each library at the loosest tolerance that reaches a relative error of 1e-6 "
    "in every component of the end state; called in turns of 20 ms or more (ms)"
)
ERROR = 1e-6


def rows() -> list[Row]:
    figures.draw_work_precision({problem.name: curves(problem) for problem in PROBLEMS})
    return [row for problem in PROBLEMS for row in beside_peers(problem)]


def beside_peers(problem: Stiff) -> list[Row]:
    """The fastest of jaxode's solvers beside each peer."""
    ours, theirs = curves(problem)
    found = best(ours, ERROR)
    if found is None:
        nan = float("nan")
        return [Row(problem.name, nan, nan, "", note="no solver reached the error")]
    solver, point = found
    run, others = our_run(solver, problem), peers_stiff.runs(problem)
    return [
        compare(problem, (solver, run, point), (name, other, reaching(theirs[name], ERROR)))
        for name, other in others.items()
    ]


def compare(
    problem: Stiff, ours: tuple[str, Run, Point], theirs: tuple[str, Run, Point | None]
) -> Row:
    """Both in turn."""
    (solver, run, point), (name, other, peer) = ours, theirs
    work = f"{problem.name}; {name}"
    if peer is None:
        nan = float("nan")
        return Row(work, point.time, nan, target(problem, name), point.error, note="not reached")
    repeats = min(21, max(3, int(500 / peer.time)))
    mine, others = run_times(
        lambda: run(point.rtol), lambda: other(peer.rtol), repeats=repeats, turn=20.0
    )
    note = f"{solver}, rtol {point.rtol:.1e}; peer's {peer.rtol:.1e}"
    return Row(work, mine, others, target(problem, name), point.error, peer.error, note)


def target(problem: Stiff, name: str) -> str:
    """What is asked for."""
    if name.startswith("diffrax"):
        return ">= 30" if len(problem.y0) <= 3 else ">= 10"
    return "> 1" if name == "CVODE" else ""
