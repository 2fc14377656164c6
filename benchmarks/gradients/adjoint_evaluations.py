"""Field evaluations of the way back: without the parameters in the error norm, and with them.

The plain continuous adjoint of Chen et al. (2018) has the parameters' integral in its state and in
its error norm: the largest of the norms of state, adjoint and each array of parameters, as
torchdiffeq has it. The seminorm leaves the parameters out of the norm, quadrature out of the state;
its nodes count as evaluations too. Counted as the gradient runs, the evaluations of the solve
itself taken off.
"""

import statistics

import jaxode as jo
from benchmarks.harness.timing import Row
from benchmarks.problems.adjoint_tasks import Task, equations, networks
from benchmarks.speed.neural_ode import distance

TITLE = "Field evaluations of the way back: seminorm and quadrature, against the plain adjoint"
PLAIN = jo.Continuous("backsolve", seminorm=False)
WAYS = {"seminorm": jo.Continuous("backsolve"), "quadrature": jo.Continuous("quadrature")}
ASKED = ">= 1.54 (35% fewer)"


def rows() -> list[Row]:
    found = []
    for kind, tasks in {"equations": equations(), "networks": networks()}.items():
        shares = {name: [] for name in WAYS}
        for task in tasks:
            for name, row in compared(task).items():
                shares[name].append(row.ours / row.peer)
                found.append(row)
        for name, of_tasks in shares.items():
            middle = statistics.median(of_tasks)
            asked = ASKED if kind == "networks" else ""
            found.append(Row(f"median of {kind}: {name}", middle, 1.0, asked, note=_fewer(middle)))
    return found


def compared(task: Task) -> dict[str, Row]:
    """A row for each way."""
    plain, exact = task.evaluations(PLAIN), task.gradient("discrete", 1e5)
    peer_error, found = distance(task.gradient(PLAIN), exact), {}
    for name, way in WAYS.items():
        mine, error = task.evaluations(way), distance(task.gradient(way), exact)
        note, work = _fewer(mine / plain), f"{task.name}: {name}"
        found[name] = Row(work, mine, plain, "", error, peer_error, note)
    return found


def _fewer(share: float) -> str:
    return f"{100 * abs(1 - share):.0f}% {'fewer' if share < 1 else 'more'}"
