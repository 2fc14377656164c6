r"""Simplified Newton iterations for the equations of a step, differentiated by their solution.

Source: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), section IV.8.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.status import Status
from ..linear import solver_of
from ..step_size import Tolerance

# The most iterations: with a tolerance, and where the iteration goes on to rounding.
_MOST, _MOST_TO_ROUNDING = 10, 50


class NewtonProgress(NamedTuple):
    """How the equations of a step went so far, lane by lane.

    - `status`: the `Status` of the first that failed. `count`: field evaluations.
    - `rest`: of the last increment, the share that the error after it has.
    """

    status: Array
    rest: Array
    count: Array


class _State(NamedTuple):
    x: Array
    size: Array  # of the last increment
    going: Array
    progress: NewtonProgress


class IncrementNorm(eqx.Module):
    """How large the increments of unknowns are: in units of the tolerance, or of rounding.

    `y` is the state at the start of the step. The unknowns, times `scale`, are increments of
    states, laid end to end, `(states * n,)` or `(states * n, lanes)`.
    """

    tolerance: Tolerance | None
    y: Array
    scale: Array

    def __call__(self, increment: Array, x: Array) -> tuple[Array, Array]:
        """The norm of an increment that led to `x`, and whether it may be rounding alone."""
        lanes = self.scale.shape
        increment, x = ((self.scale * part).reshape(-1, *self.y.shape) for part in (increment, x))
        axes = tuple(range(x.ndim - len(lanes)))
        largest = jnp.max(jnp.abs(self.y + x), axes)
        real = jnp.finfo(self.y.dtype)
        rounding = jnp.maximum(real.eps * largest, real.tiny)
        longest = jnp.max(jnp.abs(increment), axes)
        if self.tolerance is None:
            return longest / (100 * rounding), longest <= 1000 * rounding
        square = jax.vmap(self.tolerance.scaled_norm_squared, (0, None, None))(increment, self.y, self.y)
        return jnp.sqrt(jnp.mean(square, 0)), longest <= 1000 * rounding


class Newton(eqx.Module):
    """Simplified Newton iterations, all with the factors of one matrix.

    `correct(b)` is `x` with `A x = b` for that matrix, `calls` says how often the equations call
    the field, and `kappa` how much of the error may be left, in units of the tolerance. Lanes
    iterate until all are done; those that are keep their solution.
    """

    correct: Callable[[Array], Array]
    measure: IncrementNorm
    calls: int = eqx.field(static=True, default=1)
    kappa: float = eqx.field(static=True, default=0.01)

    def solve(
        self, residual: Callable[[Array], Array], guess: Array, before: NewtonProgress
    ) -> tuple[Array, NewtonProgress]:
        """The `x` with `residual(x) = 0`, from a guess; nothing is done where `before` failed.

        The derivative is that of the exact solution. Stops where the error that the rate of
        convergence leaves to expect is below `kappa` in units of the tolerance.
        """

        def solve(residual: Callable[[Array], Array], guess: Array) -> tuple[Array, NewtonProgress]:
            count = jnp.zeros_like(before.count)
            start = NewtonProgress(before.status, before.rest, count)
            none = jnp.full_like(before.rest, jnp.inf)
            going = before.status == Status.SUCCESS
            state = _State(guess, none, going, start)
            end = lax.while_loop(
                lambda s: jnp.any(s.going), lambda s: self._turn(residual, s), state
            )
            # Floating: some versions of JAX have no derivative of whole numbers here.
            return end.x, jax.tree.map(lambda p: p.astype(before.rest.dtype), end.progress)

        x, after = lax.custom_root(residual, guess, solve, _solve_exactly, has_aux=True)
        # The next equations have the same matrix, and so about the same rate.
        rest = jnp.maximum(after.rest, jnp.finfo(after.rest.dtype).eps) ** 0.8
        count = before.count + after.count.astype(jnp.int32)
        return lax.optimization_barrier(x), NewtonProgress(after.status.astype(jnp.int32), rest, count)

    def _turn(self, residual: Callable[[Array], Array], s: _State) -> _State:
        """An increment for all lanes that are going."""
        r = residual(s.x)
        increment = self.correct(-r)
        x = s.x + increment
        size, rounded = self.measure(increment, x)
        size = size.astype(s.size.dtype)
        rate = size / s.size
        rest = jnp.where(s.progress.count == 0, s.progress.rest, rate / jnp.maximum(1 - rate, 0))
        count = s.progress.count + self.calls
        # Of rounding alone, increments stay about as they are.
        done = (rest * size <= self.kappa) | ((rate >= 0.9) & rounded)
        most = self.calls * (_MOST_TO_ROUNDING if self.measure.tolerance is None else _MOST)
        lost = ~done & (~(rate < 1) | (count >= most))
        trouble = jnp.where(lost, _reason(r, increment), s.progress.status)
        new = _State(x, size, ~done & ~lost, NewtonProgress(trouble, rest, count))
        return jax.tree.map(lambda a, b: jnp.where(s.going, a, b), new, s)


def initial_progress(like: Array, trouble: Array) -> NewtonProgress:
    """The progress before the first equations; `like` has the shape of the lanes."""
    one = jnp.ones(like.shape, jnp.finfo(like.dtype).dtype)
    return NewtonProgress(trouble, one, jnp.zeros(like.shape, jnp.int32))


def _reason(residual: Array, increment: Array) -> Array:
    """Why an iteration failed: its field, its matrix, or its convergence."""
    finite, solved = (jnp.isfinite(jnp.sum(x, 0)) for x in (residual, increment))
    status = jnp.where(solved, Status.NOT_CONVERGED, Status.SINGULAR)
    return jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32)


def _solve_exactly(linear: Callable[[Array], Array], b: Array) -> Array:
    """The `x` with `linear(x) = b`, by its matrix."""
    n, lanes = b.shape[0], b.ndim - 1
    basis = jnp.eye(n, dtype=b.dtype).reshape((n, n) + (1,) * lanes) * jnp.ones_like(b)
    return solver_of(lax.optimization_barrier(jax.vmap(linear)(basis)))(b)
