"""The step of Runge-Kutta-Nystrom methods, for any tableau."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field
from ..base import EvaluationCounts, StepResult, TableauSolver
from ..explicit.stage_sums import stage_sum
from .nystrom_tableau import NystromTableau, Row
from .partitioned import Partitioned, halves, joined


class Nystrom(Partitioned, TableauSolver):
    r"""Base class of Runge-Kutta-Nystrom solvers of $\ddot q = a(t, q)$.

    A subclass gives the `tableau`. The state is a pair `(q, v)` of equal
    structure and shapes, or one array whose first axis holds q and then v; the field returns
    `(v, a)`. The first half is taken to be v: what the field returns there is ignored.

    An acceleration that depends on v costs the order, and is not detected.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.14.
    """

    tableau: ClassVar[NystromTableau]

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(1, self.tableau.stages - 1, 0)

    @property
    def num_dense(self) -> int:
        return (len(self._dense_rows) + 1) // 2

    @property
    def _dense_rows(self) -> tuple[Row, ...]:
        """The rows of dense coefficients of the stages that dense output reads: those not zero."""
        return tuple(row for row in self.tableau.dense if any(row))

    def init(self, field: Field, t: Array, y: Array) -> Any:
        return field(t, y)

    def slope(self, solver_state: Any) -> Array | None:
        return solver_state

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        table, scale = self.tableau, h.astype(jnp.finfo(y.dtype).dtype)
        q, v = halves(y)
        stages, end = [halves(solver_state)[1]], q
        for c, row in zip(table.c[1:], table.a, strict=True):
            end = q + (c * scale) * v + (scale * scale) * stage_sum(row, stages)
            slope = field(t + c * h, joined(end, v), 1)
            stages.append(lax.optimization_barrier(slope))
        v1 = v + scale * stage_sum(table.bd, stages)
        error = None
        if table.error_b is not None and table.error_bd is not None:
            position_error = scale * stage_sum(table.error_b, stages)
            error = scale * joined(position_error, stage_sum(table.error_bd, stages))
        dense = None if needs_dense is None else self._dense(stages)
        # The last stage is at the end of the step, and is the first of the next step.
        return StepResult(joined(end, v1), error, dense, joined(v1, stages[-1]))

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        scale, theta = (x.astype(jnp.finfo(y.dtype).dtype) for x in (h, theta))
        q, v = halves(y)
        stages = [stage for pair in dense for stage in halves(pair)]
        positions = [theta * _polynomial(row, theta) for row in self._dense_rows]
        velocities = [_polynomial(_derivative(row), theta) for row in self._dense_rows]
        q1 = q + (theta * scale) * v + (scale * scale) * stage_sum(positions, stages)
        return joined(q1, v + scale * stage_sum(velocities, stages))

    def _dense(self, stages: list[Array]) -> tuple[Array, ...]:
        """The stages that dense output reads, two in each array."""
        used = [k for k, row in zip(stages, self.tableau.dense, strict=True) if any(row)]
        if len(used) % 2:
            used.append(jnp.zeros_like(used[0]))
        return tuple(map(joined, used[::2], used[1::2]))


def _polynomial(row: Row, theta: Array) -> Array:
    """`row[0] theta + row[1] theta^2 + ...` by Horner's rule."""
    total = jnp.full_like(theta, row[-1])
    for p in reversed(row[:-1]):
        total = total * theta + p
    return total * theta


def _derivative(row: Row) -> Row:
    """The derivative of `row[0] theta^2 + row[1] theta^3 + ...`: coefficients from theta on."""
    return tuple((power + 2) * p for power, p in enumerate(row))
