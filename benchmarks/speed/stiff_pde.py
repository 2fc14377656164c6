"""Diffusion by the method of lines, beside SciPy's BDF with the same structure of the Jacobian."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.sparse
from jax import Array

import jaxode as jo
from benchmarks.harness.timing import Row, run_times
from benchmarks.harness.work_precision import Curves, Point, best, curve, reaching
from benchmarks.speed.stiff_peers import Run
from jaxode.solvers.linear import LinearSolver
from jaxode.solvers.registry import SOLVERS

TITLE = (
    "Diffusion by the method of lines, each library at the loosest tolerance that reaches an error "
    "of 1e-5, relative to the largest component of the end state (ms)"
)
ERROR = 1e-5
OURS = ("rodas5p", "kvaerno5", "bdf")


@dataclasses.dataclass(frozen=True, eq=False)
class Diffusion:
    """A semi-discrete equation; `matrix` is its Jacobian, or that one's pattern if it is bent."""

    name: str
    field: Callable[[Any, Any], Any]  # of NumPy's module or JAX's, and the state as a vector
    linear: bool
    matrix: Any  # sparse, of SciPy
    y0: np.ndarray
    t1: float
    linear_solver: LinearSolver
    known: np.ndarray | None = None  # the state at `t1`

    @functools.cached_property
    def y1(self) -> np.ndarray:
        """The state at `t1`, by a tight tolerance where there is no closed form."""
        return np.asarray(our_run("rodas5p", self)(1e-10)) if self.known is None else self.known

    def error(self, y: Any) -> float:
        return float(np.max(np.abs(np.asarray(y) - self.y1)) / np.max(np.abs(self.y1)))


def rows() -> list[Row]:
    return [beside_scipy(problem) for problem in (heat_1d(), brusselator(), heat_2d())]


def beside_scipy(problem: Diffusion) -> Row:
    """The fastest of jaxode's solvers beside SciPy's BDF."""
    runs = {name: our_run(name, problem) for name in OURS if name in SOLVERS}
    ours: Curves = {name: curve(run, problem.error) for name, run in runs.items()}
    theirs = scipy_run(problem)
    found, peer = best(ours, ERROR), reaching(curve(theirs, problem.error), ERROR)
    if found is None or peer is None:
        nan = float("nan")
        return Row(problem.name, nan, nan, "> 1", note="the error was not reached")
    return compare(problem, runs[found[0]], found, theirs, peer)


def compare(
    problem: Diffusion, run: Run, found: tuple[str, Point], theirs: Run, peer: Point
) -> Row:
    """Both in turn."""
    solver, point = found
    mine, others = run_times(
        lambda: run(point.rtol), lambda: theirs(peer.rtol), repeats=7, turn=50.0
    )
    kind = getattr(problem.linear_solver, "method", type(problem.linear_solver).__name__)
    note = f"{solver}, {kind}, rtol {point.rtol:.1e}; SciPy's {peer.rtol:.1e}"
    return Row(problem.name, mine, others, "> 1", point.error, peer.error, note)


def our_run(solver: str, problem: Diffusion) -> Run:
    make: Any = SOLVERS[solver]

    @jax.jit
    def end(y0: Array, tol: Array) -> Array:
        return jo.solve(
            lambda t, y, args: problem.field(jnp, y), y0, (0.0, problem.t1),
            solver=make(linear_solver=problem.linear_solver), rtol=tol, atol=tol, throw=False,
        ).y1  # fmt: skip

    return lambda rtol: end(jnp.asarray(problem.y0), rtol)


def scipy_run(problem: Diffusion) -> Run:
    """With the exact Jacobian where it is constant, else with its pattern."""
    given: dict[str, Any] = (
        {"jac": problem.matrix} if problem.linear else {"jac_sparsity": problem.matrix}
    )
    times = (0.0, problem.t1)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        return problem.field(np, y)

    def run(rtol: float) -> np.ndarray:
        options = {"rtol": rtol, "atol": rtol, **given}
        return scipy.integrate.solve_ivp(field, times, problem.y0, "BDF", **options).y[:, -1]

    return run


def banded(n: int, values: tuple[float, ...]) -> Any:
    """An `n` by `n` matrix with these values on the diagonals around the main one."""
    reach = len(values) // 2
    return scipy.sparse.csr_matrix(sum(x * np.eye(n, k=k) for k, x in enumerate(values, -reach)))


def second_differences(n: int) -> Any:
    """On `n` inner points of the unit interval, zero at both ends."""
    return banded(n, (1.0, -2.0, 1.0)) * (n + 1) ** 2


def decay(n: int, *modes: int) -> float:
    """The rate at which the product of these sines decays, one for each dimension."""
    return sum(4 * (n + 1) ** 2 * np.sin(k * np.pi / (2 * (n + 1))) ** 2 for k in modes)


def sine(n: int, k: int) -> np.ndarray:
    return np.sin(k * np.pi * np.arange(1, n + 1) / (n + 1))


def heat_1d(n: int = 512, t1: float = 0.1) -> Diffusion:
    def field(np: Any, y: Any) -> Any:
        w = np.pad(y, 1)
        return (n + 1) ** 2 * (w[2:] - 2 * w[1:-1] + w[:-2])

    def at(t: float) -> np.ndarray:
        return np.sum([np.exp(-decay(n, k) * t) * sine(n, k) for k in (1, 3)], axis=0)

    return Diffusion(
        f"heat, 1-D, {n} points", field, True, second_differences(n), at(0.0), t1,
        jo.Banded(1, 1), at(t1),
    )  # fmt: skip


def heat_2d(n: int = 64, t1: float = 0.1) -> Diffusion:
    def field(np: Any, y: Any) -> Any:
        y = y.reshape(n, n)
        w = np.pad(y, 1)
        around = w[2:, 1:-1] + w[:-2, 1:-1] + w[1:-1, 2:] + w[1:-1, :-2]
        return ((n + 1) ** 2 * (around - 4 * y)).reshape(-1)

    def at(t: float) -> np.ndarray:
        modes = {(1, 2): 1.0, (5, 1): 0.1}
        parts = [
            size * np.exp(-decay(n, *ks) * t) * np.outer(*(sine(n, k) for k in ks))
            for ks, size in modes.items()
        ]
        return np.sum(parts, axis=0).reshape(-1)

    D = second_differences(n)
    matrix = scipy.sparse.kronsum(D, D).tocsr()
    return Diffusion(
        f"heat, 2-D, {n} x {n} points", field, True, matrix, at(0.0), t1,
        jo.Krylov("cg"), at(t1),
    )  # fmt: skip


def brusselator(n: int = 512, t1: float = 10.0) -> Diffusion:
    """With diffusion 0.02 in one dimension; the two species of a point lie side by side."""

    def bent(np: Any, w: Any, end: float) -> Any:
        w = np.pad(w, 1, constant_values=end)
        return 0.02 * (n + 1) ** 2 * (w[2:] - 2 * w[1:-1] + w[:-2])

    def field(np: Any, y: Any) -> Any:
        u, v = y[0::2], y[1::2]
        made = u * u * v
        du, dv = 1 + made - 4 * u + bent(np, u, 1.0), 3 * u - made + bent(np, v, 3.0)
        return np.stack([du, dv], axis=1).reshape(-1)

    y0 = np.stack([1 + sine(n, 2), np.full(n, 3.0)], axis=1).reshape(-1)
    pattern = banded(2 * n, (1.0,) * 5)
    return Diffusion(
        f"Brusselator, 1-D, {n} points, {2 * n} unknowns", field, False, pattern, y0, t1,
        jo.Banded(2, 2),
    )  # fmt: skip
