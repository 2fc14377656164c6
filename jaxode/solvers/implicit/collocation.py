"""The step of fully implicit collocation methods, for any tableau."""

import functools
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.errors import OptionError
from ...problem.field import Field
from ..base import EvaluationCounts, StepResult, TableauSolver
from ..linear import Dense, solver_of
from ..step_size import PID, Controller, Tolerance
from .base import Implicit, flattened_field, weighted_sum, without_gradient
from .collocation_tableau import CollocationTableau, EigenBlock
from .jacobian_check import check_jacobian
from .newton import IncrementNorm, Newton, NewtonProgress, initial_progress

Solve = Callable[[Array], Array]

# The estimate is of lower order than the step, whose error is far smaller: with a larger kappa, the
# error of the iteration would dominate it, and accumulate over the steps.
_KAPPA = 1e-4


class Collocation(Implicit, TableauSolver):
    """Base class of collocation solvers; a subclass gives the `tableau`.

    All stages of a step are one system, whose unknowns are the increments of the state up to each
    stage. Newton's iteration uses the Jacobian at the start of the step, and decouples into systems
    of one and of two states (Hairer and Wanner II, IV.8).
    """

    tableau: ClassVar[CollocationTableau]
    counts_evaluations: ClassVar[bool] = True

    tolerance: Tolerance | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        if self.tableau.stages > 1 and not isinstance(self.linear_solver, Dense):
            raise OptionError(
                f"{type(self).__name__} has stages that are solved together and takes "
                f"linear_solver=Dense() alone, got {self.linear_solver!r}: use an ESDIRK or a "
                "Rosenbrock solver"
            )

    @property
    def evaluations(self) -> EvaluationCounts:
        # The Jacobian of a step comes with a value, and the user's is tested by one.
        dense = int(len(self.tableau.corrections) == 2)
        return EvaluationCounts(0, 1 + (self.jac is not None), dense)

    @property
    def num_dense(self) -> int:
        return max([self.tableau.stages, *map(len, self.tableau.corrections)])

    def default_controller(self) -> Controller:
        return PID(pcoeff=0.2, icoeff=0.6, safety=0.8, factor_max_first=1e4)

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        table, size = self.tableau, h.astype(y.dtype)
        flat, start = flattened_field(field, y), y.reshape(-1, *t.shape)
        around = self.linearise(flat, t, start)
        if needs_dense is None:
            around = without_gradient(around)  # dense output alone depends on it
        filtered = self.scaled_system(around.jacobian, table.gamma0 * size)
        jacobian = without_gradient(around.jacobian)
        status = self.failure_status(jacobian, start)
        status = check_jacobian(status, flat, t, start, h, around.slope)
        begin = initial_progress(size, status)
        z, progress = self._increments(flat, t, h, y, jacobian, filtered, begin)
        powers = [weighted_sum(column, z) for column in zip(*table.increments, strict=True)]
        last = z[-1] if table.stiffly_accurate else functools.reduce(operator.add, powers)
        y1 = lax.optimization_barrier(start + last)
        error, dense = None, None
        defects = [filtered(size * around.slope - self.mass_times(powers[0]))]
        if table.embedded_order is not None:
            error = (table.gamma0 * defects[0]).reshape(y.shape)
        if needs_dense is not None:
            if len(table.corrections) == 2:
                slope = functools.reduce(operator.add, (i * p for i, p in enumerate(powers, 1)))

                def end_defect() -> Array:
                    return filtered(size * flat(t + h, y1) - self.mass_times(slope))

                zeros = functools.partial(jnp.zeros_like, start)
                always = needs_dense is True
                defects.append(end_defect() if always else lax.cond(needs_dense, end_defect, zeros))
            dense = tuple(p.reshape(y.shape) for p in self._corrected(powers, defects))
        y1, status, evaluations = y1.reshape(y.shape), progress.status, progress.evaluations
        return StepResult(y1, error, dense, solver_state, status, extra_evaluations=evaluations)

    def _increments(
        self,
        flat: Field,
        t: Array,
        h: Array,
        y: Array,
        jacobian: Any,
        filtered: Solve,
        begin: NewtonProgress,
    ) -> tuple[Array, NewtonProgress]:
        """The increments of all stages, `(stages, n)` or `(stages, n, lanes)`."""
        start, size, s = y.reshape(-1, *t.shape), h.astype(y.dtype), self.tableau.stages
        correct = self._correction(jacobian, size, filtered)
        newton = Newton(correct, IncrementNorm(self.tolerance, y, jnp.ones_like(size)), s, _KAPPA)
        guess = jnp.zeros((s * start.shape[0], *t.shape), y.dtype)
        z, progress = newton.solve(self._residual(flat, t, start, h), guess, begin)
        return z.reshape(s, *start.shape), progress

    def _correction(self, jacobian: Any, size: Array, filtered: Solve) -> Solve:
        r"""The map `b -> x` that solves the residual's linearisation with this Jacobian for `x`.

        With $A^{-1} T = T \Lambda$ that is $x = T w$ and $(\Lambda \otimes M - h I \otimes J) w =
        \Lambda T^{-1} b$. `filtered` solves for the real eigenvalue.
        """
        s, systems = self.tableau.stages, []
        for block in self.tableau.blocks:
            real = len(block.matrix) == 1
            systems.append((block, filtered if real else self._paired(jacobian, size, block)))

        def correct(b: Array) -> Array:
            b = b.reshape(s, -1, *size.shape)
            terms = []
            for block, solve in systems:
                projected = _matrix_times(block.project, b)
                w = solve(projected.reshape(-1, *size.shape))
                terms.append(_matrix_times(block.basis, w.reshape(projected.shape)))
            return functools.reduce(operator.add, terms).reshape(-1, *size.shape)

        return correct

    def _paired(self, jacobian: Array, size: Array, block: EigenBlock) -> Solve:
        """The solver of the system of two states that belongs to a pair of complex eigenvalues."""
        n, axes = jacobian.shape[0], (2, 1, 2, 1) + (1,) * size.ndim
        mass = jnp.eye(n) if self.mass is None else jnp.asarray(self.mass).T
        mass = mass.astype(jacobian.dtype).reshape((n, n) + (1,) * size.ndim)
        by_columns = jnp.array(block.matrix, jacobian.dtype).T.reshape(axes)
        identity = jnp.eye(2, dtype=jacobian.dtype).reshape(axes)
        matrix = by_columns * mass[None, :, None] - identity * (size * jacobian)[None, :, None]
        return solver_of(lax.optimization_barrier(matrix.reshape(2 * n, 2 * n, *size.shape)))

    def _corrected(self, powers: list[Array], defects: list[Array]) -> list[Array]:
        """The coefficients of the collocation polynomial, corrected to the slopes at the ends."""
        columns = list(zip(*self.tableau.corrections, strict=True))
        terms = [[power] for power in powers] + [[] for _ in columns[len(powers) :]]
        for column, term in zip(columns, terms, strict=False):
            term += [b * defect for b, defect in zip(column, defects, strict=True)]
        return [functools.reduce(operator.add, term) for term in terms]

    def _residual(self, flat: Field, t: Array, y: Array, h: Array) -> Callable[[Array], Array]:
        """The function `z -> M z_i - h sum_j A_ij f(t + c_j h, y + z_j)`, all stages one vector."""
        stages = self.tableau.stages
        times = jax.vmap(lambda c: t + c.astype(h.dtype) * h)(jnp.array(self.tableau.c))

        def residual(z: Array) -> Array:
            z = z.reshape(stages, *y.shape)
            slopes = lax.optimization_barrier(jax.vmap(flat)(times, y + z))
            sums = _matrix_times(self.tableau.A, slopes)
            return (jax.vmap(self.mass_times)(z) - h.astype(y.dtype) * sums).reshape(-1, *t.shape)

        return residual


def _matrix_times(rows: Any, vectors: Array) -> Array:
    """The product of the matrix `rows` and `vectors`, over their first axis."""
    rows = jnp.array(rows, jnp.finfo(vectors.dtype).dtype)
    return jax.vmap(weighted_sum, (0, None))(rows, vectors)
