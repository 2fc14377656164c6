"""Vector field evaluations of the backward pass, with and without the parameters' error norm.

The plain continuous adjoint of Chen et al. (2018) integrates the parameters' gradient as part of
its state and includes it in its error norm: the largest of the norms of state, adjoint and each
array of parameters, as in torchdiffeq. The seminorm excludes the parameters from the norm, and
quadrature excludes them from the state too; the nodes of the quadrature count as evaluations.
Evaluations are counted while the gradient runs, minus those of the solve itself.
"""

import statistics

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import relative_error
from benchmarks.harness.side_by_side import IN_ROW, beside_diffrax
from benchmarks.problems.adjoint_tasks import GradientTask, equations, networks

TITLE = "Evaluations in the backward pass: seminorm and quadrature, against the plain adjoint"
SETTINGS = beside_diffrax(
    rtol="1e-4",
    atol="1e-6",
    controller="jo.PID(), its defaults: I",
    adjoint=(IN_ROW, 'jaxode too: jo.Continuous("backsolve", seminorm=False)'),
    max_steps="8192",
)
PLAIN = jo.Continuous("backsolve", seminorm=False)
METHODS = {"seminorm": jo.Continuous("backsolve"), "quadrature": jo.Continuous("quadrature")}
TARGET = ">= 1.54 (35% fewer)"


def rows() -> list[Comparison]:
    targets = {"equations": "", "networks": TARGET}
    return [
        row
        for kind, tasks in {"equations": equations(), "networks": networks()}.items()
        for row in kind_rows(kind, tasks, targets[kind])
    ]


def kind_rows(kind: str, tasks: list[GradientTask], target: str) -> list[Comparison]:
    """The rows of every task, then the median of each method over the tasks."""
    by_task = [task_rows(task) for task in tasks]
    found = [row for task in by_task for row in task.values()]
    for name in METHODS:
        median = statistics.median(task[name].ours / task[name].peer for task in by_task)
        work = f"median of {kind}: {name}"
        found.append(Comparison(work, median, 1.0, target, note=_percentage(median)))
    return found


def task_rows(task: GradientTask) -> dict[str, Comparison]:
    """A row for each method."""
    plain, exact = task.backward_evaluations(PLAIN), task.gradient("discrete", 1e5)
    peer_error, found = relative_error(task.gradient(PLAIN), exact), {}
    for name, method in METHODS.items():
        count = task.backward_evaluations(method)
        error = relative_error(task.gradient(method), exact)
        work, note = f"{task.name}: {name}", _percentage(count / plain)
        found[name] = Comparison(work, count, plain, "", error, peer_error, note)
    return found


def _percentage(share: float) -> str:
    return f"{100 * abs(1 - share):.0f}% {'fewer' if share < 1 else 'more'}"
