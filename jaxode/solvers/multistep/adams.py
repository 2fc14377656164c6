"""Adams methods of orders 1 to 12 and any steps, in modified divided differences of the slope."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.errors import OptionError
from ...problem.field import Field
from ..base import EvaluationCounts, Solver, StepResult
from ..implicit.base import by_powers
from ..step_size import PID, Controller, Tolerance
from .history import (
    OrderDecision,
    as_state_factors,
    row_at,
    select_order,
    select_order_at_fixed_steps,
)

MOST = 12


class AdamsState(NamedTuple):
    """The slope's modified divided differences, of orders 0 and up; and what they are taken over.

    `steps` are the last ones, the latest first. All floats, `order` too: a carry has cotangents.
    """

    differences: Array
    steps: Array
    order: Array


class Adams(Solver):
    """Adams predictors and correctors of orders 1 to 12, for smooth problems with dear fields.

    Step and order vary. A step evaluates the field twice: of order k, it predicts by the formula
    of Adams and Bashforth of order k, corrects once by that of Adams and Moulton of order k + 1,
    and goes on from that. Dense output of order k + 1. With fixed steps the order rises to the
    highest, and the start, at order 1, leaves an error of order 3.

    - `max_order`: the highest order k, 1 to 12. High orders are stable for short steps alone: with
      fixed steps, 4 to 6 is a wiser choice.

    **Raises:** `OptionError` for a `max_order` out of range.

    Source: L. F. Shampine, M. K. Gordon, Computer Solution of Ordinary Differential Equations
    (1975); Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), III.5.
    """

    names: ClassVar[tuple[str, ...]] = ("adams",)
    stateless: ClassVar[bool] = False

    max_order: int = eqx.field(static=True, default=MOST)
    tolerance: Tolerance | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        if self.max_order not in range(1, MOST + 1):
            raise OptionError(f"max_order of Adams must be 1 to {MOST}, got {self.max_order!r}")

    @property
    def order(self) -> int:
        return self.max_order

    @property
    def error_exponent(self) -> int:
        return 2  # of the first step; the others' errors are returned as if they had it

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(1, 2, 0)

    @property
    def num_dense(self) -> int:
        return self.max_order + 1

    def default_controller(self) -> Controller:
        return PID(factor_min=0.2, factor_max=4.0, dead_band=(0.9, 1.2))

    def init(self, field: Field, t: Array, y: Array) -> AdamsState:
        count = self.max_order + 2
        rest = jnp.zeros((count - 1, *y.shape), y.dtype)
        rows = jnp.concatenate([field(t, y)[None], rest])
        return AdamsState(rows, jnp.zeros((count - 1, *t.shape), t.dtype), jnp.ones_like(t))

    def why_no_kernel(self) -> str:
        return f"{type(self).__name__} keeps a history of steps"

    def slope(self, solver_state: AdamsState) -> Array:
        return solver_state.differences[0]

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: AdamsState,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        order, once = solver_state.order, lax.optimization_barrier
        size, count = h.astype(jnp.finfo(y.dtype).dtype), self.max_order + 2
        # Before the start the slope is what it was there, at steps like the first.
        steps = jnp.where(solver_state.steps == 0, h, solver_state.steps)
        growth, basis = _newton(steps, h)
        integrals = basis / np.arange(1, count + 1).reshape(-1, *(1,) * t.ndim)
        moments = once(jnp.sum(integrals, axis=1))
        known = once(as_state_factors(growth, 1, y) * solver_state.differences)
        number = np.arange(count).reshape(-1, *(1,) * y.ndim)
        used = jnp.where(number < order, known, 0)
        ahead = once(y + size * jnp.sum(as_state_factors(moments, 1, y) * used, axis=0))
        change = once(field(t + h, ahead) - jnp.sum(used, axis=0))
        y1 = once(ahead + size * row_at(moments, order + 1).astype(size.dtype) * change)
        slope = once(field(t + h, y1))
        before = np.triu(np.ones((count, count)), 1).reshape(count, count, *(1,) * y.ndim)
        rows = once(slope - jnp.sum(before.astype(size.dtype) * known[:, None], axis=0))
        found = self._judged(moments, rows, size, change, order, (y, y1))
        dense = None
        if needs_dense is not None:
            parts = size * jnp.where(number == order, change, used)
            powers = as_state_factors(integrals[:-1, :-1], 2, y) * parts[:-1, None]
            dense = tuple(jnp.sum(powers, axis=0))
        steps = jnp.concatenate([h[None], steps[:-1]])
        after = AdamsState(rows, steps, found.order)
        return StepResult(y1, found.error, dense, after, factor=found.factor)

    def _judged(
        self,
        moments: Array,
        rows: Array,
        size: Array,
        change: Array,
        order: Array,
        states: tuple[Array, Array],
    ) -> OrderDecision:
        """What follows from the errors of this order and its neighbours."""
        gaps = jnp.diff(moments, axis=0, prepend=jnp.zeros_like(moments[:1]))

        def error(x: Array, power: int) -> Array:
            return size * row_at(gaps, order + power + 1).astype(size.dtype) * x

        due, here = jnp.ones(order.shape, bool), error(change, 0)
        if self.tolerance is None:
            return select_order_at_fixed_steps(here, order, due, self.max_order)
        below, above = (error(row_at(rows, order + power + 1), power) for power in (-1, 1))
        errors = below, here, above
        return select_order(errors, order, due, self.max_order, self.tolerance, states)

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return by_powers(theta, y, dense)


def _newton(steps: Array, h: Array) -> tuple[Array, Array]:
    """How modified differences grow from a step to the next, and Newton's polynomials.

    The slope at the fraction theta of the step is the sum of the differences that have grown times
    the polynomials, which are one at its end; these are rows of coefficients of powers of theta.
    """
    count = steps.shape[0] + 1
    first = (np.arange(count) == 0).reshape(-1, *(1,) * h.ndim)

    def longer(state: tuple[Array, ...], step: Array) -> tuple[tuple[Array, ...], Any]:
        """One factor more, of the time before."""
        factor, product, past = state
        share = h / (h + past)
        shifted = jnp.concatenate([jnp.zeros_like(product[:1]), product[:-1]])
        product = (1 - share) * product + share * shifted
        after = factor * (h + past) / (past + step), product, past + step
        return after, after[:2]

    begin = jnp.ones_like(h), first * jnp.ones_like(h), jnp.zeros_like(h)
    more = lax.scan(longer, begin, steps)[1]
    growth, basis = (jnp.concatenate([x[None], y]) for x, y in zip(begin, more, strict=False))
    return growth, basis
