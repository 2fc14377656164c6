"""The one Rosenbrock step, shared by every tableau: linear systems, and no iteration."""

from typing import Any, ClassVar

from jax import Array, lax

from ..control import PID, Controller
from .implicit import Implicit, combined, flattened
from .solver import Evaluations, Field, Stepped
from .tableaus.rosenbrock import RosenbrockTableau


class Rosenbrock(Implicit):
    """A Rosenbrock solver: `tableau` is its whole difference from the others.

    A step takes the Jacobian at its start once and factorises one matrix, for all its stages.
    """

    tableau: ClassVar[RosenbrockTableau]

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def error_order(self) -> int:
        return min(self.tableau.order, self.tableau.embedded_order) + 1

    @property
    def evaluations(self) -> Evaluations:
        return Evaluations(0, self.tableau.stages, 0)

    @property
    def num_dense(self) -> int:
        return len(self.tableau.dense[0])

    def controller(self) -> Controller:
        return PID(pcoeff=0.4, icoeff=0.3, factor_max_first=1e4)

    def step(
        self, field: Field, t: Array, y: Array, h: Array, carry: Any, inside: Array | bool | None
    ) -> Stepped:
        return self.step_and_jacobian(field, t, y, h, inside)[0]

    def step_and_jacobian(
        self, field: Field, t: Array, y: Array, h: Array, inside: Array | bool | None
    ) -> tuple[Stepped, Any]:
        """The step, and the Jacobian at its start."""
        table, shape = self.tableau, y.shape
        flat, size = flattened(field, y), h.astype(y.dtype)
        y = y.reshape(-1, *t.shape)
        slope, slope_t, jacobian = self.linearised(flat, t, y)
        solve = self.system(jacobian, 1 / (table.gamma * size))
        # Each state and each stage once: else XLA computes it again in every sum that it enters.
        once, stages = lax.optimization_barrier, []
        for i, (c, d) in enumerate(zip(table.c, table.d, strict=True)):
            if i:
                at = once(y + combined(table.a[i - 1], stages))
                coupled = self.mass_times(combined(table.C[i - 1], stages) / size)
                slope = flat(t + c * h, at) + coupled
            stages.append(once(solve(slope + (d * size) * slope_t)))

        def shaped(row: tuple[float, ...]) -> Array:
            return combined(row, stages).reshape(shape)

        y1 = y + combined(table.m, stages)
        dense = None if inside is None else tuple(map(shaped, zip(*table.dense, strict=True)))
        trouble = self.trouble_of(jacobian, stages[0])
        return Stepped(y1.reshape(shape), shaped(table.error), dense, (), trouble), jacobian
