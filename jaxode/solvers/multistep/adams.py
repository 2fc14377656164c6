"""Adams methods of orders 1 to 12 with variable steps, in modified divided differences."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.field import Field
from .. import dense_output
from ..base import EvaluationCounts, StepResult
from ..step_size import PID, Controller
from .history import as_state_factors, row_at
from .variable_order import OrderDecision, VariableOrder, raise_order, select_order

MAX_ORDER = 12


class AdamsState(NamedTuple):
    """The solver state: modified divided differences of the slope, and the steps they are over.

    `differences` has the orders 0 and up along its first axis; `steps` holds the last step sizes,
    the latest first. All are floats, `order` too, because a solver state has cotangents.
    """

    differences: Array
    steps: Array
    order: Array


class Adams(VariableOrder):
    """Adams predictors and correctors of orders 1 to 12, for smooth and expensive vector fields.

    Step and order vary. A step evaluates the field twice: of order k, it predicts by the formula
    of Adams and Bashforth of order k, corrects once by that of Adams and Moulton of order k + 1,
    and evaluates there. Dense output of order k + 1. With fixed steps the order rises to the
    highest, and the start, at order 1, leaves an error of order 3.

    - `max_order`: the highest order k, 1 to 12. High orders are stable for short steps alone: with
      fixed steps, 4 to 6 is a wiser choice.

    **Raises:** `OptionError` for a `max_order` out of range.

    Source: L. F. Shampine, M. K. Gordon, Computer Solution of Ordinary Differential Equations
    (1975); Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), III.5.
    """

    names: ClassVar[tuple[str, ...]] = ("adams",)
    highest_order: ClassVar[int] = MAX_ORDER

    max_order: int = eqx.field(static=True, default=MAX_ORDER)

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(1, 2, 0)

    @property
    def num_dense(self) -> int:
        return self.max_order + 1

    def default_controller(self) -> Controller:
        return PID(factor_min=0.2, factor_max=4.0, dead_band=(0.9, 1.2))

    def move_state(
        self, move: Callable[[Array, Array], Array], solver_state: AdamsState, other: AdamsState
    ) -> AdamsState:
        differences = move(solver_state.differences, other.differences)
        return solver_state._replace(differences=differences)

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
        order, barrier = solver_state.order, lax.optimization_barrier
        size, count = h.astype(jnp.finfo(y.dtype).dtype), self.max_order + 2
        # Before the start the slope counts as constant, at steps like the first.
        steps = jnp.where(solver_state.steps == 0, h, solver_state.steps)
        growth, basis = _newton_polynomials(steps, h)
        integrals = basis / np.arange(1, count + 1).reshape(-1, *(1,) * t.ndim)
        moments = barrier(jnp.sum(integrals, axis=1))
        grown = barrier(as_state_factors(growth, 1, y) * solver_state.differences)
        number = np.arange(count).reshape(-1, *(1,) * y.ndim)
        used = jnp.where(number < order, grown, 0)
        predicted = barrier(y + size * jnp.sum(as_state_factors(moments, 1, y) * used, axis=0))
        change = barrier(field(t + h, predicted) - jnp.sum(used, axis=0))
        corrector_weight = row_at(moments, order + 1).astype(size.dtype)
        y1 = barrier(predicted + size * corrector_weight * change)
        slope = barrier(field(t + h, y1))
        below = np.triu(np.ones((count, count)), 1).reshape(count, count, *(1,) * y.ndim)
        rows = barrier(slope - jnp.sum(below.astype(size.dtype) * grown[:, None], axis=0))
        # Those of higher order are not read, and their rounding would grow until it overflows.
        rows = jnp.where(number <= order + 1, rows, 0)
        decision = self._select_order(moments, rows, size, change, order, (y, y1))
        dense = None
        if needs_dense is not None:
            terms = size * jnp.where(number == order, change, used)
            powers = as_state_factors(integrals[:-1, :-1], 2, y) * terms[:-1, None]
            dense = tuple(jnp.sum(powers, axis=0))
        steps = jnp.concatenate([h[None], steps[:-1]])
        after = AdamsState(rows, steps, decision.order)
        return StepResult(y1, decision.error, dense, after, step_factor=decision.step_factor)

    def _select_order(
        self,
        moments: Array,
        rows: Array,
        size: Array,
        change: Array,
        order: Array,
        states: tuple[Array, Array],
    ) -> OrderDecision:
        """The next order and step size from the errors of this order and its neighbours."""
        gaps = jnp.diff(moments, axis=0, prepend=jnp.zeros_like(moments[:1]))

        def error(difference: Array, power: int) -> Array:
            return size * row_at(gaps, order + power + 1).astype(size.dtype) * difference

        may_change, current = jnp.ones(order.shape, bool), error(change, 0)
        if self.tolerance is None:
            return raise_order(current, order, may_change, self.max_order)
        below, above = (error(row_at(rows, order + power + 1), power) for power in (-1, 1))
        errors = below, current, above
        return select_order(errors, order, may_change, self.max_order, self.tolerance, states)

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return dense_output.evaluate(theta, y, dense)


def _newton_polynomials(steps: Array, h: Array) -> tuple[Array, Array]:
    """The factors by which modified differences grow over a step, and Newton's polynomials.

    The slope at the fraction theta of the step is the sum of the grown differences times these
    polynomials, which are one at the end of the step. Their rows are coefficients of powers of
    theta.
    """
    count = steps.shape[0] + 1
    first = (np.arange(count) == 0).reshape(-1, *(1,) * h.ndim)

    def add_factor(state: tuple[Array, ...], step: Array) -> tuple[tuple[Array, ...], Any]:
        """Multiply by the factor of the previous time."""
        factor, product, past = state
        share = h / (h + past)
        shifted = jnp.concatenate([jnp.zeros_like(product[:1]), product[:-1]])
        product = (1 - share) * product + share * shifted
        after = factor * (h + past) / (past + step), product, past + step
        return after, after[:2]

    start = jnp.ones_like(h), first * jnp.ones_like(h), jnp.zeros_like(h)
    rest = lax.scan(add_factor, start, steps)[1]
    growth, basis = (jnp.concatenate([x[None], y]) for x, y in zip(start, rest, strict=False))
    return growth, basis
