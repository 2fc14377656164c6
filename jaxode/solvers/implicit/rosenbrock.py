"""The step of Rosenbrock methods, for any tableau: linear systems, and no iteration."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field
from ..base import EvaluationCounts, StepResult, TableauSolver
from ..linear import Dense
from ..step_size import PID, Controller
from .base import Implicit, flattened_field, padded_rows, weighted_sum
from .jacobian_check import check_jacobian
from .rosenbrock_tableau import RosenbrockTableau


class Rosenbrock(Implicit, TableauSolver):
    """Base class of Rosenbrock solvers; a subclass gives the `tableau`.

    A step evaluates the Jacobian at its start and factorises one matrix, for all its stages.
    """

    tableau: ClassVar[RosenbrockTableau]

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(0, self.tableau.stages + (self.jac is not None), 0)

    @property
    def num_dense(self) -> int:
        return len(self.tableau.dense[0])

    def why_no_kernel(self) -> str | None:
        dense = isinstance(self.linear_solver, Dense)
        return None if dense else f"{type(self.linear_solver).__name__} is for large systems"

    def default_controller(self) -> Controller:
        return PID(pcoeff=0.4, icoeff=0.7, safety=0.85, factor_max_first=1e4)

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        return self.step_and_jacobian(field, t, y, h, needs_dense)[0]

    def step_and_jacobian(
        self, field: Field, t: Array, y: Array, h: Array, needs_dense: Array | bool | None
    ) -> tuple[StepResult, Any]:
        """The step, and the Jacobian at its start."""
        table, shape = self.tableau, y.shape
        flat, size = flattened_field(field, y), h.astype(y.dtype)
        y = y.reshape(-1, *t.shape)
        slope, change, jacobian = self.linearise(flat, t, y, h)
        assert change is not None
        solve = self.system(jacobian, 1 / (table.gamma * size))
        # Without barriers, XLA computes a state or a stage again in every sum that it enters.
        barrier = lax.optimization_barrier
        first = barrier(solve(slope + table.d[0] * change))

        def stage(stages: Array, row: _RosenbrockStage) -> tuple[Array, None]:
            state = barrier(y + weighted_sum(row.a, stages))
            coupled = self.mass_times(weighted_sum(row.C, stages) / size)
            slope = flat(t + row.c.astype(h.dtype) * h, state) + coupled
            new = barrier(solve(slope + row.d * change))
            return lax.dynamic_update_index_in_dim(stages, new, row.index, 0), None

        rest = jnp.zeros((table.stages - 1, *y.shape), y.dtype)
        # A loop: unrolled, the stages of a large system take longer to compile.
        stages, _ = lax.scan(stage, jnp.concatenate([first[None], rest]), self._rows(y.dtype))
        stages = barrier(stages)

        def combination(row: tuple[float, ...]) -> Array:
            return weighted_sum(row, stages).reshape(shape)

        y1 = y + weighted_sum(table.m, stages)
        dense = (
            None if needs_dense is None else tuple(map(combination, zip(*table.dense, strict=True)))
        )
        status = self.failure_status(jacobian, first)
        status = check_jacobian(status, flat, t, y, h, slope)
        error = combination(table.error)
        return StepResult(y1.reshape(shape), error, dense, (), status), jacobian

    def _rows(self, dtype: Any) -> "_RosenbrockStage":
        """The coefficients of the stages from the second on, as arrays."""
        table = self.tableau
        return _RosenbrockStage(
            a=padded_rows(table.a, dtype),
            C=padded_rows(table.C, dtype),
            c=jnp.array(table.c[1:], dtype),
            d=jnp.array(table.d[1:], dtype),
            index=jnp.arange(1, table.stages, dtype=jnp.int32),
        )


class _RosenbrockStage(NamedTuple):
    """The tableau coefficients of a stage."""

    a: Array
    C: Array
    c: Array
    d: Array
    index: Array
