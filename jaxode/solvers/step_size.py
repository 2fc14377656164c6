"""How large the next step is: error norms, controllers, and the first step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import ArrayLike

from ..problem.errors import OptionError, unknown_name

Norm = Callable[[Array], Array]


def mean_square(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """The mean of `|x|^2` over `axes` or all of them, real."""
    return jnp.mean(jnp.real(x * jnp.conj(x)) if jnp.iscomplexobj(x) else x * x, axes)


def rms_norm(x: Array) -> Array:
    """The root mean square of `x`, real."""
    return jnp.sqrt(mean_square(x))


def max_norm(x: Array) -> Array:
    """The largest magnitude in `x`, real."""
    return jnp.max(jnp.abs(x))


NORMS: dict[str, Norm] = {"rms": rms_norm, "max": max_norm}


class Tolerance(eqx.Module):
    """What an error is measured against: `atol + rtol * |y|`, component by component.

    `lanes`: the last axis of what is measured counts lanes, each with a norm of its own.
    """

    rtol: Array
    atol: Array
    norm: Norm = eqx.field(static=True)
    lanes: bool = eqx.field(static=True, default=False)

    def ratio(self, error: Array, y: Array) -> Array:
        """The norm of `error` in units of the tolerance at `y`."""
        return self.norm(error / (self.atol + self.rtol * jnp.abs(y)))

    def square(self, error: Array, y: Array, y1: Array) -> Array:
        """The square of that norm for a step from `y` to `y1`; the step is good at one and below.

        Squared, and by a reciprocal that does not wait for the last slope, because the loop waits
        for nothing so long as for this number.
        """
        size = jnp.maximum(jnp.abs(y), jnp.abs(y1))
        scale = jnp.maximum(self.atol + self.rtol * size, jnp.finfo(size.dtype).tiny)
        scaled = error * (1 / scale)
        if self.norm is rms_norm:
            return mean_square(scaled, self.axes(scaled))
        norm = jax.vmap(self.norm, in_axes=-1) if self.lanes else self.norm
        return norm(scaled) ** 2

    def axes(self, x: Array) -> tuple[int, ...]:
        """The axes of `x` that a norm goes over."""
        return tuple(range(x.ndim - self.lanes))


class Decision(NamedTuple):
    """What a controller says of an attempted step, and the size `h > 0` of the next."""

    accept: Array
    h: Array
    memory: Any


class PID(eqx.Module):
    r"""Adaptive steps by a PID controller on the logarithm of the error.

    With $\epsilon_n$ the inverse of the scaled error norm and $k$ the power of $h$ in the error
    estimate,
    $h_{n+1} = h_n \cdot \text{safety} \cdot \epsilon_n^{\beta_1} \epsilon_{n-1}^{\beta_2}
    \epsilon_{n-2}^{\beta_3}$, where $\beta_1 = (p + i + d)/k$, $\beta_2 = -(p + 2d)/k$,
    $\beta_3 = d/k$.

    - `pcoeff`, `icoeff`, `dcoeff`: $p$, $i$, $d$. (0, 1, 0) is the elementary controller.
    - `safety`: aimed-at share of the largest good step. `factor_min`, `factor_max`: the most a
      step shrinks and grows.
    - `dtmin`: smaller steps end the solve with `Status.STEP_UNDERFLOW`. `dtmax`: largest step.
    - `norm`: "rms", "max" or a function from an array to a scalar.
    - `factor_max_first`: the most the first accepted step grows, where that differs: its size was a
      guess. `dead_band`: factors in it leave the step as it is, which spares an implicit solver a
      factorisation.

    **Raises:** `OptionError` for a factor on the wrong side of one, or an unknown norm.

    Source: G. Söderlind, Automatic control and adaptive time-stepping, Numerical Algorithms 31
    (2002); Hairer, Wanner, Solving Ordinary Differential Equations II (1996), IV.2.
    """

    pcoeff: float = eqx.field(static=True, default=0.0)
    icoeff: float = eqx.field(static=True, default=1.0)
    dcoeff: float = eqx.field(static=True, default=0.0)
    safety: float = eqx.field(static=True, default=0.9)
    factor_min: float = eqx.field(static=True, default=0.2)
    factor_max: float = eqx.field(static=True, default=10.0)
    dtmin: ArrayLike | None = None
    dtmax: ArrayLike | None = None
    norm: str | Norm = eqx.field(static=True, default="rms")
    factor_max_first: float | None = eqx.field(static=True, default=None)
    dead_band: tuple[float, float] | None = eqx.field(static=True, default=None)
    adaptive = True

    def __check_init__(self) -> None:
        if not 0 < self.factor_min < 1 < self.factor_max or not 0 < self.safety <= 1:
            raise OptionError(
                "a controller needs 0 < factor_min < 1 < factor_max and 0 < safety <= 1, got "
                f"factor_min={self.factor_min}, factor_max={self.factor_max}, safety={self.safety}"
            )
        if not all(math.isfinite(x) for x in (self.pcoeff, self.icoeff, self.dcoeff)):
            raise OptionError("pcoeff, icoeff and dcoeff of a controller must be finite numbers")
        _check_bounds(self.dtmin, self.dtmax)
        if not callable(self.norm) and self.norm not in NORMS:
            raise unknown_name("norm", str(self.norm), NORMS)

    def norm_function(self) -> Norm:
        """The norm as a function."""
        return self.norm if callable(self.norm) else NORMS[self.norm]

    def start(self, h: Array) -> tuple[Array, Any]:
        """The first step, bounded, and the memory: the last two log errors, where they are used."""
        zero = jnp.zeros(h.shape, jnp.float32)
        return self._bound(h), (zero, zero) if self.pcoeff or self.dcoeff else ()

    def judge(
        self,
        h: Array,
        square: Array,
        error_order: int,
        memory: Any,
        index: Array,
        factor: Array | None = None,
    ) -> Decision:
        """Accept or reject step `index` of size `h > 0`, and propose the next size.

        `factor`: what the solver proposes of itself, for a step that is accepted.
        """
        now = 0.5 * _log2(square)
        accept = square <= 1.0
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        exponent = (p + i + d) * now
        if p or d:
            last, before = memory
            exponent = exponent - (p + 2 * d) * last + d * before
            exponent = jnp.clip(exponent, -100.0, 100.0)
            memory = (jnp.where(accept, now, last), jnp.where(accept, last, before))
        own = self.safety * _exp2(exponent / -error_order)
        factor = own if factor is None else jnp.where(accept, factor.astype(own.dtype), own)
        most = self.factor_max
        if self.factor_max_first is not None:
            most = jnp.where(index == 0, self.factor_max_first, most)
        factor = jnp.clip(factor, self.factor_min, jnp.where(accept, most, self.safety))
        if self.dead_band is not None:
            low, high = self.dead_band
            factor = jnp.where(accept & (factor >= low) & (factor <= high), 1.0, factor)
        return Decision(accept, self._bound(h * factor.astype(h.dtype)), memory)

    def too_small(self, h: Array) -> Array | bool:
        """Whether `h` is below `dtmin`."""
        return False if self.dtmin is None else h <= jnp.asarray(self.dtmin, h.dtype)

    def _bound(self, h: Array) -> Array:
        if self.dtmin is not None:
            h = jnp.maximum(h, jnp.asarray(self.dtmin, h.dtype))
        return h if self.dtmax is None else jnp.minimum(h, jnp.asarray(self.dtmax, h.dtype))


def _check_bounds(dtmin: Any, dtmax: Any) -> None:
    given = [x for x in (dtmin, dtmax) if x is not None]
    if any(isinstance(x, Tracer) for x in given):
        return
    if any(not float(x) > 0 for x in given) or (len(given) == 2 and not dtmin < dtmax):
        raise OptionError(f"a controller needs 0 < dtmin < dtmax, got dtmin={dtmin}, dtmax={dtmax}")


def I(**knobs: Any) -> PID:  # noqa: E743, N802
    """The elementary (integral) controller; takes the knobs of `PID`."""
    return PID(pcoeff=0.0, icoeff=1.0, dcoeff=0.0, **knobs)


def PI(**knobs: Any) -> PID:  # noqa: N802
    """A proportional-integral controller, 0.4 and 0.3; takes the knobs of `PID`."""
    return PID(pcoeff=0.4, icoeff=0.3, dcoeff=0.0, **knobs)


def _log2(x: Array) -> Array:
    """log2 of `x >= 0` to 0.09, in float32; finite for zero, infinity and NaN, these as large.

    The bits of a float, read as an integer, are about its logarithm. The loop waits for this
    number, a root of it to one percent is plenty, and the real logarithm takes five times as long.
    Source: N. Schraudolph, A fast, compact approximation of the exponential function, Neural
    Computation 11 (1999).
    """
    # A NaN may have either sign.
    bits = lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)
    return bits.astype(jnp.float32) * 2.0**-23 - 127.0


def _exp2(x: Array) -> Array:
    """2^x to 0.3 percent for float32 `x` between -126 and 127: exact in the whole part."""
    whole = jnp.floor(x)
    power = lax.bitcast_convert_type((whole.astype(jnp.int32) + 127) << 23, jnp.float32)
    part = x - whole
    return power * (1.0 + part * (0.6565 + 0.3435 * part))


class Fixed(eqx.Module):
    """Steps of size `dt > 0`, the last one cut to end on the last time."""

    dt: ArrayLike
    adaptive = False

    def start(self, h: Array) -> tuple[Array, Any]:
        """The step and no memory."""
        return jnp.full_like(h, self.dt), ()

    def judge(
        self,
        h: Array,
        square: Array,
        error_order: int,
        memory: Any,
        index: Array,
        factor: Array | None = None,
    ) -> Decision:
        """Every step to a finite state is good."""
        return Decision(jnp.isfinite(square), jnp.full_like(h, self.dt), memory)

    def too_small(self, h: Array) -> Array | bool:
        """Never: the user chose the step."""
        return False

    def step(self, index: Array, t0: Array, direction: Array) -> tuple[Array, Array]:
        """When step `index` of a solve from `t0` begins, and its signed size."""
        h = direction * jnp.asarray(self.dt, t0.dtype)
        return t0 + index.astype(t0.dtype) * h, h


class Grid(eqx.Module):
    """Steps from each of `times` to the next, in the direction of the solve.

    `times` is one-dimensional and monotone, begins at the first time of the solve and ends at its
    last.
    """

    times: ArrayLike
    adaptive = False

    def start(self, h: Array) -> tuple[Array, Any]:
        """The first gap of the grid."""
        return self._gap(h, jnp.zeros((), jnp.int32)), ()

    def judge(
        self,
        h: Array,
        square: Array,
        error_order: int,
        memory: Any,
        index: Array,
        factor: Array | None = None,
    ) -> Decision:
        """Every step to a finite state is good; the next is the gap after step `index`."""
        return Decision(jnp.isfinite(square), self._gap(h, index + 1), memory)

    def too_small(self, h: Array) -> Array | bool:
        """Never: the user chose the steps."""
        return False

    def step(self, index: Array, t0: Array, direction: Array) -> tuple[Array, Array]:
        """When step `index` begins, and its signed size."""
        return jnp.asarray(self.times, t0.dtype)[index], direction * self._gap(t0, index)

    def _gap(self, h: Array, index: Array) -> Array:
        times = jnp.asarray(self.times, h.dtype)
        gaps = jnp.abs(jnp.diff(times))
        return gaps[jnp.minimum(index, gaps.shape[0] - 1)]


Controller = PID | Fixed | Grid


def first_step(
    field: Callable[[Array, Array], Array],
    t: Array,
    y: Array,
    slope: Array,
    span: Array,
    order: int,
    tolerance: Tolerance,
) -> Array:
    """A first step size `h > 0`, no longer than the signed `span`; one field evaluation.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.4.
    """
    real = jnp.finfo(y.dtype).dtype
    size, speed = tolerance.ratio(y, y), tolerance.ratio(slope, y)
    smooth = (size > 1e-5) & (speed > 1e-5)
    h0 = jnp.where(smooth, 0.01 * size / jnp.where(smooth, speed, 1.0), 1e-6)
    h0 = jnp.minimum(h0, jnp.abs(span).astype(real))
    direction = jnp.sign(span)
    ahead = field(t + (direction * h0).astype(t.dtype), y + (direction * h0).astype(real) * slope)
    bend = tolerance.ratio(ahead - slope, y) / h0
    steepest = jnp.maximum(speed, bend)
    flat = steepest <= 1e-15
    h1 = jnp.where(
        flat,
        jnp.maximum(1e-6, h0 * 1e-3),
        (0.01 / jnp.where(flat, 1.0, steepest)) ** (1.0 / order),
    )
    h = jnp.minimum(100 * h0, h1).astype(t.dtype)
    # A slope that is not finite at the start is the first step's to report.
    return jnp.minimum(jnp.where(jnp.isfinite(h), h, jnp.abs(span)), jnp.abs(span))
