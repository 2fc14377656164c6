"""Step-size control: error norms, step-size controllers, and the initial step size."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import ArrayLike

from ..problem.errors import OptionError, unknown_name
from ..problem.state import Packing, is_traced
from ..problem.validation import check_flag, check_pair, check_positive, real_array, real_number

Norm = Callable[[Array], Array]


def mean_square(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """The mean of `|x|^2` over `norm_axes` or all of them, real."""
    return jnp.mean(jnp.real(x * jnp.conj(x)) if jnp.iscomplexobj(x) else x * x, axes)


def rms_norm(x: Array) -> Array:
    """The root mean square of `x`, real."""
    return jnp.sqrt(mean_square(x))


def max_norm(x: Array) -> Array:
    """The largest magnitude in `x`, real."""
    return jnp.max(jnp.abs(x))


NORMS: dict[str, Norm] = {"rms": rms_norm, "max": max_norm}


class Tolerance(eqx.Module):
    """The error tolerance `atol + rtol * |y|`, component by component, and the norm of errors.

    `lanes`: whether the last axis of errors and states counts lanes; each lane has its own norm.
    """

    rtol: Array
    atol: Array
    norm: Norm = eqx.field(static=True)
    lanes: bool = eqx.field(static=True, default=False)

    def scaled_norm(self, error: Array, y: Array) -> Array:
        """The norm of `error` over the tolerance at `y`; its squares do not overflow."""
        scaled = lax.optimization_barrier(error / self._scale(jnp.abs(y)))
        largest = max_norm(scaled)
        unit = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
        return unit * self.norm(scaled / unit)

    def _scale(self, size: Array) -> Array:
        """The tolerance at states of this absolute value, never zero."""
        return jnp.maximum(self.atol + self.rtol * size, jnp.finfo(size.dtype).tiny)

    def scaled_norm_squared(self, error: Array, y: Array, y1: Array) -> Array:
        """The squared norm of the scaled error of a step from `y` to `y1`, accepted if at most 1.

        It is the critical path of the integration loop: so it takes no root, and divides by the
        tolerance before the last slope is known.
        """
        size = jnp.maximum(jnp.abs(y), jnp.abs(y1))
        scaled = error * (1 / self._scale(size))
        if self.norm is rms_norm:
            return mean_square(scaled, self.norm_axes(scaled))
        norm = jax.vmap(self.norm, in_axes=-1) if self.lanes else self.norm
        return norm(scaled) ** 2

    def norm_axes(self, x: Array) -> tuple[int, ...]:
        """The axes of `x` over which a norm is taken."""
        return tuple(range(x.ndim - self.lanes))


class AttemptedStep(NamedTuple):
    """An attempted step as a controller sees it.

    - `h`: its size, positive. `index`: the number of steps accepted before it.
    - `error_squared`: the squared norm of its scaled error; not finite if the step failed.
    - `error_exponent`: the power of `h` with which the error estimate falls.
    - `proposed_factor`: the solver's own proposal of the next step's size over this one's, or None.
    """

    h: Array
    index: Array
    error_squared: Array
    error_exponent: int
    proposed_factor: Array | None = None


class Decision(NamedTuple):
    """Acceptance of an attempted step, the next step's size `h > 0`, the controller's state."""

    accept: Array
    h: Array
    controller_state: Any


class Controller(eqx.Module):
    """Base class of step-size controllers: they accept or reject steps and choose their sizes."""

    adaptive: ClassVar[bool]  # whether step sizes follow the error estimate

    @abc.abstractmethod
    def init(self, h: Array) -> tuple[Array, Any]:
        """The size of the first step, for which `h > 0` is a guess, and the controller's state."""

    @abc.abstractmethod
    def decide(self, attempt: AttemptedStep, controller_state: Any) -> Decision:
        """Accept or reject an attempted step, and choose the size of the next one."""

    def below_minimum(self, h: Array) -> Array | bool:
        """True if the step size `h` is too small to go on; never for prescribed steps."""
        return False

    def longest_step(self) -> ArrayLike | None:
        """The size that no step exceeds; None if there is no such bound."""
        return None


