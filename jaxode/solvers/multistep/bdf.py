"""Numerical differentiation formulas of orders 1 to 5, in backward differences.

`rows` are the differences of orders 1 and up at the spacing of the last step; the zeroth is the
state itself. Two more than the highest order are kept, to judge that order and the one above.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.errors import OptionError
from ...problem.field import Field
from ..base import EvaluationCounts, StepResult
from ..implicit.base import Implicit, flattened_field, weighted_sum
from ..implicit.newton import IncrementNorm
from ..step_size import PID, Controller, Tolerance
from .history import (
    NEARLY,
    OrderDecision,
    entry_at_order,
    interpolation_coefficients,
    rescale_differences,
    row_at,
    rows_up_to,
    select_order,
    select_order_at_fixed_steps,
    update_differences,
)
from .modified_newton import TURNS, CorrectorEquation, NewtonCache, empty_cache, solve_corrector

MOST = 5
# By order from 0 on; kappa is Klopfenstein's, as Shampine and Reichelt have it, but of order 1:
# there it would hand on what a stiff slope at the start is off by.
_KAPPA = np.array([0, 0, -1 / 9, -0.0823, -0.0415, 0])
_GAMMA = np.cumsum([0, *(1 / np.arange(1, MOST + 1))])
_ALPHA = [*((1 - _KAPPA) * _GAMMA)]
# Errors of formulas of higher order add up over more steps: weighed so, a solve errs by few
# tolerances where it has a thousand steps.
_WEIGHT = [2, 2, 2, 3, 4, 5]
_ERROR = [*(_WEIGHT * (_KAPPA * _GAMMA + 1 / np.arange(1, MOST + 2)))]


class BDFState(NamedTuple):
    """The history: `differences` at spacing `h`, and how many steps have had it and the order.

    All floats, `order` too: a carry has cotangents.
    """

    differences: Array
    h: Array
    order: Array
    equal: Array
    kept: NewtonCache


class BDFHistory(NamedTuple):
    """The same as the step reads it: states as vectors, the spacing that of the coming step."""

    y: Array
    rows: Array
    h: Array
    order: Array


class BDF(Implicit):
    """The NDF of orders 1 to 5 in backward differences, for stiff problems.

    Step and order vary; Jacobian and factorisation are kept for as long as they serve. With fixed
    steps the order rises while they are equal, and the start, at order 1, leaves an error of order
    2. Dense output: the interpolating polynomial, of the order of the step.

    - `max_order`: the highest order, 1 to 5; at 2 and below the method is A-stable.

    **Raises:** `OptionError` for a `max_order` out of range.

    Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997).
    """

    names: ClassVar[tuple[str, ...]] = ("bdf", "ndf")
    stateless: ClassVar[bool] = False
    counts_evaluations: ClassVar[bool] = True
    reuses_jacobian: ClassVar[bool] = True

    max_order: int = eqx.field(static=True, default=MOST)
    tolerance: Tolerance | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        if self.max_order not in range(1, MOST + 1):
            raise OptionError(f"max_order of BDF must be 1 to {MOST}, got {self.max_order!r}")

    @property
    def order(self) -> int:
        return self.max_order

    @property
    def error_exponent(self) -> int:
        return 2  # of the first step; the others' errors are returned as if they had it

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(1, 0, 0)

    @property
    def num_dense(self) -> int:
        return self.max_order

    def default_controller(self) -> Controller:
        return PID(factor_min=0.2, factor_max=10.0, dead_band=(0.9, 1.2))

    def init(self, field: Field, t: Array, y: Array) -> BDFState:
        flat, start = flattened_field(field, y), y.reshape(-1, *t.shape)
        slope = flat(t, start) if self.mass is None else self._slope(flat, t, start)
        rest = jnp.zeros((self.max_order + 1, *y.shape), y.dtype)
        rows = jnp.concatenate([slope.reshape(1, *y.shape), rest])
        one = jnp.ones_like(t)
        # As if after a step of size one: the first step makes its differences of that.
        return BDFState(rows, one, one, jnp.zeros_like(t), empty_cache(self, flat, t, start))

    def _slope(self, field: Field, t: Array, y: Array) -> Array:
        """y' where M y' = f; M may be singular, so by an implicit Euler step of next to no size."""
        at, mass = self.linearise(field, t, y), jnp.asarray(self.mass, y.dtype)
        arrays = jax.tree.leaves(eqx.filter(at.jacobian, eqx.is_array))
        ratio = jnp.sqrt(jnp.sum(mass**2) / sum(jnp.sum(x**2) for x in arrays))
        shift = 1 / (jnp.finfo(y.dtype).eps ** 0.25 * jnp.where(jnp.isfinite(ratio), ratio, 1))
        return self.system(at.jacobian, shift)(at.slope * shift + at.slope_t)

    def slope(self, solver_state: BDFState) -> Array:
        slope = solver_state.differences[0]
        return self.mass_times(slope.reshape(-1)).reshape(slope.shape)

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: BDFState,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        shape, order, ratio = y.shape, solver_state.order, h / solver_state.h
        start = y.reshape(-1, *t.shape)
        rows = solver_state.differences.reshape(-1, *start.shape)
        rows = rescale_differences(rows, ratio, order, self.max_order)
        equation = self._equation(flattened_field(field, y), t, BDFHistory(start, rows, h, order), shape)
        d, how = solve_corrector(self, equation, solver_state.kept)
        y1 = (equation.start + d).reshape(shape)
        rows = update_differences(rows, d, order).reshape(-1, *shape)
        equal = jnp.where(jnp.abs(ratio - 1) < NEARLY, solver_state.equal, 0) + 1
        found = self._judged(rows, d.reshape(shape), order, equal, how.turns, (y, y1))
        return StepResult(
            y1=y1,
            error=found.error,
            dense=None if needs_dense is None else interpolation_coefficients(rows, order, self.max_order),
            solver_state=BDFState(
                rows, h, found.order, jnp.where(found.order == order, equal, 0), how.kept
            ),
            status=how.status,
            factor=found.factor,
            extra_evaluations=how.evaluations,
            linear_algebra_counts=(how.jacobians, how.factorisations),
        )

    def _equation(
        self, field: Field, t: Array, past: BDFHistory, shape: tuple[int, ...]
    ) -> CorrectorEquation:
        """The formula for the change d of the predicted state, the next difference of order k + 1.

        `f(t + h, predicted + d) - shift M (psi + d) = 0`.
        """
        y, rows, h, order = past
        alpha, t1 = entry_at_order(_ALPHA, order, 0), t + h
        shift = (alpha / h).astype(y.dtype)
        known = rows_up_to(order, rows[: self.max_order])
        predicted = lax.optimization_barrier(y + jnp.sum(known, axis=0))
        gamma = _GAMMA[1 : self.max_order + 1].astype(y.dtype)
        psi = lax.optimization_barrier(weighted_sum(gamma, known) / alpha.astype(y.dtype))

        def residual(d: Array) -> Array:
            return field(t1, predicted + d) - shift * self.mass_times(psi + d)

        measure = IncrementNorm(self.tolerance, predicted.reshape(shape), jnp.ones_like(shift))
        return CorrectorEquation(field, t1, predicted, shift, residual, measure)

    def _judged(
        self,
        rows: Array,
        d: Array,
        order: Array,
        equal: Array,
        turns: Array,
        states: tuple[Array, Array],
    ) -> OrderDecision:
        """What follows from the errors of this order and its neighbours, after `equal` steps."""

        def error(x: Array, power: int) -> Array:
            return entry_at_order(_ERROR, order + power, 0).astype(x.dtype) * x

        due, here = equal > order, error(d, 0)
        if self.tolerance is None:
            return select_order_at_fixed_steps(here, order, due, self.max_order)
        errors = error(row_at(rows, order), -1), here, error(row_at(rows, order + 2), 1)
        safety = (2 * TURNS + 1) / (2 * TURNS + turns.astype(order.dtype))
        return select_order(errors, order, due, self.max_order, self.tolerance, states, safety)
