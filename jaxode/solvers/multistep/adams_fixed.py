"""Adams methods of order four with fixed steps: Bashforth's, and Moulton's as a corrector.

Source: E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I (1993),
section III.1, (1.5) and (1.9').
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field
from .. import dense_output
from ..base import EvaluationCounts, Solver, StepResult

_BASHFORTH = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
_MOULTON = (9 / 24, 19 / 24, -5 / 24, 1 / 24)  # the slope at the end of the step comes first


class AdamsHistory(NamedTuple):
    """The slopes at the start of the step and of the three before it, the latest first.

    `count`: how many of those before it are `size` apart.
    """

    slopes: tuple[Array, Array, Array, Array]
    count: Array
    size: Array


class AdamsFixed(Solver):
    """Base class of the two methods. Dense output: cubic Hermite.

    Three steps of the classical Runge-Kutta method start it, and each step of another size starts
    it anew, such as the last one where the span is no multiple of `dt`.
    """

    one_step: ClassVar[bool] = False
    stateless: ClassVar[bool] = False
    counts_evaluations: ClassVar[bool] = True
    corrects: ClassVar[bool] = False

    @property
    def order(self) -> int:
        return 4

    @property
    def error_exponent(self) -> int | None:
        return None

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(1, 1 + self.corrects, 0)

    @property
    def num_dense(self) -> int:
        return 3

    def why_no_kernel(self) -> str | None:
        return f"{type(self).__name__} takes steps of two kinds"

    def init(self, field: Field, t: Array, y: Array) -> AdamsHistory:
        slope = field(t, y)
        none = jnp.zeros_like(slope)
        return AdamsHistory((slope, none, none, none), jnp.zeros(t.shape, jnp.int32), 0 * t)

    def slope(self, solver_state: AdamsHistory) -> Array | None:
        return solver_state.slopes[0]

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: AdamsHistory,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        slopes, count, size = solver_state
        scale = h.astype(jnp.finfo(y.dtype).dtype)
        same = jnp.abs(h - size) <= 8 * jnp.finfo(h.dtype).eps * (jnp.abs(t) + jnp.abs(h))
        count = jnp.where(same, count, 0)
        starts = count < 3

        def runge_kutta() -> Array:
            half = scale / 2
            second = field(t + h / 2, y + half * slopes[0])
            third = field(t + h / 2, y + half * second)
            fourth = field(t + h, y + scale * third)
            return y + scale / 6 * (slopes[0] + 2 * (second + third) + fourth)

        def adams() -> Array:
            end = y + scale * _weighted(_BASHFORTH, slopes)
            if not self.corrects:
                return end
            predicted = field(t + h, end)
            return y + scale * _weighted(_MOULTON, (predicted, *slopes[:3]))

        started = lax.cond(jnp.any(starts), runge_kutta, lambda: y)
        y1 = jnp.where(starts, started, adams())
        slope = lax.optimization_barrier(field(t + h, y1))
        dense = None
        if needs_dense is not None:
            dense = dense_output.cubic(y, y1, scale * slopes[0], scale * slope)
        after = AdamsHistory((slope, *slopes[:3]), jnp.minimum(count + 1, 3), h)
        return StepResult(y1, None, dense, after, extra_evaluations=3 * starts)

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return dense_output.evaluate(theta, y, dense)


def _weighted(weights: tuple[float, ...], slopes: tuple[Array, ...]) -> Array:
    first, *others = (w * slope for w, slope in zip(weights, slopes, strict=True))
    return sum(others, first)


class AdamsBashforth4(AdamsFixed):
    """The explicit Adams method of order 4, fixed steps, one evaluation a step. Dense: cubic."""

    names: ClassVar[tuple[str, ...]] = ("adams_bashforth4", "explicit_adams")


class AdamsMoulton4(AdamsFixed):
    """Moulton's method of order 4 as corrector of Bashforth's, fixed steps. Dense: cubic.

    Evaluated after the prediction and after the correction (PECE): two evaluations a step.
    """

    names: ClassVar[tuple[str, ...]] = ("adams_moulton4", "implicit_adams", "fixed_adams")
    corrects: ClassVar[bool] = True
