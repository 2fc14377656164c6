"""The implicit equation of a multistep step, by Newton's iteration with what earlier steps left.

A Jacobian and the factors of `shift M - J` serve as many steps as they can. Where the iteration
does not converge with a Jacobian of an earlier step, it begins again with a new one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field
from ...problem.status import Status
from ..implicit.base import Implicit, all_finite
from ..implicit.newton import IncrementNorm
from ..linear import Direct

# The most turns of an iteration that a smaller step may spare, and of one that it may not.
TURNS, TURNS_TO_ROUNDING = 4, 50
REUSED = 0.3  # relative changes of `shift` for which factors still serve
# In units of the measure: what may be left of the error; a change that is none; and one that is
# rounding where a new Jacobian does not make it smaller.
LIMIT, TINY, NOISE = 0.03, 3e-7, 1e-2


class NewtonCache(NamedTuple):
    """What serves from step to step.

    A Jacobian, the factors for a `shift`, which is zero before the first; and the rate at which
    the iteration with them converges, one if not known.
    """

    jacobian: Any
    factors: Any
    shift: Array
    rate: Array


class CorrectorEquation(NamedTuple):
    """`residual(x) = 0` for the change `x` of the state from `start`, at the time `t`.

    `residual` has the derivative `J - shift M`.
    """

    field: Field
    t: Array
    start: Array
    shift: Array
    residual: Callable[[Array], Array]
    measure: IncrementNorm


class CorrectorResult(NamedTuple):
    """How it went: the `Status` of a failure, the turns of the last try, and what it cost."""

    kept: NewtonCache
    status: Array
    turns: Array
    evaluations: Array
    jacobians: Array
    factorisations: Array


def empty_cache(solver: Implicit, field: Field, t: Array, y: Array) -> NewtonCache:
    """What a first step is handed."""
    zero = jnp.zeros(t.shape, y.dtype)

    def shapes() -> tuple[Any, Any]:
        jacobian = solver.linearise(field, t, y).jacobian
        return jacobian, solver.factorise(jacobian, zero)

    pieces = jax.eval_shape(shapes) if isinstance(solver.linear_solver, Direct) else ((), ())
    jacobian, factors = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), pieces)
    return NewtonCache(jacobian, factors, zero, zero + 1)


def solve_corrector(
    solver: Implicit, equation: CorrectorEquation, kept: NewtonCache
) -> tuple[Array, CorrectorResult]:
    """The solution, and how it was found.

    It is differentiated as the root that it is, with the Jacobian there.
    """

    def solve(_: Any, start: Array) -> tuple[Array, CorrectorResult]:
        x, how = _solve(solver, equation, kept, start)
        # Floating: some versions of JAX have no derivative of whole numbers here.
        return x, CorrectorResult(how.kept, *(n.astype(x.dtype) for n in how[1:]))

    def solve_linear(linear: Callable[[Array], Array], b: Array) -> Array:
        def field(t: Array, x: Array) -> Array:
            return linear(x) + equation.shift * solver.mass_times(x)

        jacobian = solver.linearise(field, equation.t, equation.start).jacobian
        return -solver.system(jacobian, equation.shift)(b)

    nothing = jnp.zeros_like(equation.start)
    x, how = lax.custom_root(equation.residual, nothing, solve, solve_linear, has_aux=True)
    return x, CorrectorResult(how.kept, *(n.astype(jnp.int32) for n in how[1:]))


class _Try(NamedTuple):
    """Newton's iteration with a kept Jacobian, then with a fresh one, in the lanes `left`."""

    x: Array
    left: Array
    fresh: Array
    how: CorrectorResult


def _solve(
    solver: Implicit, equation: CorrectorEquation, kept: NewtonCache, start: Array
) -> tuple[Array, CorrectorResult]:
    no = jnp.zeros(equation.t.shape, bool)
    zero = jnp.zeros(equation.t.shape, jnp.int32)

    def again(s: _Try) -> _Try:
        kept, broken, renewed, factorised = _prepared(solver, equation, s)
        newton = _iterated(equation, kept, _correction(solver, equation, kept), start, s)
        known = jnp.isfinite(newton.size) | solver.linear_solver.iterative
        lost = jnp.where(known, Status.NOT_CONVERGED, Status.SUCCESS)
        trouble = jnp.where(broken == Status.SUCCESS, lost, broken)
        trouble = jnp.where(newton.converged, Status.SUCCESS, trouble).astype(jnp.int32)
        how = CorrectorResult(
            kept=kept._replace(rate=jnp.where(s.left, newton.rate, kept.rate)),
            status=jnp.where(s.left, trouble, s.how.status),
            turns=jnp.where(s.left, newton.turns, s.how.turns),
            evaluations=s.how.evaluations + renewed + newton.turns,
            jacobians=s.how.jacobians + renewed,
            factorisations=s.how.factorisations + factorised,
        )
        left = s.left & ~newton.converged & ~s.fresh
        return _Try(jnp.where(s.left, newton.x, s.x), left, ~no, how)

    fresh = kept.shift == 0 if isinstance(solver.linear_solver, Direct) else ~no
    how = CorrectorResult(kept, zero, zero, zero, zero, zero)
    end = lax.while_loop(lambda s: jnp.any(s.left), again, _Try(start, ~no, fresh, how))
    return end.x, end.how