# What a PID controller has where neither it nor a solver says otherwise.
_DEFAULTS = {
    "pcoeff": 0.0, "icoeff": 1.0, "dcoeff": 0.0,
    "safety": 0.9, "factor_min": 0.2, "factor_max": 10.0,
}  # fmt: skip


def _step_times(times: Any) -> Any:
    """The times on which steps end as an array. **Raises:** `OptionError` for others."""
    if times is None:
        return None
    array = real_array("step_ts of a controller", times)
    if array.ndim != 1 or not (is_traced(times) or np.all(np.isfinite(array))):
        raise OptionError(f"step_ts of a controller must be finite times (k,), got {times!r}")
    return array


_LEAST_LOG_ERROR = -16.0  # kept for the next steps, to the base 2


class PID(Controller):
    r"""The PID controller of adaptive step sizes, acting on the logarithm of the error.

    With $\epsilon_n$ the inverse of the scaled error norm and $k$ the power of $h$ in the error
    estimate,
    $h_{n+1} = h_n \cdot \text{safety} \cdot \epsilon_n^{\beta_1} \epsilon_{n-1}^{\beta_2}
    \epsilon_{n-2}^{\beta_3}$, where $\beta_1 = (p + i + d)/k$, $\beta_2 = -(p + 2d)/k$,
    $\beta_3 = d/k$.

    - `pcoeff`, `icoeff`, `dcoeff`: $p$, $i$, $d$, by default 0, 1, 0, the elementary controller.
    - `safety`: the safety factor, by default 0.9. `factor_min`, `factor_max`: bounds of the next
      step's size over this one's, by default 0.2 and 10.
    - `dtmin`: smaller steps end the solve with `Status.STEP_UNDERFLOW`; with `force=True` steps of
      that size are accepted whatever their error, unless they are not finite. `dtmax`: the largest
      step. Both are positive times, or None.
    - `norm`: "rms", "max" or a function from an array to a real scalar, at most one where a step
      is accepted. The array is the scaled error: of a state of one array it has the shape of that,
      of several it is the vector of all. With `norm_of_tree=True` it is a pytree like `y0`.
    - `factor_max_first`: `factor_max` of the first accepted step, whose size was a guess; None for
      no other. `dead_band`: an interval of factors for which the step size stays as it is, which
      saves an implicit solver a factorisation; None for none.
    - `step_ts`: times, shape `(k,)` in any order, on which steps end; the solver does not restart
      there, as it does at `jumps=`. They are constants. Those outside of the solve are ignored.

    Where no coefficient is given, what is None is that of the solver's own controller: so
    `PID(dtmax=0.1)` bounds the steps and changes nothing else.

    **Raises:** `OptionError` for a factor on the wrong side of one, an unknown norm, `force`
    without `dtmin`, or `step_ts` that are no times.

    Source: G. Söderlind, Automatic control and adaptive time-stepping, Numerical Algorithms 31
    (2002); Hairer, Wanner, Solving Ordinary Differential Equations II (1996), IV.2.
    """

    pcoeff: float | None = eqx.field(static=True, default=None)
    icoeff: float | None = eqx.field(static=True, default=None)
    dcoeff: float | None = eqx.field(static=True, default=None)
    safety: float | None = eqx.field(static=True, default=None)
    factor_min: float | None = eqx.field(static=True, default=None)
    factor_max: float | None = eqx.field(static=True, default=None)
    dtmin: ArrayLike | None = None
    dtmax: ArrayLike | None = None
    norm: str | Norm = eqx.field(static=True, default="rms")
    factor_max_first: float | None = eqx.field(static=True, default=None)
    dead_band: tuple[float, float] | None = eqx.field(static=True, default=None)
    force: bool = eqx.field(static=True, default=False)
    step_ts: ArrayLike | None = eqx.field(default=None, converter=_step_times)
    norm_of_tree: bool = eqx.field(static=True, default=False)
    adaptive: ClassVar[bool] = True

    def __check_init__(self) -> None:
        if self.dead_band is not None:
            check_pair("dead_band of a controller", "a pair of factors or None", self.dead_band)
        if check_flag("force of a controller", self.force) and self.dtmin is None:
            raise OptionError("force=True accepts steps of the size dtmin: give dtmin= too")
        *coefficients, safety, factor_min, factor_max = self._numbers()
        low, high, share = map(real_number, (factor_min, factor_max, safety))
        if not 0 < low < 1 < high or not 0 < share <= 1:
            raise OptionError(
                "a controller needs 0 < factor_min < 1 < factor_max and 0 < safety <= 1, got "
                f"factor_min={factor_min}, factor_max={factor_max}, safety={safety}"
            )
        if not all(math.isfinite(real_number(x)) for x in coefficients):
            raise OptionError("pcoeff, icoeff and dcoeff of a controller must be finite numbers")
        check_positive("factor_max_first of a controller", self.factor_max_first)
        _check_bounds(self.dtmin, self.dtmax)
        if not callable(self.norm) and not (isinstance(self.norm, str) and self.norm in NORMS):
            raise unknown_name("norm", str(self.norm), NORMS)
        if check_flag("norm_of_tree of a controller", self.norm_of_tree) and not callable(
            self.norm
        ):
            raise OptionError("norm_of_tree=True needs a function as norm=")

    def _numbers(self) -> tuple[float, ...]:
        """The coefficients, the safety factor and its bounds, the defaults where they are None."""
        return tuple(
            default if getattr(self, name) is None else getattr(self, name)
            for name, default in _DEFAULTS.items()
        )

    def completed(self, own: Controller) -> "PID":
        """This controller with what it does not give from `own`, that of the solver."""
        coefficients = self.pcoeff, self.icoeff, self.dcoeff
        if not isinstance(own, PID) or any(x is not None for x in coefficients):
            return self
        names = [*_DEFAULTS, "factor_max_first", "dead_band"]
        missing = {name: getattr(own, name) for name in names if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def norm_function(self, packing: Packing) -> Norm:
        """The norm as a function of packed states."""
        if not callable(self.norm):
            return NORMS[self.norm]
        if not self.norm_of_tree:
            return self.norm

        def norm(x: Array) -> Array:
            # Parameters, whose cotangents are integrated with the state, are no state.
            if x.size != packing.size:
                return rms_norm(x)
            return self.norm(packing.unpack(x.reshape(packing.packed_shape)))  # pyright: ignore

        return norm

    def init(self, h: Array) -> tuple[Array, Any]:
        """The first step within its bounds; the state: the last two log errors, if used."""
        zero, (p, _, d, *_) = jnp.zeros(h.shape, jnp.float32), self._numbers()
        return self._bound(h), (zero, zero) if p or d else ()

    def decide(self, attempt: AttemptedStep, controller_state: Any) -> Decision:
        """Accept if the scaled error is at most 1; a rejected step is repeated with a smaller one.

        The solver's own proposal replaces the factor of an accepted step.
        """
        log_error = 0.5 * _log2(attempt.error_squared)
        accept = attempt.error_squared <= 1.0
        if self.force:
            # The last step, and one that is stretched to end with it, may be a little longer.
            smallest = attempt.h <= 1.001 * jnp.asarray(self.dtmin, attempt.h.dtype)
            accept = accept | (smallest & jnp.isfinite(attempt.error_squared))
        p, i, d, safety, *_ = self._numbers()
        exponent = (p + i + d) * log_error
        if p or d:
            last, before_last = controller_state
            exponent = exponent - (p + 2 * d) * last + d * before_last
            exponent = jnp.clip(exponent, -100.0, 100.0)
            # An estimate near rounding is noise, of which later steps shall know nothing.
            controller_state = (
                jnp.where(accept, jnp.maximum(log_error, _LEAST_LOG_ERROR), last),
                jnp.where(accept, last, before_last),
            )
        factor = safety * _exp2(exponent / -attempt.error_exponent)
        if attempt.proposed_factor is not None:
            factor = jnp.where(accept, attempt.proposed_factor.astype(factor.dtype), factor)
        factor = self._limited(factor, accept, attempt.index)
        h = self._bound(attempt.h * factor.astype(attempt.h.dtype))
        return Decision(accept, h, controller_state)

    def _limited(self, factor: Array, accept: Array, index: Array) -> Array:
        """The factor within its bounds, and 1 in the dead band."""
        *_, safety, factor_min, factor_max = self._numbers()
        largest = factor_max
        if self.factor_max_first is not None:
            largest = jnp.where(index == 0, self.factor_max_first, largest)
            # From an estimate near rounding: in powers of two, which do not depend on it.
            factor = jnp.where(factor > factor_max, _power_of_two(factor), factor)
        factor = jnp.clip(factor, factor_min, jnp.where(accept, largest, safety))
        if self.dead_band is None:
            return factor
        low, high = self.dead_band
        return jnp.where(accept & (factor >= low) & (factor <= high), 1.0, factor)

    def below_minimum(self, h: Array) -> Array | bool:
        """True if `h` is below `dtmin`."""
        return False if self.dtmin is None else h <= jnp.asarray(self.dtmin, h.dtype)

    def longest_step(self) -> ArrayLike | None:
        """`dtmax`."""
        return self.dtmax

    def _bound(self, h: Array) -> Array:
        if self.dtmin is not None:
            h = jnp.maximum(h, jnp.asarray(self.dtmin, h.dtype))
        return h if self.dtmax is None else jnp.minimum(h, jnp.asarray(self.dtmax, h.dtype))


def _check_bounds(dtmin: Any, dtmax: Any) -> None:
    bounds = [x for x in (dtmin, dtmax) if x is not None]
    if is_traced(bounds):
        return
    low, high = (0.0 if dtmin is None else real_number(dtmin)), real_number(dtmax)
    high = math.inf if dtmax is None else high
    if not 0 <= low < high or (low == 0 and dtmin is not None):
        raise OptionError(f"a controller needs 0 < dtmin < dtmax, got dtmin={dtmin}, dtmax={dtmax}")


def I(**options: Any) -> PID:  # noqa: E743, N802
    """The elementary (integral) controller; takes the other options of `PID`."""
    return PID(pcoeff=0.0, icoeff=1.0, dcoeff=0.0, **options)


def PI(**options: Any) -> PID:  # noqa: N802
    """The proportional-integral controller with coefficients 0.4 and 0.3.

    It takes the other options of `PID`.
    """
    return PID(pcoeff=0.4, icoeff=0.3, dcoeff=0.0, **options)


def _log2(x: Array) -> Array:
    """log2 of `x >= 0` within 0.09, in float32; finite for zero, and large for infinity and NaN.

    The bits of a float, read as an integer, are about its logarithm. One percent is enough for a
    step size, and the exact logarithm would be on the loop's critical path.
    Source: N. Schraudolph, A fast, compact approximation of the exponential function, Neural
    Computation 11 (1999).
    """
    # The sign is dropped, as a NaN may have either.
    bits = lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)
    return bits.astype(jnp.float32) * 2.0**-23 - 127.0


def _exp2(x: Array) -> Array:
    """2^x within 0.3 percent, for float32 `x` between -126 and 127."""
    integer = jnp.floor(x)
    power = lax.bitcast_convert_type((integer.astype(jnp.int32) + 127) << 23, jnp.float32)
    fraction = x - integer
    return power * (1.0 + fraction * (0.6565 + 0.3435 * fraction))


def _power_of_two(x: Array) -> Array:
    """The largest power of two up to `x > 0`, float32."""
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return lax.bitcast_convert_type(bits & (-1 << 23), jnp.float32).astype(x.dtype)
