"""The implicit equation of a multistep step, by Newton's iteration with what earlier steps left.

A Jacobian and the inverse of `shift M - J` serve as many steps as they can. Where the iteration
does not converge with a Jacobian of an earlier step, it begins again with a new one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import linalg
from ..solution import Status
from .implicit import Implicit
from .solver import Counts, Field

TURNS = 4
# A change below the first, in units of the limit, is none; one below the second, in units of the
# tolerance, is rounding where a new Jacobian does not make it smaller.
TINY, NOISE = 1e-5, 1e-2
REUSED = 0.3  # relative changes of `shift` for which an inverse still serves


class Kept(NamedTuple):
    """What serves from step to step; `shift` is zero before the first.

    By columns, a Jacobian and the inverse of `shift M - J`; and the rate at which the iteration
    with it converges, one if not known.
    """

    jacobian: Array
    inverse: Array
    shift: Array
    rate: Array


class Equation(NamedTuple):
    """`residual(x) = 0` for the change `x` of the state from `start`, at the time `t`.

    `residual` has the derivative `J - shift M`. `size(x)` is the norm of a change in units of the
    tolerance, and the solution is wanted to `limit` of these.
    """

    field: Field
    t: Array
    start: Array
    shift: Array
    residual: Callable[[Array], Array]
    size: Callable[[Array], Array]
    limit: Array


class Corrected(NamedTuple):
    """How it went: the `Status` of a failure, the turns of the last try, and what it cost."""

    kept: Kept
    trouble: Array
    turns: Array
    counts: Counts


def nothing_kept(y: Array) -> Kept:
    """What a first step is handed, for a state like the vector `y`."""
    square = jnp.zeros((y.shape[0], *y.shape), y.dtype)
    zero = jnp.zeros(y.shape[1:], y.real.dtype)
    return Kept(square, square, zero, zero + 1)


def corrected(solver: Implicit, equation: Equation, kept: Kept) -> tuple[Array, Corrected]:
    """The solution, and how it was found.

    It is differentiated as the root that it is, with the Jacobian there.
    """

    def solve(_: Any, start: Array) -> tuple[Array, Corrected]:
        return _solve(solver, equation, kept, start)

    return lax.custom_root(
        equation.residual, jnp.zeros_like(equation.start), solve, _solve_linear, has_aux=True
    )


def _solve_linear(linear: Callable[[Array], Array], b: Array) -> Array:
    basis = jnp.eye(b.shape[0], dtype=b.dtype).reshape((b.shape[0],) * 2 + (1,) * (b.ndim - 1))
    return linalg.solver_of(jax.vmap(linear)(basis * jnp.ones_like(b)))(b)


class _Try(NamedTuple):
    """Newton's iteration with a kept Jacobian, then with a fresh one, in the lanes `left`."""

    x: Array
    left: Array
    fresh: Array
    kept: Kept
    trouble: Array
    turns: Array
    counts: Counts


def _solve(
    solver: Implicit, equation: Equation, kept: Kept, start: Array
) -> tuple[Array, Corrected]:
    lanes = equation.t.shape
    no, zero = jnp.zeros(lanes, bool), jnp.zeros(lanes, jnp.int32)

    def again(s: _Try) -> _Try:
        kept, renewed, factorised, broken = _prepared(solver, equation, s)
        newton = _iterated(equation, kept, start, s.left, s.fresh)
        lost = jnp.where(jnp.isfinite(newton.size), Status.NOT_CONVERGED, Status.SUCCESS)
        trouble = jnp.where(broken == Status.SUCCESS, lost, broken)
        trouble = jnp.where(newton.converged, Status.SUCCESS, trouble).astype(jnp.int32)
        counts = Counts(
            s.counts.evaluations + renewed + newton.turns,
            s.counts.jacobians + renewed,
            s.counts.factorisations + factorised,
        )
        return _Try(
            x=jnp.where(s.left, newton.x, s.x),
            left=s.left & ~newton.converged & ~s.fresh,
            fresh=~no,
            kept=kept._replace(rate=jnp.where(s.left, newton.rate, kept.rate)),
            trouble=jnp.where(s.left, trouble, s.trouble),
            turns=jnp.where(s.left, newton.turns, s.turns),
            counts=counts,
        )

    first = _Try(start, ~no, kept.shift == 0, kept, zero, zero, Counts(zero, zero, zero))
    end = lax.while_loop(lambda s: jnp.any(s.left), again, first)
    return end.x, Corrected(end.kept, end.trouble, end.turns, end.counts)


