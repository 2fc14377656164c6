"""The step of diagonally implicit methods with an explicit first stage, for any tableau."""

import functools
import operator
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.errors import OptionError
from ...problem.field import Field, Split
from ..base import EvaluationCounts, StepResult, TableauSolver
from ..step_size import PID, Controller, Tolerance
from .base import Implicit, flattened_field, padded_rows, weighted_sum, without_gradient
from .esdirk_tableau import EsdirkTableau, ImexTableau
from .jacobian_check import check_jacobian
from .newton import IncrementNorm, Newton, NewtonProgress, initial_progress


class Esdirk(Implicit, TableauSolver):
    """Base class of ESDIRK solvers; a subclass gives the `tableau`.

    A step evaluates the Jacobian at its start and factorises one matrix, for all its stages. The
    unknown of a stage is its slope; that of the last stage is the first of the next step.
    """

    tableau: ClassVar[EsdirkTableau | ImexTableau]
    counts_evaluations: ClassVar[bool] = True
    takes_mass: ClassVar[bool] = False
    stateless: ClassVar[bool] = False  # the slope of a stage is exact to the tolerance alone

    tolerance: Tolerance | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        if self.mass is not None:
            raise OptionError(
                f"{type(self).__name__} has an explicit first stage and takes no mass matrix: use "
                "a Rosenbrock solver"
            )

    @property
    def table(self) -> EsdirkTableau:
        """The tableau of the implicit part."""
        return self.tableau.implicit if isinstance(self.tableau, ImexTableau) else self.tableau

    @property
    def evaluations(self) -> EvaluationCounts:
        # The Jacobian of a step comes with a value, and the user's is tested by one.
        return EvaluationCounts(1, 1 + (self.jac is not None), 0)

    @property
    def num_dense(self) -> int:
        return len(self.table.dense[0])

    def default_controller(self) -> Controller:
        return PID(pcoeff=0.4, icoeff=0.4, safety=0.8, factor_max_first=1e4)

    def init(self, field: Field, t: Array, y: Array) -> Any:
        if isinstance(field, Split):
            return field.stiff(t, y), field.other(t, y)
        return field(t, y)

    def slope(self, solver_state: Any) -> Array | None:
        return (
            solver_state[0] + solver_state[1] if isinstance(solver_state, tuple) else solver_state
        )

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        table, size = self.table, h.astype(y.dtype)
        stages = self._stages(field, t, y, h, solver_state)
        slopes = functools.reduce(operator.add, stages.slopes)
        solver_state1 = stages.slopes[0][-1].reshape(y.shape)
        y1, evaluations = stages.last.reshape(y.shape), stages.progress.evaluations
        if isinstance(field, Split):
            y1 = y + size * weighted_sum(table.b, slopes).reshape(y.shape)
            solver_state1, evaluations = self.init(field, t + h, y1), evaluations + 1
        error, dense = None, None
        if table.error is not None:
            error = size * weighted_sum(table.error, slopes)
            error = (stages.solve(error) if table.filtered else error).reshape(y.shape)
        if needs_dense is not None:
            rows = zip(*table.dense, strict=True)
            dense = tuple((size * weighted_sum(row, slopes)).reshape(y.shape) for row in rows)
        status = stages.progress.status
        return StepResult(y1, error, dense, solver_state1, status, extra_evaluations=evaluations)

    def _stages(
        self, field: Field, t: Array, y: Array, h: Array, solver_state: Any
    ) -> "_EsdirkStages":
        """All stages in a loop, each solved by its Newton iteration."""
        table, size, barrier = self.table, h.astype(y.dtype), lax.optimization_barrier
        start = y.reshape(-1, *t.shape)
        parts = (field.stiff, field.other) if isinstance(field, Split) else (field,)
        stiff, *other = (flattened_field(part, y) for part in parts)
        # The solution does not depend on the matrix of the iteration.
        around = without_gradient(self.linearise(stiff, t, start))
        jacobian = around.jacobian
        solve = self.scaled_system(jacobian, table.gamma * size)
        newton = Newton(solve, IncrementNorm(self.tolerance, y, size))

        def stage(state: tuple, row: Any) -> tuple[tuple, None]:
            slopes, _, progress = state
            increment = sum(weighted_sum(a, k) for a, k in zip(row.a, slopes, strict=True))
            base, stage_t = barrier(start + size * increment), t + row.c.astype(h.dtype) * h

            def residual(k: Array) -> Array:
                return k - stiff(stage_t, base + (table.gamma * size) * k)

            guess = weighted_sum(row.guess, slopes[0])
            slope, progress = newton.solve(residual, guess, progress)
            last = barrier(base + (table.gamma * size) * slope)
            new = slope, *(barrier(part(stage_t, last)) for part in other)
            slopes = tuple(
                lax.dynamic_update_index_in_dim(k, new, row.index, 0)
                for k, new in zip(slopes, new, strict=True)
            )
            return (slopes, last, progress), None

        first = (k.reshape(1, *start.shape) for k in jax.tree.leaves(solver_state))
        rest = jnp.zeros((table.stages - 1, *start.shape), start.dtype)
        slopes = tuple(jnp.concatenate([k, rest]) for k in first)
        status = self.failure_status(jacobian, start)
        status = check_jacobian(status, stiff, t, start, h, around.slope)
        state = slopes, start, initial_progress(size, status)
        (slopes, last, progress), _ = lax.scan(stage, state, self._rows(y, len(parts)))
        return _EsdirkStages(slopes, last, solve, progress)

    def _rows(self, y: Array, parts: int) -> "_EsdirkStage":
        """The coefficients of the stages from the second on, as arrays."""
        table, real = self.table, jnp.finfo(y.dtype).dtype
        explicit = self.tableau.explicit if isinstance(self.tableau, ImexTableau) else ()

        below = [row[:-1] for row in table.a[1:]]
        rows = tuple(padded_rows(rows, real) for rows in (below, explicit)[:parts])
        index = jnp.arange(1, table.stages, dtype=jnp.int32)
        return _EsdirkStage(
            rows, jnp.array(table.c[1:], real), padded_rows(table.guesses, real), index
        )


class _EsdirkStage(NamedTuple):
    """The tableau coefficients of a stage."""

    a: tuple[Array, ...]
    c: Array
    guess: Array
    index: Array


class _EsdirkStages(NamedTuple):
    """The stages of a step: slopes per part of the field, last state, linear solver, progress."""

    slopes: tuple[Array, ...]
    last: Array
    solve: Callable[[Array], Array]
    progress: NewtonProgress
