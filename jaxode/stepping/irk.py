"""The one step of fully implicit collocation methods, shared by every tableau."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import linalg
from ..control import PID, Controller, Tolerance
from .implicit import Implicit, flattened, weighted
from .newton import Measure, Newton, Progress, no_progress
from .solver import Evaluations, Field, Stepped
from .tableaus.irk import CollocationTableau


class Collocation(Implicit):
    """A collocation solver: `tableau` is its whole difference from the others.

    All stages of a step are one system. Its unknowns are the increments of the state up to each
    stage; its iteration has the Jacobian at the start of the step and one matrix.
    """

    tableau: ClassVar[CollocationTableau]
    iterates: ClassVar[bool] = True

    tolerance: Tolerance | None = None

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def error_order(self) -> int | None:
        embedded = self.tableau.embedded_order
        return None if embedded is None else min(self.tableau.order, embedded) + 1

    @property
    def evaluations(self) -> Evaluations:
        return Evaluations(0, 1, 0)  # with the Jacobian of a step comes a value

    @property
    def num_dense(self) -> int:
        return max([self.tableau.stages, *map(len, self.tableau.corrections)])

    def within(self, tolerance: Tolerance | None) -> "Collocation":
        return dataclasses.replace(self, tolerance=tolerance)

    def controller(self) -> Controller:
        return PID(pcoeff=0.4, icoeff=0.3, factor_max_first=1e4, dead_band=(1.0, 1.2))

    def step(
        self, field: Field, t: Array, y: Array, h: Array, carry: Any, inside: Array | bool | None
    ) -> Stepped:
        table, size = self.tableau, h.astype(y.dtype)
        flat, start = flattened(field, y), y.reshape(-1, *t.shape)
        around = self.linearised(flat, t, start)
        z, progress = self._increments(flat, t, start, h, around.jacobian, y)
        powers = [weighted(column, z) for column in zip(*table.increments, strict=True)]
        last = z[-1] if table.stiffly_accurate else functools.reduce(operator.add, powers)
        y1, count = lax.optimization_barrier(start + last), progress.count
        if inside is None:
            around = lax.stop_gradient(around)  # dense output alone is differentiated by it
        filtered = self.scaled_system(around.jacobian, table.gamma0 * size)
        defect = filtered(size * around.slope - self.mass_times(powers[0]))
        error, dense = None, None
        if table.embedded_order is not None:
            error = (table.gamma0 * defect).reshape(y.shape)
        if inside is not None:
            defects = [defect]
            if len(table.corrections) == 2:
                slope = functools.reduce(operator.add, (i * p for i, p in enumerate(powers, 1)))
                defects.append(filtered(size * flat(t + h, y1) - self.mass_times(slope)))
                count = count + 1
            dense = tuple(p.reshape(y.shape) for p in self._corrected(powers, defects))
        return Stepped(y1.reshape(y.shape), error, dense, carry, progress.trouble, iterations=count)

    def _increments(
        self, flat: Field, t: Array, start: Array, h: Array, jacobian: Array, y: Array
    ) -> tuple[Array, Progress]:
        """The increments of all stages, `(stages, n)` or `(stages, n, lanes)`."""
        size, stages = h.astype(y.dtype), self.tableau.stages
        # Nothing is differentiated by the matrix of the iteration.
        jacobian = lax.stop_gradient(jacobian)
        measure = Measure(self.tolerance, y, jnp.ones_like(size))
        newton = Newton(self._whole_system(jacobian, size), measure, stages)
        none = jnp.zeros((stages * start.shape[0], *t.shape), y.dtype)
        begin = no_progress(size, self.trouble_of(jacobian))
        z, progress = newton.solve(self._residual(flat, t, start, h), none, begin)
        return z.reshape(stages, *start.shape), progress

    def _corrected(self, powers: list[Array], defects: list[Array]) -> list[Array]:
        """The coefficients of the collocation polynomial with its slopes at the ends put right."""
        columns = list(zip(*self.tableau.corrections, strict=True))
        terms = [[power] for power in powers] + [[] for _ in columns[len(powers) :]]
        for column, term in zip(columns, terms, strict=False):
            term += [b * defect for b, defect in zip(column, defects, strict=True)]
        return [functools.reduce(operator.add, term) for term in terms]

    def _residual(self, flat: Field, t: Array, y: Array, h: Array) -> Callable[[Array], Array]:
        """`M z_i - h sum_j A_ij f(t + c_j h, y + z_j)`, stage after stage in one vector."""
        A = jnp.array(self.tableau.A, jnp.finfo(y.dtype).dtype)
        times = jax.vmap(lambda c: t + c.astype(h.dtype) * h)(jnp.array(self.tableau.c))

        def residual(z: Array) -> Array:
            z = z.reshape(len(A), *y.shape)
            slopes = lax.optimization_barrier(jax.vmap(flat)(times, y + z))
            sums = jax.vmap(weighted, (0, None))(A, slopes)
            return (jax.vmap(self.mass_times)(z) - h.astype(y.dtype) * sums).reshape(-1, *t.shape)

        return residual

    def _whole_system(self, jacobian: Array, size: Array) -> Callable[[Array], Array]:
        """`b -> x` with the Jacobian of that residual times `x` equal to `b`."""
        s, n = self.tableau.stages, jacobian.shape[0]
        wide = (s, 1, s, 1) + (1,) * size.ndim
        A = jnp.array(self.tableau.A, jacobian.dtype).T.reshape(wide)
        one = jnp.eye(s, dtype=jacobian.dtype).reshape(wide)
        mass = self.matrix(jacobian, size)
        whole = one * mass[None, :, None] - size * A * jacobian[None, :, None]
        shape = (s * n, s * n, *size.shape)
        return linalg.solver_of(lax.optimization_barrier(whole.reshape(shape)))
