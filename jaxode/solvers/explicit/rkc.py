"""The stabilised explicit Runge-Kutta-Chebyshev solver, for problems stiff by diffusion."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import ArrayLike

from ...problem.field import Field
from ...problem.validation import check_positive
from .. import dense_output
from ..base import EvaluationCounts, Solver, StepResult
from ..step_size import PID, Controller
from . import chebyshev

# Iterations of the power method before the first step; each step adds one.
_INITIAL_ITERATIONS = 16
# Safety factor, as the power method approaches the spectral radius from below.
_SAFETY = 1.2


class RKCState(NamedTuple):
    """The solver state: slope at the start of a step, and dominant eigenvector (power method)."""

    slope: Array
    direction: Any


class RKC2(Solver):
    r"""The Runge-Kutta-Chebyshev method of order 2, adaptive. Dense output: cubic Hermite.

    For fields whose Jacobian has its eigenvalues near the negative real axis, such as diffusion on
    a grid: a step of $s$ stages is stable for $h \rho \le 0.65 (s^2 - 1)$, where $\rho$ is the
    spectral radius, so the work of a step grows with the root of its size alone. Each step takes as
    few stages as stability allows, 2 to 512. It is not stable for waves and convection, whose
    eigenvalues lie far from the real axis.

    $\rho$ is estimated by the power method on differences of the field, with one more evaluation in
    each step. The gradient holds the numbers of stages constant, like the step sizes.

    - `spectral_radius`: a bound of $\rho$ for the whole solve, if you know one: a positive number.

    **Raises:** `OptionError` for a bound that is no positive number.

    Source: B. P. Sommeijer, L. F. Shampine, J. G. Verwer, RKC: an explicit solver for parabolic
    PDEs, J. Comput. Appl. Math. 88 (1998).
    """

    names: ClassVar[tuple[str, ...]] = ("rkc2",)
    stateless: ClassVar[bool] = False  # the power method continues from step to step
    counts_evaluations: ClassVar[bool] = True
    increment: ClassVar[chebyshev.Increment] = staticmethod(chebyshev.increment)

    spectral_radius: ArrayLike | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        check_positive("spectral_radius of RKC2", self.spectral_radius)

    @property
    def order(self) -> int:
        return 2

    @property
    def error_exponent(self) -> int | None:
        return 3

    @property
    def evaluations(self) -> EvaluationCounts:
        return (
            EvaluationCounts(1 + _INITIAL_ITERATIONS, 2, 0)
            if self.spectral_radius is None
            else EvaluationCounts(1, 1, 0)
        )

    @property
    def num_dense(self) -> int:
        return 3

    def why_no_kernel(self) -> str:
        return f"{type(self).__name__} takes more stages in some steps than in others"

    def for_forward_mode(self) -> Solver:
        return _RKC2WithoutVJP(spectral_radius=self.spectral_radius)

    def default_controller(self) -> Controller:
        return PID(pcoeff=0.4, icoeff=0.3)

    def init(self, field: Field, t: Array, y: Array) -> Any:
        slope = field(t, y)
        if self.spectral_radius is not None:
            return RKCState(slope, ())
        power, real = _power_method(field, t, y, slope), jnp.finfo(y.dtype).dtype
        initial = jnp.sin(jnp.arange(1.0, y.size + 1, dtype=real) ** 2).reshape(y.shape)
        direction = (initial / _length(initial, t)).astype(y.dtype)
        return RKCState(
            slope, lax.fori_loop(0, _INITIAL_ITERATIONS, lambda _, v: power(v)[1], direction)
        )

    def slope(self, solver_state: Any) -> Array | None:
        return solver_state.slope

    def move_state(
        self, move: Callable[[Array, Array], Array], solver_state: Any, other: Any
    ) -> RKCState:
        return solver_state._replace(slope=move(solver_state.slope, other.slope))

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        scale, (slope, direction) = h.astype(jnp.finfo(y.dtype).dtype), solver_state
        radius, direction = self._radius(field, t, y, solver_state)
        size = lax.stop_gradient(jnp.abs(scale)) * radius
        stages = chebyshev.stages_for(size)
        stable = stages <= chebyshev.MAX_STAGES
        stages = jnp.where(stable, stages, 2)
        closed, consts = jax.closure_convert(field, t, y)
        step = chebyshev.ChebyshevStep(consts, t, scale, y, slope, stages)
        increment = self.increment(closed, step)
        # NaN rejects a step that no number of stages makes stable.
        y1 = jnp.where(stable, y + increment, jnp.nan)
        slope1 = lax.optimization_barrier(field(t + h, y1))
        error = 0.4 * scale * (slope + slope1) - 0.8 * increment
        dense = None
        if needs_dense is not None:
            dense = dense_output.cubic(y, y1, scale * slope, scale * slope1)
        return StepResult(
            y1,
            error,
            dense,
            RKCState(slope1, direction),
            max_next_step=0.9 * chebyshev.stability_limit(chebyshev.MAX_STAGES) / radius,
            extra_evaluations=stages.astype(jnp.int32) - 1,
        )

    def _radius(
        self, field: Field, t: Array, y: Array, solver_state: RKCState
    ) -> tuple[Array, Any]:
        """A bound of the spectral radius, and the direction for the next step."""
        if self.spectral_radius is None:
            power = _power_method(field, t, y, solver_state.slope)
            return power(lax.stop_gradient(solver_state.direction))
        radius = jnp.asarray(self.spectral_radius, jnp.finfo(y.dtype).dtype)
        return lax.stop_gradient(jnp.broadcast_to(radius, t.shape)), ()

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return dense_output.evaluate(theta, y, dense)


class _RKC2WithoutVJP(RKC2):
    """RKC2 without the rule for reverse mode, which would exclude forward mode."""

    increment: ClassVar[chebyshev.Increment] = staticmethod(chebyshev.increment_without_vjp)


def _power_method(
    field: Field, t: Array, y: Array, slope: Array
) -> Callable[[Array], tuple[Array, Array]]:
    """An iteration of the power method: from a direction, a bound of the radius and a direction.

    It has no derivative.
    """
    closed, consts = jax.closure_convert(field, t, y)
    consts, t, y, slope = lax.stop_gradient((consts, t, y, slope))
    size = _length(y, t)
    distance = jnp.finfo(y.dtype).eps ** 0.5 * jnp.where(size > 0, size, 1)

    def power(direction: Array) -> tuple[Array, Array]:
        near = lax.optimization_barrier(y + distance * direction)
        change = closed(t, near, *consts) - slope
        size = _length(change, t)
        valid = jnp.isfinite(size) & (size > 0)
        next_direction = jnp.where(valid, change / jnp.where(valid, size, 1), direction)
        return jnp.where(valid, _SAFETY * size / distance, 0), next_direction

    return power


def _length(x: Array, t: Array) -> Array:
    """The Euclidean norm, per lane; its squares neither overflow nor vanish."""
    axes = tuple(range(x.ndim - t.ndim))
    largest = jnp.max(jnp.abs(x), axes)
    unit = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
    return unit * jnp.sqrt(jnp.sum(jnp.abs(x / unit) ** 2, axes))
