"""The step of explicit Runge-Kutta methods, for any tableau."""

import functools
import operator
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field
from ..base import EvaluationCounts, StepResult, TableauSolver
from ..step_size import Tolerance
from .stability import bound_by_stability
from .stage_loop import LoopedField, looped_slopes
from .stage_sums import add_stage_sum, stage_sum
from .tableau import ButcherTableau


class ExplicitRungeKutta(TableauSolver):
    """Base class of explicit Runge-Kutta solvers; a subclass gives the `tableau`."""

    tableau: ClassVar[ButcherTableau]
    can_be_coupled: ClassVar[bool] = True
    loops_over_stages: ClassVar[bool] = True
    detects_stability: ClassVar[bool] = True

    @property
    def evaluations(self) -> EvaluationCounts:
        first = int(self.tableau.first_same_as_last)
        return EvaluationCounts(first, self.tableau.stages - first, self.tableau.extra_stages)

    @property
    def num_dense(self) -> int:
        return len(self.dense_rows)

    @property
    def dense_rows(self) -> tuple[tuple[float, ...], ...]:
        """The rows of dense coefficients of the slopes that dense output reads: those not zero."""
        return tuple(row for row in self.tableau.dense if any(row))

    def init(self, field: Field, t: Array, y: Array) -> Any:
        return field(t, y) if self.tableau.first_same_as_last else ()

    def slope(self, solver_state: Any) -> Array | None:
        return solver_state if self.tableau.first_same_as_last else None

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        result, *stages = self.step_and_stages(field, t, y, h, solver_state, needs_dense)
        return result._replace(stages=tuple(stages)) if t.ndim == 0 and stages[1] else result

    def bound_by_stability(
        self, stages: tuple[list[Array], list[Array]], y: Array, h: Array, tolerance: Tolerance
    ) -> Array:
        return bound_by_stability(self.tableau, stages, y, h, tolerance)

    def step_and_stages(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> tuple[StepResult, list[Array], list[Array]]:
        """The step, the slopes of its stages, and the stage states.

        Of a `LoopedField`, the stage states are an empty list.
        """
        table, scale = self.tableau, h.astype(jnp.finfo(y.dtype).dtype)
        if isinstance(field, LoopedField):
            first, states = solver_state if table.first_same_as_last else None, []
            number = table.stages if needs_dense is None else len(table.c)
            slopes = looped_slopes(table, field, t, y, h, first, number)
        else:
            first = solver_state if table.first_same_as_last else _barrier(field(t, y))
            slopes, states = self._stages(field, t, y, h, first, table.stages)
        last_is_end = states and table.first_same_as_last
        y1 = states[-1] if last_is_end else add_stage_sum(y, scale, table.b, slopes)
        solver_state1 = slopes[table.stages - 1] if table.first_same_as_last else ()
        dense = None if needs_dense is None else self._dense(field, t, y, h, slopes, needs_dense)
        return StepResult(y1, self._error(scale, slopes), dense, solver_state1), slopes, states

    def step_without_error(
        self, field: LoopedField, t: Array, y: Array, h: Array, needs_dense: Array | bool | None
    ) -> StepResult:
        """The step without error estimate and solver state; the loop includes the first stage."""
        table = self.tableau
        needed = table.stages - table.first_same_as_last
        number = needed if needs_dense is None else len(table.c)
        slopes = looped_slopes(table, field, t, y, h, None, number)
        y1 = add_stage_sum(y, h.astype(jnp.finfo(y.dtype).dtype), table.b, slopes)
        dense = None if needs_dense is None else self._dense(field, t, y, h, slopes, needs_dense)
        return StepResult(y1, None, dense, ())

    def increment(self, field: Field, t: Array, y: Array, h: Array) -> Array:
        """The increment `y1 - y` of a step, by as few stages as possible."""
        number = self.tableau.stages - self.tableau.first_same_as_last
        slopes, _ = self._stages(field, t, y, h, _barrier(field(t, y)), number)
        return self.increment_of(h, slopes)

    def increment_of(self, h: Array, slopes: list[Array]) -> Array:
        """The increment `y1 - y` of a step, from the slopes of its stages."""
        return h.astype(jnp.finfo(slopes[0].dtype).dtype) * stage_sum(self.tableau.b, slopes)

    def _stages(
        self, field: Field, t: Array, y: Array, h: Array, first: Array, number: int
    ) -> tuple[list[Array], list[Array]]:
        """The slopes and the states of the first `number` stages."""
        table, scale = self.tableau, h.astype(jnp.finfo(y.dtype).dtype)
        slopes, states = [first], [y]
        for c, row in zip(table.c[1:number], table.a, strict=False):
            states.append(_barrier(add_stage_sum(y, scale, row, slopes)))
            slopes.append(_barrier(field(t + c * h, states[-1])))
        return slopes, states

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        real = jnp.finfo(y.dtype).dtype
        weights = [_polynomial(row, theta).astype(real) for row in self.dense_rows]
        terms = [weight * slope for weight, slope in zip(weights, dense, strict=True)]
        return y + h.astype(real) * functools.reduce(operator.add, terms)

    def _error(self, scale: Array, slopes: list[Array]) -> Array | None:
        if self.tableau.error is None:
            return None
        error = scale * stage_sum(self.tableau.error, slopes)
        if self.tableau.error_low is None:
            return error
        # Hairer's blend of two estimates, component by component: e5^2 / |(e5, e3 / 10)|.
        size = jnp.abs(error)
        low = 0.1 * jnp.abs(scale * stage_sum(self.tableau.error_low, slopes))
        largest = jnp.maximum(size, low)  # in its units no square overflows or vanishes
        unit = jnp.where(largest > 0, largest, 1)
        share = size / unit
        return size * share / jnp.sqrt(jnp.maximum(share**2 + (low / unit) ** 2, 1))

    def _dense(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        slopes: list[Array],
        needs_dense: Array | bool,
    ) -> tuple[Array, ...]:
        table = self.tableau
        scale = h.astype(jnp.finfo(y.dtype).dtype)

        def extra_slopes() -> list[Array]:
            all_slopes = list(slopes)
            for c, row in zip(table.c[table.stages :], table.a[table.stages - 1 :], strict=True):
                stage_t = t + c * h
                all_slopes.append(field(stage_t, add_stage_sum(y, scale, row, all_slopes)))
            return all_slopes[table.stages :]

        def zeros() -> list[Array]:
            return [jnp.zeros_like(y)] * table.extra_stages

        if len(slopes) < len(table.c):
            slopes = slopes + (
                extra_slopes()
                if needs_dense is True
                else lax.cond(needs_dense, extra_slopes, zeros)
            )
        return tuple(k for k, row in zip(slopes, table.dense, strict=True) if any(row))


def _barrier(x: Array) -> Array:
    """The array with an optimisation barrier, so that XLA computes it once.

    Without it, XLA computes a slope again in every sum that it enters, and so a stage state of a
    field with differences of neighbours.
    """
    return lax.optimization_barrier(x)


def _polynomial(row: tuple[float, ...], theta: Array) -> Array:
    """`row[0] theta + row[1] theta^2 + ...` by Horner's rule."""
    degree = max(j for j, p in enumerate(row) if p)
    total = jnp.full_like(theta, row[degree])
    for p in reversed(row[:degree]):
        total = total * theta + p if p else total * theta
    return total * theta
