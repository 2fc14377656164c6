"""The one explicit Runge-Kutta step, shared by every tableau."""

import functools
import operator
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field
from ..base import EvaluationCounts, StepResult, TableauSolver
from .stage_loop import LoopedField, looped_slopes
from .stage_sums import add_stage_sum, stage_sum
from .tableau import ButcherTableau


class ExplicitRungeKutta(TableauSolver):
    """An explicit Runge-Kutta solver: `tableau` is its whole difference from the others."""

    tableau: ClassVar[ButcherTableau]
    can_be_coupled: ClassVar[bool] = True
    loops_over_stages: ClassVar[bool] = True

    @property
    def evaluations(self) -> EvaluationCounts:
        first = int(self.tableau.first_same_as_last)
        return EvaluationCounts(first, self.tableau.stages - first, self.tableau.extra_stages)

    @property
    def num_dense(self) -> int:
        return len(self.dense_rows)

    @property
    def dense_rows(self) -> tuple[tuple[float, ...], ...]:
        """The dense coefficients of the slopes that dense output reads, a row per slope."""
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
        return self.step_and_stages(field, t, y, h, solver_state, needs_dense)[0]

    def step_and_stages(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> tuple[StepResult, list[Array], list[Array]]:
        """The step, the slopes of its stages, and the states that they are at.

        Of a rolled field no such states.
        """
        table, scale = self.tableau, h.astype(jnp.finfo(y.dtype).dtype)
        if isinstance(field, LoopedField):
            first, points = solver_state if table.first_same_as_last else None, []
            number = table.stages if needs_dense is None else len(table.c)
            slopes = looped_slopes(table, field, t, y, h, first, number)
        else:
            first = solver_state if table.first_same_as_last else _once(field(t, y))
            slopes, points = self._stages(field, t, y, h, first, table.stages)
        last = points and table.first_same_as_last
        y1 = points[-1] if last else add_stage_sum(y, scale, table.b, slopes)
        carry1 = slopes[table.stages - 1] if table.first_same_as_last else ()
        dense = None if needs_dense is None else self._dense(field, t, y, h, slopes, needs_dense)
        return StepResult(y1, self._error(scale, slopes), dense, carry1), slopes, points

    def alone(
        self, field: LoopedField, t: Array, y: Array, h: Array, needs_dense: Array | bool | None
    ) -> StepResult:
        """The step without error and carry, and with the first slope made in the loop."""
        table = self.tableau
        needed = table.stages - table.first_same_as_last
        number = needed if needs_dense is None else len(table.c)
        slopes = looped_slopes(table, field, t, y, h, None, number)
        y1 = add_stage_sum(y, h.astype(jnp.finfo(y.dtype).dtype), table.b, slopes)
        dense = None if needs_dense is None else self._dense(field, t, y, h, slopes, needs_dense)
        return StepResult(y1, None, dense, ())

    def increment(self, field: Field, t: Array, y: Array, h: Array) -> Array:
        """What a step adds to `y`, by as few stages as that takes."""
        number = self.tableau.stages - self.tableau.first_same_as_last
        slopes, _ = self._stages(field, t, y, h, _once(field(t, y)), number)
        return self.rise(h, slopes)

    def rise(self, h: Array, slopes: list[Array]) -> Array:
        """What a step adds, from the slopes of its stages."""
        return h.astype(jnp.finfo(slopes[0].dtype).dtype) * stage_sum(self.tableau.b, slopes)

    def _stages(
        self, field: Field, t: Array, y: Array, h: Array, first: Array, number: int
    ) -> tuple[list[Array], list[Array]]:
        """The slopes of the first `number` stages, and the states that they are at."""
        table, scale = self.tableau, h.astype(jnp.finfo(y.dtype).dtype)
        slopes, points = [first], [y]
        for c, row in zip(table.c[1:number], table.a, strict=False):
            points.append(_once(add_stage_sum(y, scale, row, slopes)))
            slopes.append(_once(field(t + c * h, points[-1])))
        return slopes, points

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
        low = jnp.abs(scale * stage_sum(self.tableau.error_low, slopes))
        square = jnp.real(error * jnp.conj(error))
        size = jnp.sqrt(square + 0.01 * low**2)
        return square / jnp.where(size > 0, size, 1.0)

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

        def extra() -> list[Array]:
            more = list(slopes)
            for c, row in zip(table.c[table.stages :], table.a[table.stages - 1 :], strict=True):
                more.append(field(t + c * h, add_stage_sum(y, scale, row, more)))
            return more[table.stages :]

        def none() -> list[Array]:
            return [jnp.zeros_like(y)] * table.extra_stages

        if len(slopes) < len(table.c):
            slopes = slopes + (
                extra() if needs_dense is True else lax.cond(needs_dense, extra, none)
            )
        return tuple(k for k, row in zip(slopes, table.dense, strict=True) if any(row))


def _once(x: Array) -> Array:
    """Computes an array once: else XLA does so again in every sum that it enters.

    These are a slope's sums, and a stage's where a field has differences of neighbours: there it
    takes four times as long.
    """
    return lax.optimization_barrier(x)


def _polynomial(row: tuple[float, ...], theta: Array) -> Array:
    """`row[0] theta + row[1] theta^2 + ...` by Horner's rule."""
    degree = max(j for j, p in enumerate(row) if p)
    total = jnp.full_like(theta, row[degree])
    for p in reversed(row[:degree]):
        total = total * theta + p if p else total * theta
    return total * theta