def _prepared(solver: Implicit, equation: Equation, s: _Try) -> tuple[Kept, Array, Array, Array]:
    """What the next try goes with, where it is new, and the `Status` of that."""
    jacobian, inverse, shift, rate = s.kept
    renewed = s.left & s.fresh
    near = jnp.abs(equation.shift - shift) <= REUSED * jnp.abs(equation.shift)
    factorised = s.left & (s.fresh | ~near)
    good = jnp.zeros_like(s.trouble)

    def renew() -> tuple[Array, Array]:
        found = solver.linearised(equation.field, equation.t, equation.start).jacobian
        bad = renewed & ~jnp.isfinite(jnp.sum(found, (0, 1)))
        status = jnp.where(bad, Status.BAD_JACOBIAN, Status.SUCCESS).astype(jnp.int32)
        return jnp.where(renewed, found, jacobian), status

    jacobian, bad = lax.cond(jnp.any(renewed), renew, lambda: (jacobian, good))

    def factorise() -> tuple[Array, Array]:
        found = linalg.inverted(solver.matrix(jacobian, equation.shift))
        singular = factorised & ~jnp.isfinite(jnp.sum(found, (0, 1)))
        status = jnp.where(singular, Status.SINGULAR, Status.SUCCESS).astype(jnp.int32)
        return jnp.where(factorised, found, inverse), status

    inverse, singular = lax.cond(jnp.any(factorised), factorise, lambda: (inverse, good))
    shift = jnp.where(factorised, equation.shift, shift)
    kept = Kept(jacobian, inverse, shift, jnp.where(factorised, 1, rate))
    return kept, renewed, factorised, jnp.where(bad == Status.SUCCESS, singular, bad)


class _Newton(NamedTuple):
    """The iteration under way; `size` is that of its last change."""

    x: Array
    size: Array
    rate: Array
    turns: Array
    going: Array
    converged: Array


def _iterated(equation: Equation, kept: Kept, start: Array, lanes: Array, fresh: Array) -> _Newton:
    """Newton's iteration at its end.

    What is left of the error follows from the rate of convergence: before the second turn, that of
    the steps before, not quite trusted. It is given up where the rate says that it is too slow.
    """

    # The inverse may be of another shift: this is the best that one factor does about it.
    weight = 2 / (1 + equation.shift / kept.shift)

    def turn(s: _Newton) -> _Newton:
        residual = lax.optimization_barrier(weight * equation.residual(s.x))
        change = linalg.product(kept.inverse, residual)
        size, first = equation.size(change), s.turns == 0
        rate = jnp.where(first, 3 * s.rate, size / s.size)
        ahead = jnp.where(rate < 1, rate / (1 - rate), jnp.inf) * size
        rest = jnp.where(s.turns == 1, rate * rate, jnp.where(s.turns == 2, rate, 1))
        rounding = (size <= TINY * equation.limit) | (fresh & ~first & (size <= NOISE))
        converged = (ahead < equation.limit) | rounding
        hopeful = first | converged | (ahead * rest <= equation.limit)
        turns = s.turns + s.going
        going = s.going & jnp.isfinite(size) & hopeful & ~converged & (turns < TURNS)
        return _Newton(
            x=jnp.where(s.going, s.x + change, s.x),
            size=jnp.where(s.going, size, s.size),
            rate=jnp.where(s.going & ~first, jnp.maximum(0.3 * s.rate, rate), s.rate),
            turns=turns,
            going=going,
            converged=s.converged | (s.going & converged),
        )

    zero = jnp.zeros(lanes.shape, jnp.int32)
    one = jnp.ones_like(kept.rate)
    begin = _Newton(start, one, kept.rate, zero, lanes, zero != 0)
    return lax.while_loop(lambda s: jnp.any(s.going), turn, begin)
