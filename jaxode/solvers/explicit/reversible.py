"""Algebraically reversible solvers: the backward pass needs no stored states."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import ArrayLike

from ...problem.errors import OptionError
from ...problem.field import Field
from ...problem.validation import check_positive, real_number
from .. import dense_output
from ..base import EvaluationCounts, Solver, StepResult
from .runge_kutta import ExplicitRungeKutta

# Weight of the growth of the gap in the error estimate, as it accumulates over steps.
_GAP_WEIGHT = 10.0


class ReversibleRK(Solver):
    r"""The reversible version of an explicit Runge-Kutta solver, with its order and error estimate.

    With $\Psi_h(t, y)$ the increment of a step of `base`, two copies of the state step alternately:
    $y_{n+1} = \lambda y_n + (1 - \lambda) z_n + \Psi_h(t_n, z_n)$ and
    $z_{n+1} = z_n - \Psi_{-h}(t_{n+1}, y_{n+1})$. A step costs two of `base`. Dense output is that
    of `base` plus a linear term, so that it meets both ends of the step.

    - `base`: the explicit Runge-Kutta solver.
    - `coupling`: $\lambda$, in (0, 1]. It damps the gap between the copies, by $\lambda$ in each
      step. None: $\lambda = e^{-r |h|}$, as much in a unit of time however many steps that takes.
    - `rate`: that $r$, per unit of time. None: `jo.Reversible` chooses it by the span of times.

    Where solutions approach each other at a rate $k$, the gap is multiplied by
    $\lambda e^{k |h|}$: a given coupling lets it grow in steps above $(1 - \lambda) / k$, a rate
    where $k$ is above it. A step back multiplies rounding errors by up to $1 / \lambda$.

    **Raises:** `OptionError` for another base, coupling or rate, and for a step with neither.

    Source: S. McCallum, J. Foster, Efficient, accurate and stable gradients for neural ODEs (2024),
    arXiv 2410.11648; there $\lambda$ is a constant.
    """

    base: ExplicitRungeKutta
    coupling: float | None = eqx.field(static=True, default=0.999)
    rate: ArrayLike | None = None
    stateless: ClassVar[bool] = False
    reversible: ClassVar[bool] = True

    def __check_init__(self) -> None:
        if not isinstance(self.base, ExplicitRungeKutta):
            raise OptionError(
                "jo.ReversibleRK needs an explicit Runge-Kutta solver such as jo.Tsit5(), got "
                f"{self.base!r}"
            )
        if self.coupling is not None and not 0 < real_number(self.coupling) <= 1:
            raise OptionError(f"coupling must lie in (0, 1], near one; got {self.coupling!r}")
        if self.coupling is not None and self.rate is not None:
            raise OptionError(
                "give jo.ReversibleRK a coupling or a rate; a rate needs coupling=None"
            )
        check_positive("rate of jo.ReversibleRK", self.rate)

    @property
    def order(self) -> int:
        return self.base.order

    @property
    def error_exponent(self) -> int | None:
        return self.base.error_exponent

    @property
    def evaluations(self) -> EvaluationCounts:
        table = self.base.tableau
        each = 2 * table.stages - table.first_same_as_last
        return EvaluationCounts(0, each, table.extra_stages)

    @property
    def num_dense(self) -> int:
        return self.base.num_dense + 1

    @property
    def needs_rate(self) -> bool:
        return self.coupling is None and self.rate is None

    def init(self, field: Field, t: Array, y: Array) -> Any:
        return y

    def shift_state(self, solver_state: Array, shift: Array) -> Array:
        return solver_state + shift

    def coupling_of(self, h: Array, y: Array) -> Array:
        r"""The coupling $\lambda$ of a step of size `h`, in the real dtype of the state."""
        coupling = self.coupling
        if coupling is None:
            if self.rate is None:
                raise OptionError(
                    "jo.ReversibleRK with coupling=None needs a rate=; jo.Reversible() chooses one"
                )
            coupling = jnp.exp(-jnp.asarray(self.rate) * jnp.abs(h))
        return jnp.asarray(coupling, jnp.finfo(y.dtype).dtype)

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        return self.step_to(field, t, y, h, solver_state, needs_dense, None)

    def step_to(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
        y1: Array | None,
    ) -> StepResult:
        z, base = solver_state, self.base
        first = lax.optimization_barrier(base.init(field, t, z))
        stepped, slopes, _ = base.step_and_stages(field, t, z, h, first, needs_dense)
        coupling = self.coupling_of(h, y)
        computed = z + (coupling * (y - z) + base.increment_of(h, slopes))
        # With a known end, the second half has exactly the stages of the step back.
        end = computed if y1 is None else _with_known_value(computed, y1)
        z1 = z - base.increment(field, t + h, end, -h)
        dense = None
        if stepped.dense is not None:
            dense = ((1 - coupling) * (z - y), *stepped.dense)
        error = stepped.error
        if error is not None:
            grown = jnp.abs(end - z1) - jnp.abs(y - z)
            error = jnp.abs(error) + _GAP_WEIGHT * jnp.maximum(grown, 0)
        return StepResult(end, error, dense, z1)

    def step_back(
        self, field: Field, t: Array, y1: Array, h: Array, solver_state1: Any
    ) -> tuple[Array, Any]:
        z = solver_state1 + self.base.increment(field, t + h, y1, -h)
        increment = self.base.increment(field, t, z, h)
        return z + (y1 - z - increment) / self.coupling_of(h, y1), z

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        correction, *slopes = dense
        inner = self.base.interpolate(theta, y, h, tuple(slopes))
        return inner + theta.astype(jnp.finfo(y.dtype).dtype) * correction


@jax.custom_jvp
def _with_known_value(computed: Array, value: Array) -> Array:
    """The known `value` of `computed`, with the derivative of `computed`."""
    return value


@_with_known_value.defjvp
def _with_known_value_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    return primals[1], tangents[0]


class _AuxiliaryState(Solver):
    """Base class of reversible methods of order 2, with an auxiliary state and one evaluation."""

    stateless: ClassVar[bool] = False
    reversible: ClassVar[bool] = True

    @property
    def order(self) -> int:
        return 2

    @property
    def error_exponent(self) -> int | None:
        return 2

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(1, 1, 0)

    @property
    def num_dense(self) -> int:
        return 2

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return dense_output.evaluate(theta, y, dense)


class ReversibleHeun(_AuxiliaryState):
    r"""The reversible Heun method, order 2, adaptive, one evaluation a step. Dense: quadratic.

    The solver state is $\hat y$, with its slope $\hat f$:
    $\hat y_{n+1} = 2 y_n - \hat y_n + h \hat f_n$ and
    $y_{n+1} = y_n + \frac h2 (\hat f_n + \hat f_{n+1})$. Stable for oscillations alone: where
    solutions approach each other, the gap between $y$ and $\hat y$ grows as fast as they do.

    Source: P. Kidger, J. Foster, X. Li, T. Lyons, Efficient and accurate gradients for neural SDEs
    (2021), arXiv 2105.13493, algorithms 1 and 2.
    """

    names: ClassVar[tuple[str, ...]] = ("reversible_heun",)

    def init(self, field: Field, t: Array, y: Array) -> Any:
        return y, field(t, y)

    def shift_state(self, solver_state: tuple[Array, Array], shift: Array) -> tuple[Array, Array]:
        return solver_state[0] + shift, solver_state[1]

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        scale, (auxiliary, slope) = h.astype(jnp.finfo(y.dtype).dtype), solver_state
        auxiliary1 = (y - auxiliary) + (y + scale * slope)
        slope1 = lax.optimization_barrier(field(t + h, auxiliary1))
        half = scale / 2
        dense = (
            None if needs_dense is None else dense_output.parabola(scale * slope, scale * slope1)
        )
        # The error of Euler's step with the same first slope.
        error = half * (slope1 - slope)
        return StepResult(y + half * (slope + slope1), error, dense, (auxiliary1, slope1))

    def step_back(
        self, field: Field, t: Array, y1: Array, h: Array, solver_state1: Any
    ) -> tuple[Array, Any]:
        scale, (auxiliary1, slope1) = h.astype(jnp.finfo(y1.dtype).dtype), solver_state1
        auxiliary = (y1 - auxiliary1) + (y1 - scale * slope1)
        slope = lax.optimization_barrier(field(t, auxiliary))
        return y1 - (scale / 2) * (slope + slope1), (auxiliary, slope)

    def slope(self, solver_state: Any) -> Array | None:
        return solver_state[1]


class AsynchronousLeapfrog(_AuxiliaryState):
    r"""The asynchronous leapfrog method, adaptive, one evaluation a step. Dense output: quadratic.

    The solver state is a velocity $v$ near the slope. With $u$ the field in the middle of the
    step, at $y_n + \frac h2 v_n$, it takes $v_{n+1} = v_n + 2 \eta (u - v_n)$ and
    $y_{n+1} = y_n + \frac h2 (v_n + v_{n+1})$.

    - `damping`: $\eta$, in (1/2, 1]. One, the default, damps nothing and has order 2, stable for
      oscillations alone; a smaller one damps the error of $v$ by $2 \eta - 1$ in each step, has
      order 1, and a step back multiplies rounding errors by up to $1 / (2 \eta - 1)$.

    **Raises:** `OptionError` for another damping.

    Source: U. Mutze, An asynchronous leapfrog method II (2013), arXiv 1311.6602; J. Zhuang et al.,
    MALI: a memory efficient and reverse accurate integrator for neural ODEs (2021), arXiv
    2102.04668, algorithms 2 and 3 and appendix A.
    """

    names: ClassVar[tuple[str, ...]] = ("asynchronous_leapfrog",)
    damping: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        if not 0.5 < real_number(self.damping) <= 1:
            raise OptionError(f"damping must lie in (1/2, 1], got {self.damping!r}")

    @property
    def order(self) -> int:
        return 2 if self.damping == 1 else 1

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
        half, v = h.astype(jnp.finfo(y.dtype).dtype) / 2, solver_state
        middle = y + half * v
        u = lax.optimization_barrier(field(t + h / 2, middle))
        v1 = v + 2 * self.damping * (u - v)
        dense = None if needs_dense is None else dense_output.parabola(2 * half * v, 2 * half * v1)
        # The error of Euler's step with the same velocity.
        return StepResult(middle + half * v1, half * (v1 - v), dense, v1)

    def step_back(
        self, field: Field, t: Array, y1: Array, h: Array, solver_state1: Any
    ) -> tuple[Array, Any]:
        half, v1 = h.astype(jnp.finfo(y1.dtype).dtype) / 2, solver_state1
        middle = y1 - half * v1
        u = lax.optimization_barrier(field(t + h / 2, middle))
        v = (v1 - 2 * self.damping * u) / (1 - 2 * self.damping)
        return middle - half * v, v
