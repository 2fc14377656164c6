r"""Simplified Newton iterations for the stage equations, differentiated by their solution.

Source: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), section IV.8.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.roots import root_of
from ...problem.status import Status
from ..linear import solver_of
from ..step_size import Tolerance

# The most iterations: with a tolerance, and where the iteration continues until rounding.
_MAX_ITERATIONS, _MAX_ITERATIONS_TO_ROUNDING = 10, 50


class NewtonProgress(NamedTuple):
    """The outcome so far of the Newton iterations of a step, per lane.

    - `status`: the `Status` of the first that failed. `evaluations`: field evaluations.
    - `eta`: the estimate of the error after an increment over that increment, theta / (1 - theta)
      with theta the rate of convergence.
    """

    status: Array
    eta: Array
    evaluations: Array


class _SimplifiedNewton(NamedTuple):
    """The state of an iteration; `size` is the norm of the last increment."""

    x: Array
    size: Array
    active: Array
    progress: NewtonProgress


class IncrementNorm(eqx.Module):
    """The norm of increments of unknowns, in units of the tolerance, or of rounding without one.

    `y` is the state at the start of the step. The unknowns, times `scale`, are increments of
    states, concatenated: `(states * n,)` or `(states * n, lanes)`.
    """

    tolerance: Tolerance | None
    y: Array
    scale: Array

    def __call__(self, increment: Array, x: Array) -> tuple[Array, Array]:
        """The norm of an increment that led to `x`, and whether it may be rounding alone."""
        lanes = self.scale.shape
        increment, x = ((self.scale * u).reshape(-1, *self.y.shape) for u in (increment, x))
        axes = tuple(range(x.ndim - len(lanes)))
        largest_state = jnp.max(jnp.abs(self.y + x), axes)
        real = jnp.finfo(self.y.dtype)
        rounding = jnp.maximum(real.eps * largest_state, real.tiny)
        largest = jnp.max(jnp.abs(increment), axes)
        if self.tolerance is None:
            return largest / (100 * rounding), largest <= 1000 * rounding
        norms = jax.vmap(self.tolerance.scaled_norm_squared, (0, None, None))
        squares = norms(increment, self.y, self.y)
        return jnp.sqrt(jnp.mean(squares, 0)), largest <= 1000 * rounding


class Newton(eqx.Module):
    """Simplified Newton iterations that share the factors of one matrix.

    `correct(b)` is `x` with `A x = b` for that matrix, `calls` is the number of field evaluations
    of the equations, and `kappa` the error that may be left, in units of the tolerance. Lanes
    iterate until all have finished; those that have keep their solution.
    """

    correct: Callable[[Array], Array]
    norm: IncrementNorm
    calls: int = eqx.field(static=True, default=1)
    kappa: float = eqx.field(static=True, default=0.01)

    def solve(
        self, residual: Callable[[Array], Array], guess: Array, before: NewtonProgress
    ) -> tuple[Array, NewtonProgress]:
        """The `x` with `residual(x) = 0`, from a guess; it stays the guess where `before` failed.

        The derivative is that of the exact solution. Stops where the error estimated from the rate
        of convergence is below `kappa`.
        """

        def iterate() -> tuple[Array, NewtonProgress]:
            evaluations = jnp.zeros_like(before.evaluations)
            start = NewtonProgress(before.status, before.eta, evaluations)
            size = jnp.full_like(before.eta, jnp.inf)
            active = before.status == Status.SUCCESS
            state = _SimplifiedNewton(guess, size, active, start)
            end = lax.while_loop(
                lambda s: jnp.any(s.active), lambda s: self._iteration(residual, s), state
            )
            return end.x, end.progress

        x, after = root_of(residual, guess, iterate, _solve_exactly)
        # The next equations have the same matrix, and so about the same rate.
        eta = jnp.maximum(after.eta, jnp.finfo(after.eta.dtype).eps) ** 0.8
        evaluations = before.evaluations + after.evaluations
        return lax.optimization_barrier(x), NewtonProgress(after.status, eta, evaluations)

    def _iteration(
        self, residual: Callable[[Array], Array], s: _SimplifiedNewton
    ) -> _SimplifiedNewton:
        """One iteration in all active lanes."""
        r = residual(s.x)
        increment = self.correct(-r)
        x = s.x + increment
        size, rounded = self.norm(increment, x)
        size = size.astype(s.size.dtype)
        rate = size / s.size
        first = s.progress.evaluations == 0
        eta = jnp.where(first, s.progress.eta, rate / jnp.maximum(1 - rate, 0))
        evaluations = s.progress.evaluations + self.calls
        # Increments that are rounding alone do not become smaller.
        converged = (eta * size <= self.kappa) | ((rate >= 0.9) & rounded)
        exact = self.norm.tolerance is None
        most = self.calls * (_MAX_ITERATIONS_TO_ROUNDING if exact else _MAX_ITERATIONS)
        failed = ~converged & (~(rate < 1) | (evaluations >= most))
        status = jnp.where(failed, _failure(r, increment), s.progress.status)
        progress = NewtonProgress(status, eta, evaluations)
        new = _SimplifiedNewton(x, size, ~converged & ~failed, progress)
        return jax.tree.map(lambda a, b: jnp.where(s.active, a, b), new, s)


def initial_progress(like: Array, status: Array) -> NewtonProgress:
    """The progress before the first iteration of a step; `like` has the shape of the lanes."""
    one = jnp.ones(like.shape, jnp.finfo(like.dtype).dtype)
    return NewtonProgress(status, one, jnp.zeros(like.shape, jnp.int32))


def _failure(residual: Array, increment: Array) -> Array:
    """The `Status` of a failed iteration: its field, its matrix, or its convergence failed."""
    finite, solved = (jnp.isfinite(jnp.sum(x, 0)) for x in (residual, increment))
    status = jnp.where(solved, Status.NOT_CONVERGED, Status.SINGULAR)
    return jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32)


def _solve_exactly(linear: Callable[[Array], Array], b: Array) -> Array:
    """The `x` with `linear(x) = b`, by the matrix of `linear`."""
    n, lanes = b.shape[0], b.ndim - 1
    basis = jnp.eye(n, dtype=b.dtype).reshape((n, n) + (1,) * lanes) * jnp.ones_like(b)
    return solver_of(lax.optimization_barrier(jax.vmap(linear)(basis)))(b)
