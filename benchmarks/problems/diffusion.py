"""Diffusion equations by the method of lines, with the structure of their Jacobians."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import Array

import jaxode as jo
from jaxode.solvers.linear import LinearSolver
from jaxode.solvers.registry import SOLVERS


@dataclasses.dataclass(frozen=True, eq=False)
class DiffusionProblem:
    """A semi-discrete diffusion equation with its end state.

    `field(np, y)` takes the module NumPy or `jax.numpy`, and the state as a vector. `matrix` is
    SciPy's sparse Jacobian if the equation is linear, otherwise the sparsity pattern of it.
    """

    name: str
    field: Callable[[Any, Any], Any]
    linear: bool
    matrix: Any
    y0: np.ndarray
    t1: float
    linear_solver: LinearSolver
    closed_form_y1: np.ndarray | None = None

    @functools.cached_property
    def y1(self) -> np.ndarray:
        """The state at `t1`, by a solve with a tight tolerance if there is no closed form."""
        if self.closed_form_y1 is not None:
            return self.closed_form_y1
        return np.asarray(solve_diffusion("rodas5p", self)(1e-10))

    def error(self, y: Any) -> float:
        """The largest error of a component over the largest component."""
        return float(np.max(np.abs(np.asarray(y) - self.y1)) / np.max(np.abs(self.y1)))


def solve_diffusion(solver: str, problem: DiffusionProblem) -> Callable[[float], Array]:
    """A function of rtol that returns the end state by one of jaxode's solvers."""
    make: Any = SOLVERS[solver]

    @jax.jit
    def end_state(y0: Array, tol: Array) -> Array:
        return jo.solve(
            lambda t, y, args: problem.field(jnp, y), y0, (0.0, problem.t1),
            solver=make(linear_solver=problem.linear_solver), rtol=tol, atol=tol, throw=False,
        ).y1  # fmt: skip

    return lambda rtol: end_state(jnp.asarray(problem.y0), rtol)


def banded_matrix(n: int, values: tuple[float, ...]) -> Any:
    """The `n` by `n` matrix with one value for each diagonal, the main one in the middle."""
    bandwidth = len(values) // 2
    diagonals = (x * np.eye(n, k=k) for k, x in enumerate(values, -bandwidth))
    return scipy.sparse.csr_matrix(sum(diagonals))


def second_differences(n: int) -> Any:
    """The second-difference matrix on `n` inner points of the unit interval, zero at both ends."""
    return banded_matrix(n, (1.0, -2.0, 1.0)) * (n + 1) ** 2


def decay_rate(n: int, *modes: int) -> float:
    """The decay rate of a product of sines, one mode for each dimension."""
    return sum(4 * (n + 1) ** 2 * np.sin(k * np.pi / (2 * (n + 1))) ** 2 for k in modes)


def sine(n: int, k: int) -> np.ndarray:
    """The sine of mode `k` on `n` inner points of the unit interval."""
    return np.sin(k * np.pi * np.arange(1, n + 1) / (n + 1))


def heat_1d(n: int = 512, t1: float = 0.1) -> DiffusionProblem:
    """The heat equation in one dimension, from two modes."""

    def field(np: Any, y: Any) -> Any:
        w = np.pad(y, 1)
        return (n + 1) ** 2 * (w[2:] - 2 * w[1:-1] + w[:-2])

    def exact(t: float) -> np.ndarray:
        return np.sum([np.exp(-decay_rate(n, k) * t) * sine(n, k) for k in (1, 3)], axis=0)

    return DiffusionProblem(
        f"heat, 1-D, {n} points", field, True, second_differences(n), exact(0.0), t1,
        jo.Banded(1, 1), exact(t1),
    )  # fmt: skip


def heat_2d(n: int = 64, t1: float = 0.1) -> DiffusionProblem:
    """The heat equation in two dimensions, from two modes."""

    def field(np: Any, y: Any) -> Any:
        y = y.reshape(n, n)
        w = np.pad(y, 1)
        neighbours = w[2:, 1:-1] + w[:-2, 1:-1] + w[1:-1, 2:] + w[1:-1, :-2]
        return ((n + 1) ** 2 * (neighbours - 4 * y)).reshape(-1)

    def exact(t: float) -> np.ndarray:
        modes = {(1, 2): 1.0, (5, 1): 0.1}
        terms = [
            amplitude * np.exp(-decay_rate(n, *ks) * t) * np.outer(*(sine(n, k) for k in ks))
            for ks, amplitude in modes.items()
        ]
        return np.sum(terms, axis=0).reshape(-1)

    D = second_differences(n)
    matrix = scipy.sparse.kronsum(D, D).tocsr()
    return DiffusionProblem(
        f"heat, 2-D, {n} x {n} points", field, True, matrix, exact(0.0), t1,
        jo.Krylov("cg"), exact(t1),
    )  # fmt: skip


def brusselator(n: int = 512, t1: float = 10.0) -> DiffusionProblem:
    """The Brusselator with diffusion 0.02; the two species of a point are adjacent in the state."""

    def diffusion(np: Any, w: Any, boundary: float) -> Any:
        w = np.pad(w, 1, constant_values=boundary)
        return 0.02 * (n + 1) ** 2 * (w[2:] - 2 * w[1:-1] + w[:-2])

    def field(np: Any, y: Any) -> Any:
        u, v = y[0::2], y[1::2]
        reaction = u * u * v
        du, dv = (
            1 + reaction - 4 * u + diffusion(np, u, 1.0),
            3 * u - reaction + diffusion(np, v, 3.0),
        )
        return np.stack([du, dv], axis=1).reshape(-1)

    y0 = np.stack([1 + sine(n, 2), np.full(n, 3.0)], axis=1).reshape(-1)
    pattern = banded_matrix(2 * n, (1.0,) * 5)
    return DiffusionProblem(
        f"Brusselator, 1-D, {n} points, {2 * n} unknowns", field, False, pattern, y0, t1,
        jo.Banded(2, 2),
    )  # fmt: skip