def _prepared(
    solver: Implicit, equation: CorrectorEquation, s: _Try
) -> tuple[NewtonCache, Array, Array, Array]:
    """What the next try goes with, the `Status` of that, and in which lanes it is new."""
    kept, lanes, good = s.how.kept, equation.t.shape, jnp.zeros_like(s.how.status)
    renewed = s.left & s.fresh
    if not isinstance(solver.linear_solver, Direct):
        return kept, good, renewed, jnp.zeros_like(renewed)
    near = jnp.abs(equation.shift - kept.shift) <= REUSED * jnp.abs(equation.shift)
    factorised = s.left & (s.fresh | ~near)

    def chosen(mask: Array, found: Any, old: Any, status: Status) -> tuple[Any, Array]:
        new = jax.tree.map(lambda a, b: jnp.where(mask, a, b), found, old)
        return new, jnp.where(mask & ~all_finite(found, lanes), status, 0).astype(jnp.int32)

    def renew() -> tuple[Any, Array]:
        found = solver.linearise(equation.field, equation.t, equation.start).jacobian
        return chosen(renewed, found, kept.jacobian, Status.BAD_JACOBIAN)

    jacobian, bad = lax.cond(jnp.any(renewed), renew, lambda: (kept.jacobian, good))

    def factorise() -> tuple[Any, Array]:
        found = solver.factorise(jacobian, equation.shift)
        return chosen(factorised, found, kept.factors, Status.SINGULAR)

    factors, singular = lax.cond(jnp.any(factorised), factorise, lambda: (kept.factors, good))
    shift = jnp.where(factorised, equation.shift, kept.shift)
    kept = NewtonCache(jacobian, factors, shift, jnp.where(factorised, 1, kept.rate))
    return kept, jnp.where(bad == Status.SUCCESS, singular, bad), renewed, factorised


def _correction(
    solver: Implicit, equation: CorrectorEquation, kept: NewtonCache
) -> Callable[[Array], Array]:
    """The change of `x` that a residual asks for."""
    inner = solver.linear_solver
    if not isinstance(inner, Direct):
        jacobian = solver.linearise(equation.field, equation.t, equation.start).jacobian
        return solver.system(jacobian, equation.shift)
    # The factors may be of another shift: this is the best that one number does about it.
    weight = 2 / (1 + equation.shift / kept.shift)
    return lambda residual: inner.solve(kept.factors, weight * residual)


class _Newton(NamedTuple):
    """The iteration under way; `size` is that of its last change."""

    x: Array
    size: Array
    rate: Array
    turns: Array
    going: Array
    converged: Array


def _iterated(
    equation: CorrectorEquation,
    kept: NewtonCache,
    correct: Callable[[Array], Array],
    start: Array,
    s: _Try,
) -> _Newton:
    """Newton's iteration at its end.

    What is left of the error follows from the rate of convergence: before the second turn, that of
    the steps before, not quite trusted. It is given up where the rate says that it is too slow.
    """
    fresh, most = s.fresh, TURNS_TO_ROUNDING if equation.measure.tolerance is None else TURNS

    def turn(s: _Newton) -> _Newton:
        change = correct(lax.optimization_barrier(equation.residual(s.x)))
        x, first = s.x + change, s.turns == 0
        size, rounded = equation.measure(change, x)
        rate = jnp.where(first, 3 * s.rate, size / s.size)
        ahead = jnp.where(rate < 1, rate / (1 - rate), jnp.inf) * size
        rest = _power(rate, most - 1 - s.turns, most) if most <= TURNS else 0
        hopeful = first | (ahead * rest <= LIMIT)
        rounded = (rounded & ~hopeful) | ((size <= NOISE) & ~first)
        converged = (ahead < LIMIT) | (size <= TINY) | (fresh & rounded)
        turns = s.turns + s.going
        return _Newton(
            x=jnp.where(s.going, x, s.x),
            size=jnp.where(s.going, size, s.size),
            rate=jnp.where(s.going & ~first, jnp.maximum(0.3 * s.rate, rate), s.rate),
            turns=turns,
            going=s.going & jnp.isfinite(size) & hopeful & ~converged & (turns < most),
            converged=s.converged | (s.going & converged),
        )

    zero = jnp.zeros_like(s.how.turns)
    begin = _Newton(start, jnp.ones_like(kept.rate), kept.rate, zero, s.left, zero != 0)
    return lax.while_loop(lambda s: jnp.any(s.going), turn, begin)


def _power(x: Array, exponent: Array, most: int) -> Array:
    """`x` to a whole power of less than `most`."""
    power = jnp.ones_like(x)
    for n in range(1, most):
        power = jnp.where(exponent >= n, power * x, power)
    return power
