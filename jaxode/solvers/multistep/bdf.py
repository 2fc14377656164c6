"""Numerical differentiation formulas of orders 1 to 5, in backward differences.

`differences` are those of orders 1 and up at the spacing of the last step; the zeroth is the state
itself. Two more than the highest order are kept, to estimate the errors of that order and of the
one above.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...problem.field import Field
from ..base import EvaluationCounts, StepResult
from ..implicit.base import Implicit, flattened_field, weighted_sum
from ..implicit.newton import IncrementNorm
from ..step_size import PID, Controller, max_norm
from .history import (
    EQUAL_STEPS,
    entry_at_order,
    interpolation_coefficients,
    rescale_differences,
    row_at,
    rows_up_to,
    update_differences,
)
from .modified_newton import (
    MAX_ITERATIONS,
    CorrectorEquation,
    NewtonCache,
    empty_cache,
    solve_corrector,
)
from .variable_order import OrderDecision, VariableOrder, raise_order, select_order

MAX_ORDER = 5
# By order from 0 on. Kappa is Klopfenstein's, as in Shampine and Reichelt, but zero at order 1:
# there it would pass on the error of a stiff initial slope.
_KAPPA = np.array([0, 0, -1 / 9, -0.0823, -0.0415, 0])
_GAMMA = np.cumsum([0, *(1 / np.arange(1, MAX_ORDER + 1))])
_ALPHA = [*((1 - _KAPPA) * _GAMMA)]
# Errors of formulas of higher order add up over more steps: with these weights, a solve of a
# thousand steps has an error of a few tolerances.
_WEIGHT = [2, 2, 2, 3, 4, 5]
_ERROR = [*(_WEIGHT * (_KAPPA * _GAMMA + 1 / np.arange(1, MAX_ORDER + 2)))]


class BDFState(NamedTuple):
    """The solver state: `differences` at the spacing `h`, and the cache of Newton's iteration.

    `equal_steps` counts the steps since size or order changed. All are floats, `order` too, because
    a solver state has cotangents.
    """

    differences: Array
    h: Array
    order: Array
    equal_steps: Array
    newton_cache: NewtonCache


class BDFHistory(NamedTuple):
    """The past as a step reads it: state and differences as vectors, at the spacing of the step."""

    y: Array
    differences: Array
    h: Array
    order: Array


class BDF(Implicit, VariableOrder):
    """The NDF of orders 1 to 5 in backward differences, for stiff problems.

    Step and order vary; a Jacobian and its factorisation are reused while the iteration converges.
    With fixed steps the order rises while they are equal, and the start, at order 1, leaves an
    error of order 2. Dense output: the interpolating polynomial, of the order of the step.

    - `max_order`: the highest order, 1 to 5; at 2 and below the method is A-stable.

    **Raises:** `OptionError` for a `max_order` out of range.

    Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997).
    """

    names: ClassVar[tuple[str, ...]] = ("bdf", "ndf")
    highest_order: ClassVar[int] = MAX_ORDER
    counts_evaluations: ClassVar[bool] = True
    shares_history: ClassVar[bool] = False
    reuses_jacobian: ClassVar[bool] = True

    max_order: int = eqx.field(static=True, default=MAX_ORDER)

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(1, 0, 0)

    @property
    def num_dense(self) -> int:
        return self.max_order

    def default_controller(self) -> Controller:
        return PID(factor_min=0.2, factor_max=10.0, dead_band=(0.9, 1.2))

    def move_state(
        self, move: Callable[[Array, Array], Array], solver_state: BDFState, other: BDFState
    ) -> BDFState:
        differences = move(solver_state.differences, other.differences)
        return solver_state._replace(differences=differences)

    def init(self, field: Field, t: Array, y: Array) -> BDFState:
        flat, start = flattened_field(field, y), y.reshape(-1, *t.shape)
        slope = flat(t, start) if self.mass is None else self._slope(flat, t, start)
        rest = jnp.zeros((self.max_order + 1, *y.shape), y.dtype)
        differences = jnp.concatenate([slope.reshape(1, *y.shape), rest])
        one = jnp.ones_like(t)
        # As after a step of size one: the first step rescales the differences to its own size.
        cache = empty_cache(self, flat, t, start)
        return BDFState(differences, one, one, jnp.zeros_like(t), cache)

    def _slope(self, field: Field, t: Array, y: Array) -> Array:
        """y' where M y' = f; by an implicit Euler step of tiny size, as M may be singular."""
        around, mass = self.linearise(field, t, y), jnp.asarray(self.mass, y.dtype)
        arrays = jax.tree.leaves(eqx.filter(around.jacobian, eqx.is_array))
        ratio = max_norm(mass) / functools.reduce(jnp.maximum, map(max_norm, arrays))
        # The derivative holds the size of the step fixed, as of all steps.
        ratio = lax.stop_gradient(jnp.where(jnp.isfinite(ratio), ratio, 1))
        size = jnp.finfo(y.dtype).eps ** 0.25 * ratio
        change = jax.jvp(lambda t: field(t, y), (t,), (size.astype(t.dtype),))[1]
        return self.scaled_system(around.jacobian, size)(around.slope + change)

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
        past = BDFHistory(start, rows, h, order)
        equation = self._equation(flattened_field(field, y), t, past, shape)
        d, newton = solve_corrector(self, equation, solver_state.newton_cache)
        y1 = (equation.start + d).reshape(shape)
        rows = update_differences(rows, d, order).reshape(-1, *shape)
        equal_steps = jnp.where(jnp.abs(ratio - 1) < EQUAL_STEPS, solver_state.equal_steps, 0) + 1
        decision = self._select_order(
            rows, d.reshape(shape), order, equal_steps, newton.iterations, (y, y1)
        )
        dense = None
        if needs_dense is not None:
            dense = interpolation_coefficients(rows, order, self.max_order)
        equal_steps = jnp.where(decision.order == order, equal_steps, 0)
        return StepResult(
            y1=y1,
            error=decision.error,
            dense=dense,
            solver_state=BDFState(rows, h, decision.order, equal_steps, newton.cache),
            status=newton.status,
            step_factor=decision.step_factor,
            extra_evaluations=newton.evaluations,
            linear_algebra_counts=(newton.jacobians, newton.factorisations),
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
        differences = rows_up_to(order, rows[: self.max_order])
        predicted = lax.optimization_barrier(y + jnp.sum(differences, axis=0))
        gamma = _GAMMA[1 : self.max_order + 1].astype(y.dtype)
        psi = lax.optimization_barrier(weighted_sum(gamma, differences) / alpha.astype(y.dtype))

        def residual(d: Array) -> Array:
            return field(t1, predicted + d) - shift * self.mass_times(psi + d)

        norm = IncrementNorm(self.tolerance, predicted.reshape(shape), jnp.ones_like(shift))
        return CorrectorEquation(field, t1, predicted, shift, residual, norm)

    def _select_order(
        self,
        rows: Array,
        d: Array,
        order: Array,
        equal_steps: Array,
        iterations: Array,
        states: tuple[Array, Array],
    ) -> OrderDecision:
        """The next order and step size from the errors of this order and its neighbours."""

        def error(difference: Array, power: int) -> Array:
            constant = entry_at_order(_ERROR, order + power, 0)
            return constant.astype(difference.dtype) * difference

        may_change, current = equal_steps > order, error(d, 0)
        if self.tolerance is None:
            return raise_order(current, order, may_change, self.max_order)
        errors = error(row_at(rows, order), -1), current, error(row_at(rows, order + 2), 1)
        most = 2 * MAX_ITERATIONS
        safety = (most + 1) / (most + iterations.astype(order.dtype))
        return select_order(
            errors, order, may_change, self.max_order, self.tolerance, states, safety
        )
