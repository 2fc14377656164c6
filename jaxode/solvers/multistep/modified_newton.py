"""Newton's iteration for the corrector equation of a multistep step, with reused Jacobians.

A Jacobian and the factors of `shift M - J` serve as many steps as possible. Where the iteration
does not converge with a Jacobian of an earlier step, it starts again with a new one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field, WithJacobian
from ...problem.roots import root_of
from ...problem.status import Status
from ..implicit.base import Implicit, all_finite
from ..implicit.jacobian_check import check_jacobian
from ..implicit.newton import IncrementNorm
from ..linear import Direct

# The most iterations with a tolerance, and of fixed steps, which iterate until rounding.
MAX_ITERATIONS, MAX_ITERATIONS_TO_ROUNDING = 4, 50
MAX_SHIFT_CHANGE = 0.3  # relative change of `shift` up to which factors are reused
# In units of the tolerance: the error that may be left; an increment that counts as zero; and one
# that counts as rounding where a new Jacobian does not make it smaller.
MAX_ERROR, ZERO_INCREMENT, ROUNDING_INCREMENT = 0.03, 3e-7, 1e-2


class NewtonCache(NamedTuple):
    """The part of Newton's iteration that is reused from step to step.

    The Jacobian, the factors for a `shift`, which is zero before the first step, and the rate at
    which the iteration with them converges, one if not known.
    """

    jacobian: Any
    factors: Any
    shift: Array
    rate: Array


class CorrectorEquation(NamedTuple):
    """The equation `residual(x) = 0` for the change `x` of the state from `start`, at the time `t`.

    The derivative of `residual` is `J - shift M`.
    """

    field: Field
    t: Array
    start: Array
    shift: Array
    residual: Callable[[Array], Array]
    norm: IncrementNorm


class CorrectorResult(NamedTuple):
    """The cache after the iteration, its `Status`, iterations of the last attempt, and its cost."""

    cache: NewtonCache
    status: Array
    iterations: Array
    evaluations: Array
    jacobians: Array
    factorisations: Array


def empty_cache(solver: Implicit, field: Field, t: Array, y: Array) -> NewtonCache:
    """The cache before the first step."""
    zero = jnp.zeros(t.shape, y.dtype)

    def jacobian_and_factors() -> tuple[Any, Any]:
        jacobian = solver.linearise(field, t, y).jacobian
        return jacobian, solver.factorise(jacobian, zero)

    direct = isinstance(solver.linear_solver, Direct)
    shapes = jax.eval_shape(jacobian_and_factors) if direct else ((), ())
    jacobian, factors = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return NewtonCache(jacobian, factors, zero, zero + 1)


def solve_corrector(
    solver: Implicit, equation: CorrectorEquation, cache: NewtonCache
) -> tuple[Array, CorrectorResult]:
    """The solution of the corrector equation, and the result of the iteration.

    The derivative is that of the root, by the implicit function theorem, with the Jacobian there.
    """

    def solve_linear(linear: Callable[[Array], Array], b: Array) -> Array:
        def field(t: Array, x: Array) -> Array:
            return linear(x) + equation.shift * solver.mass_times(x)

        jacobian = solver.linearise(field, equation.t, equation.start).jacobian
        return -solver.system(jacobian, equation.shift)(b)

    zero = jnp.zeros_like(equation.start)
    find = lambda: _solve(solver, equation, cache, zero)  # noqa: E731
    return root_of(equation.residual, zero, find, solve_linear)


class _Attempt(NamedTuple):
    """The attempts so far: first with the cached Jacobian, then with a new one.

    `active` are the lanes that are not solved yet; `renew` says where the next attempt starts with
    a new Jacobian.
    """

    x: Array
    active: Array
    renew: Array
    result: CorrectorResult


def _solve(
    solver: Implicit, equation: CorrectorEquation, cache: NewtonCache, start: Array
) -> tuple[Array, CorrectorResult]:
    no = jnp.zeros(equation.t.shape, bool)
    zero = jnp.zeros(equation.t.shape, jnp.int32)
    per_jacobian = 1 + isinstance(equation.field, WithJacobian)

    def attempt(s: _Attempt) -> _Attempt:
        cache, failure, renewed, factorised = _update_cache(solver, equation, s)
        correct = _correction(solver, equation, cache)
        newton = _iterate(equation, cache, correct, start, s)
        solvable = jnp.isfinite(newton.size) | solver.linear_solver.iterative
        status = jnp.where(solvable, Status.NOT_CONVERGED, Status.SUCCESS)
        status = jnp.where(failure == Status.SUCCESS, status, failure)
        converged = newton.converged & (failure == Status.SUCCESS)
        status = jnp.where(converged, Status.SUCCESS, status).astype(jnp.int32)
        result = CorrectorResult(
            cache=cache._replace(rate=jnp.where(s.active, newton.rate, cache.rate)),
            status=jnp.where(s.active, status, s.result.status),
            iterations=jnp.where(s.active, newton.iterations, s.result.iterations),
            evaluations=s.result.evaluations + per_jacobian * renewed + newton.iterations,
            jacobians=s.result.jacobians + renewed,
            factorisations=s.result.factorisations + factorised,
        )
        active = s.active & ~newton.converged & ~s.renew
        return _Attempt(jnp.where(s.active, newton.x, s.x), active, ~no, result)

    renew = cache.shift == 0 if isinstance(solver.linear_solver, Direct) else ~no
    result = CorrectorResult(cache, zero, zero, zero, zero, zero)
    first = _Attempt(start, ~no, renew, result)
    end = lax.while_loop(lambda s: jnp.any(s.active), attempt, first)
    return end.x, end.result


def _update_cache(
    solver: Implicit, equation: CorrectorEquation, s: _Attempt
) -> tuple[NewtonCache, Array, Array, Array]:
    """The cache for the next attempt, its `Status`, and the lanes of new Jacobians and factors."""
    cache, lanes, success = s.result.cache, equation.t.shape, jnp.zeros_like(s.result.status)
    renewed = s.active & s.renew
    if not isinstance(solver.linear_solver, Direct):
        return cache, success, renewed, jnp.zeros_like(renewed)
    near = jnp.abs(equation.shift - cache.shift) <= MAX_SHIFT_CHANGE * jnp.abs(equation.shift)
    factorised = s.active & (s.renew | ~near)

    def replace(mask: Array, new: Any, old: Any, failure: Status) -> tuple[Any, Array]:
        """The new arrays in the lanes of `mask`, and there a failure if they are not finite."""
        chosen = jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)
        return chosen, jnp.where(mask & ~all_finite(new, lanes), failure, 0).astype(jnp.int32)

    def renew() -> tuple[Any, Array]:
        around = solver.linearise(equation.field, equation.t, equation.start)
        new, failure = replace(renewed, around.jacobian, cache.jacobian, Status.BAD_JACOBIAN)
        h = 1 / equation.shift
        checked = check_jacobian(
            failure, equation.field, equation.t, equation.start, h, around.slope
        )
        return new, jnp.where(renewed, checked, failure)

    jacobian, bad = lax.cond(jnp.any(renewed), renew, lambda: (cache.jacobian, success))

    def factorise() -> tuple[Any, Array]:
        new = solver.factorise(jacobian, equation.shift)
        return replace(factorised, new, cache.factors, Status.SINGULAR)

    factors, singular = lax.cond(jnp.any(factorised), factorise, lambda: (cache.factors, success))
    shift = jnp.where(factorised, equation.shift, cache.shift)
    cache = NewtonCache(jacobian, factors, shift, jnp.where(factorised, 1, cache.rate))
    return cache, jnp.where(bad == Status.SUCCESS, singular, bad), renewed, factorised


def _correction(
    solver: Implicit, equation: CorrectorEquation, cache: NewtonCache
) -> Callable[[Array], Array]:
    """The linear map from a residual to the increment of `x`."""
    linear_solver = solver.linear_solver
    if not isinstance(linear_solver, Direct):
        jacobian = solver.linearise(equation.field, equation.t, equation.start).jacobian
        return solver.system(jacobian, equation.shift)
    # The factors may be of another shift, for which this scalar compensates best.
    weight = 2 / (1 + equation.shift / cache.shift)
    return lambda residual: linear_solver.solve(cache.factors, weight * residual)


class _NewtonIteration(NamedTuple):
    """The state of the iteration; `size` is the norm of its last increment."""

    x: Array
    size: Array
    rate: Array
    iterations: Array
    active: Array
    converged: Array


def _iterate(
    equation: CorrectorEquation,
    cache: NewtonCache,
    correct: Callable[[Array], Array],
    start: Array,
    attempt: _Attempt,
) -> _NewtonIteration:
    """Newton's iteration until it has converged, diverged, or converges too slowly.

    The rate of convergence gives an estimate of the error that is left. Before the second iteration
    the rate is three times that of earlier steps.
    """
    renew = attempt.renew
    most = MAX_ITERATIONS_TO_ROUNDING if equation.norm.tolerance is None else MAX_ITERATIONS

    def iterate(s: _NewtonIteration) -> _NewtonIteration:
        increment = correct(lax.optimization_barrier(equation.residual(s.x)))
        x, first = s.x + increment, s.iterations == 0
        size, rounded = equation.norm(increment, x)
        rate = jnp.where(first, 3 * s.rate, size / s.size)
        error = jnp.where(rate < 1, rate / (1 - rate), jnp.inf) * size
        # The factor by which the iterations that are left reduce the error.
        reduction = _power(rate, most - 1 - s.iterations, most) if most <= MAX_ITERATIONS else 0
        hopeful = first | (error * reduction <= MAX_ERROR)
        rounded = (rounded & ~hopeful) | ((size <= ROUNDING_INCREMENT) & ~first)
        converged = (error < MAX_ERROR) | (size <= ZERO_INCREMENT) | (renew & rounded)
        iterations = s.iterations + s.active
        return _NewtonIteration(
            x=jnp.where(s.active, x, s.x),
            size=jnp.where(s.active, size, s.size),
            rate=jnp.where(s.active & ~first, jnp.maximum(0.3 * s.rate, rate), s.rate),
            iterations=iterations,
            active=s.active & jnp.isfinite(size) & hopeful & ~converged & (iterations < most),
            converged=s.converged | (s.active & converged),
        )

    zero = jnp.zeros_like(attempt.result.iterations)
    size, none = jnp.ones_like(cache.rate), zero != 0
    begin = _NewtonIteration(start, size, cache.rate, zero, attempt.active, none)
    return lax.while_loop(lambda s: jnp.any(s.active), iterate, begin)


def _power(x: Array, exponent: Array, most: int) -> Array:
    """`x` to the power of an integer array below `most`."""
    power = jnp.ones_like(x)
    for n in range(1, most):
        power = jnp.where(exponent >= n, power * x, power)
    return power
