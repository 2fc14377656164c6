"""The step of symplectic splitting methods, drifts and kicks, for any tableau."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field
from .. import dense_output
from ..base import EvaluationCounts, StepResult, TableauSolver
from .partitioned import Partitioned, halves, joined
from .splitting_tableau import SymplecticTableau


class Symplectic(Partitioned, TableauSolver):
    r"""Base class of symplectic solvers of $\dot q = f_q(t, p)$, $\dot p = f_p(t, q)$, fixed steps.

    A subclass gives the `tableau`. The state is a pair `(q, p)` of equal
    structure and shapes, or one array whose first axis holds q and then p; the field returns
    `(dq, dp)`. Each drift and each kick evaluates one half of it.

    A field whose `dq` depends on q, or `dp` on p, costs the order and the symplectic
    structure, and is not detected. The energy error stays bounded for steps of one size alone.

    Source: E. Hairer, C. Lubich, G. Wanner, Geometric Numerical Integration (2006), II.5 and IX.8.
    """

    tableau: ClassVar[SymplecticTableau]
    reversible: ClassVar[bool] = True

    @property
    def error_exponent(self) -> int | None:
        return None

    @property
    def evaluations(self) -> EvaluationCounts:
        first = int(self.tableau.first_same_as_last)
        return EvaluationCounts(first, len(self.tableau.flows) - first, 5 if self._quintic else 2)

    @property
    def num_dense(self) -> int:
        return 5 if self._quintic else 3

    @property
    def _quintic(self) -> bool:
        """True if dense output is a quintic, else the cubic Hermite interpolant."""
        return self.order > 4

    def init(self, field: Field, t: Array, y: Array) -> Any:
        half = self.tableau.flows[0][0]
        return field(t, y, half) if self.tableau.first_same_as_last else ()

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        scale, state, slopes = h.astype(jnp.finfo(y.dtype).dtype), list(halves(y)), []
        for half, length, flow_t in self.tableau.flows:
            if not slopes and self.tableau.first_same_as_last:
                slope = solver_state
            else:
                slope = lax.optimization_barrier(field(t + flow_t * h, joined(*state), half))
            slopes.append(slope)
            state[half] = state[half] + (length * scale) * slope
        y1 = joined(*state)
        solver_state1 = slopes[-1] if self.tableau.first_same_as_last else ()
        ends = slopes[0], slopes[-1]
        dense = None if needs_dense is None else self._dense(field, t, y, y1, h, ends, needs_dense)
        return StepResult(y1, None, dense, solver_state1)

    def step_back(
        self, field: Field, t: Array, y1: Array, h: Array, solver_state1: Any
    ) -> tuple[Array, Any]:
        scale, state, slope = h.astype(jnp.finfo(y1.dtype).dtype), list(halves(y1)), None
        for half, length, flow_t in reversed(self.tableau.flows):
            if slope is None and self.tableau.first_same_as_last:
                slope = solver_state1
            else:
                slope = lax.optimization_barrier(field(t + flow_t * h, joined(*state), half))
            state[half] = state[half] - (length * scale) * slope
        return joined(*state), slope if self.tableau.first_same_as_last else ()

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return dense_output.evaluate(theta, y, dense)

    def _dense(
        self,
        field: Field,
        t: Array,
        y: Array,
        y1: Array,
        h: Array,
        ends: tuple[Array, Array],
        needs_dense: Array | bool,
    ) -> tuple[Array, ...]:
        """The coefficients; `ends` is the half of the slope at each end that the step computed."""
        scale = h.astype(jnp.finfo(y.dtype).dtype)

        def slope(t: Array, y: Array, half: int, computed: Array) -> Array:
            other = field(t, y, 1 - half)
            return scale * (joined(other, computed) if half else joined(computed, other))

        def polynomial() -> tuple[Array, ...]:
            first, last = self.tableau.flows[0][0], self.tableau.flows[-1][0]
            start, end = slope(t, y, first, ends[0]), slope(t + h, y1, last, ends[1])
            cubic = dense_output.cubic(y, y1, start, end)
            if not self._quintic:
                return cubic
            return dense_output.quintic(lambda theta, y: scale * field(t + theta * h, y), y, cubic)

        def linear() -> tuple[Array, ...]:
            # Dense output may still be read at the end of the step.
            return (y1 - y, *(jnp.zeros_like(y),) * (self.num_dense - 1))

        return polynomial() if needs_dense is True else lax.cond(needs_dense, polynomial, linear)
