"""Interpolated paths through the observations of one sample, the controls of a neural CDE."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import ArrayLike, Float

from ..problem.errors import DataError
from ..problem.validation import real_array
from .series import prepare_series


class Control(eqx.Module):
    """A piecewise polynomial path for one sample; `jax.vmap` makes those of a batch.

    Outside the knots the first and the last polynomial are extrapolated.

    - `knots`: times, not decreasing; a repeated one makes a piece of zero length, never evaluated.
    - `coefficients`: of each piece, by rising powers of the time since its first knot.
    """

    knots: Float[Array, " knots"]
    coefficients: Float[Array, "pieces powers channels"]
    # Whether the derivative is continuous; else steps end on the knots.
    smooth: ClassVar[bool] = False

    def evaluate(self, t: ArrayLike) -> Float[Array, " channels"]:
        """The path at the time `t`."""
        since, powers = self._piece(t)
        value = powers[-1]
        for factor in powers[-2::-1]:
            value = factor + since * value
        return value

    def derivative(self, t: ArrayLike) -> Float[Array, " channels"]:
        """The path's derivative at the time `t`, at a knot that of the piece after it."""
        since, powers = self._piece(t)
        value = (len(powers) - 1) * powers[-1]
        for power in range(len(powers) - 2, 0, -1):
            value = power * powers[power] + since * value
        return value

    def path_time(self, t: Array) -> Array:
        """The path's parameter that corresponds to the time `t`: `t` itself."""
        return t

    def _piece(self, t: ArrayLike) -> tuple[Array, Array]:
        """The time since the piece of `t` began, and its coefficients."""
        inner_knots = self.knots[1:-1]
        # A repeated last time is the end of the piece before it, not the start of another.
        piece = jnp.sum((t >= inner_knots) & (inner_knots < self.knots[-1]))
        return jnp.asarray(t) - self.knots[piece], self.coefficients[piece]


class LinearInterpolation(Control):
    """Linear interpolation between the observations of each channel.

    **Arguments:**

    - `ts`: times, shape `(n,)`, not decreasing; of several observations at one time the last
      counts.
    - `xs`: values, shape `(n, channels)`; NaN is missing. Before a channel's first observation
      and after its last one the path is constant; a channel without any is zero.
    - `mask`: True where `xs` was observed, instead of NaN; shape `(n, channels)` or `(n,)`.

    **Raises:** `DataError` and `TimesError` for bad data, unless they are traced.
    """

    def __init__(self, ts: ArrayLike, xs: ArrayLike, mask: ArrayLike | None = None) -> None:
        ts, xs, mask = _merge_simultaneous(ts, xs, mask)
        self.knots = ts
        self.coefficients = linear_coefficients(ts, _each_channel(_fill_linearly, ts, xs, mask))


class RectilinearInterpolation(Control):
    """Rectilinear interpolation: time and values change alternately, so that it is causal.

    Between two observations the path moves, in half the time, along its channel of time, which is
    the first one, then along the values. So at each observation it depends on all observations up
    to there and on none later, with missing values too.

    **Arguments:** as of `LinearInterpolation`. After an observation a channel keeps its value until
    the next one; before its first it is zero.

    Source: Morrill et al., Neural CDEs for online prediction tasks (2021), arXiv 2106.11028.
    """

    def __init__(self, ts: ArrayLike, xs: ArrayLike, mask: ArrayLike | None = None) -> None:
        ts, xs, mask = _merge_simultaneous(ts, xs, mask)
        values = _each_channel(_fill_forward, ts, xs, mask)
        middle = (ts[:-1] + ts[1:]) / 2
        self.knots = _interleave(ts, middle)
        times = _interleave(ts, ts[1:])
        values = _interleave(values, values[:-1])
        self.coefficients = linear_coefficients(
            self.knots, jnp.concatenate([times[:, None], values], axis=1)
        )

    def path_time(self, t: Array) -> Array:
        """The path's parameter where its time is `t` and its values are those observed by then."""
        ts = self.knots[::2]
        last_observed = ts[jnp.sum(t >= ts[1:])]
        return last_observed + (t - last_observed) / 2


class HermiteInterpolation(Control):
    """Cubic Hermite interpolation with backward differences: once continuously differentiable.

    The slope at each observation is that of the line from the one before, so a piece depends on no
    observation after its end. Missing values are interpolated linearly.

    **Arguments:** as of `LinearInterpolation`.

    Source: Morrill et al., Neural CDEs for online prediction tasks (2021), arXiv 2106.11028.
    """

    smooth: ClassVar[bool] = True

    def __init__(self, ts: ArrayLike, xs: ArrayLike, mask: ArrayLike | None = None) -> None:
        ts, xs, mask = _merge_simultaneous(ts, xs, mask)
        values = _each_channel(_fill_linearly, ts, xs, mask)
        h = jnp.diff(ts)[:, None]
        slopes = _safe_divide(jnp.diff(values, axis=0), h)
        piece = jnp.arange(len(ts) - 1)
        # The slope at the start is that of the last piece of positive length, if there is one.
        previous = lax.cummax(jnp.where(h[:, 0] > 0, piece, -1))
        previous = jnp.concatenate([jnp.full(1, -1), previous[:-1]])
        start_slopes = jnp.where(previous[:, None] < 0, slopes, slopes[previous])
        curvature = _safe_divide(slopes - start_slopes, h)
        # Value 0, slope `start_slopes`, then value `slopes * h` and slope `slopes` at the end.
        powers = values[:-1], start_slopes, 2 * curvature, -_safe_divide(curvature, h)
        self.knots = ts
        self.coefficients = jnp.stack(powers, axis=1)


class NaturalCubicSpline(Control):
    """The natural cubic spline of each channel through the observations that it has.

    It is twice continuously differentiable, and depends on the whole series everywhere.

    **Arguments:** as of `LinearInterpolation`.

    Source: Kidger et al., Neural controlled differential equations for irregular time series
    (2020), arXiv 2005.08926.
    """

    smooth: ClassVar[bool] = True

    def __init__(self, ts: ArrayLike, xs: ArrayLike, mask: ArrayLike | None = None) -> None:
        ts, xs, mask = _merge_simultaneous(ts, xs, mask)
        self.knots = ts
        self.coefficients = _each_channel(_spline, ts, xs, mask)


CONTROLS: dict[str, Callable[..., Control]] = {
    "linear": LinearInterpolation,
    "rectilinear": RectilinearInterpolation,
    "hermite": HermiteInterpolation,
    "natural_cubic": NaturalCubicSpline,
}


def _merge_simultaneous(ts: Any, xs: Any, mask: Any) -> tuple[Array, Array, Array]:
    """The series with simultaneous observations merged into the first place of their time.

    **Raises:** `DataError` and `TimesError`.
    """
    xs = real_array("xs", xs, DataError)
    if xs.ndim != 2:
        raise DataError(f"xs must have shape (n, channels), got {xs.shape}")
    if np.shape(ts) != xs.shape[:1]:
        raise DataError(f"ts must have shape {xs.shape[:1]} as xs has, got {np.shape(ts)}")
    if mask is not None:
        if np.shape(mask) not in (xs.shape, xs.shape[:1]):
            raise DataError(f"mask must have shape {xs.shape}, got {np.shape(mask)}")
        mask = jnp.asarray(mask)[None]
    batch = prepare_series(ts, xs[None], mask)
    ts, xs, mask = (x[0] for x in batch)
    n = len(ts)
    is_new_time = jnp.concatenate([jnp.ones(1, bool), ts[1:] > ts[:-1]])
    time_index = jnp.cumsum(is_new_time) - 1
    observed_at = jnp.where(mask, jnp.arange(n)[:, None], -1)
    last = jax.ops.segment_max(observed_at, time_index, n)[time_index]
    values = jnp.take_along_axis(xs, jnp.maximum(last, 0), axis=0)
    observed = is_new_time[:, None] & (last >= 0)
    return ts, jnp.where(observed, values, 0), observed


def _each_channel(function: Any, ts: Array, xs: Array, mask: Array) -> Array:
    return jax.vmap(function, (None, 1, 1), -1)(ts, xs, mask)


def _neighbours(mask: Array) -> tuple[Array, Array]:
    """The last observation's index up to each place, or -1; the first one's from it, or n."""
    n = len(mask)
    index = jnp.arange(n)
    before = lax.cummax(jnp.where(mask, index, -1))
    return before, lax.cummin(jnp.where(mask, index, n), reverse=True)


def _fill_linearly(ts: Array, x: Array, mask: Array) -> Array:
    """One channel with its missing values interpolated linearly."""
    before, after = _neighbours(mask)
    n = len(ts)
    left = jnp.where(before < 0, after, before) % n
    right = jnp.where(after == n, before, after) % n
    return x[left] + _safe_divide(ts - ts[left], ts[right] - ts[left]) * (x[right] - x[left])


def _fill_forward(ts: Array, x: Array, mask: Array) -> Array:
    """One channel with its missing values filled by the last observation, or zero if none."""
    before, _ = _neighbours(mask)
    return jnp.where(before < 0, 0, x[jnp.maximum(before, 0)])


def linear_coefficients(knots: Array, values: Array) -> Array:
    """The coefficients of the linear interpolant between successive values."""
    slopes = _safe_divide(jnp.diff(values, axis=0), jnp.diff(knots)[:, None])
    return jnp.stack([values[:-1], slopes], axis=1)


def _interleave(first: Array, second: Array) -> Array:
    """Interleave two arrays, beginning and ending with the first, which is one longer."""
    pairs = jnp.stack([first[:-1], second], axis=1)
    return jnp.concatenate([pairs.reshape(-1, *first.shape[1:]), first[-1:]])


def _spline(ts: Array, x: Array, mask: Array) -> Array:
    """The coefficients of one channel's natural spline on all pieces, shape (n - 1, 4)."""
    n = len(ts)
    second_derivatives = _second_derivatives(ts, x, mask)
    before, after = _neighbours(mask)
    between_observations = (before[:-1] >= 0) & (after[1:] < n)
    left, right = jnp.maximum(before[:-1], 0), jnp.minimum(after[1:], n - 1)
    h, start, end = ts[right] - ts[left], second_derivatives[left], second_derivatives[right]
    slope = _safe_divide(x[right] - x[left], h) - h * (2 * start + end) / 6
    third = _safe_divide(end - start, h)
    s = ts[:-1] - ts[left]
    powers = (
        x[left] + s * (slope + s * (start / 2 + s * third / 6)),
        slope + s * (start + s * third / 2),
        (start + s * third) / 2,
        third / 6,
    )
    constant = _fill_linearly(ts, x, mask)[:-1], 0.0, 0.0, 0.0
    coefficients = [
        jnp.where(between_observations, a, b) for a, b in zip(powers, constant, strict=True)
    ]
    return jnp.stack(coefficients, axis=1)


def _second_derivatives(ts: Array, x: Array, mask: Array) -> Array:
    """The natural spline's second derivatives at the observations; elsewhere arbitrary values."""
    order = jnp.argsort(~mask, stable=True)  # observations first, then the missing ones
    t, x, observed = ts[order], x[order], mask[order]
    zero = jnp.zeros(1, x.dtype)
    h = jnp.where(observed[1:], jnp.diff(t), 1)
    slope_change = jnp.diff(jnp.where(observed[1:], jnp.diff(x), 0) / h)
    is_inner = jnp.concatenate([jnp.zeros(1, bool), observed[2:], jnp.zeros(1, bool)])
    left, right = jnp.concatenate([zero, h]), jnp.concatenate([h, zero])
    diagonal = jnp.where(is_inner, 2 * (left + right), 1)
    left, right = jnp.where(is_inner, left, 0), jnp.where(is_inner, right, 0)
    right_hand_side = jnp.where(is_inner, jnp.concatenate([zero, 6 * slope_change, zero]), 0)
    solution = _solve_tridiagonal(left, diagonal, right, right_hand_side)
    return jnp.zeros_like(x).at[order].set(solution)


def _solve_tridiagonal(left: Array, diagonal: Array, right: Array, right_hand_side: Array) -> Array:
    """Solve a diagonally dominant tridiagonal system by the Thomas algorithm."""

    def eliminate(carry: Any, row: Any) -> tuple[Any, Any]:
        ratio, value = carry
        a, b, c, d = row
        pivot = b - a * ratio
        carry = c / pivot, (d - a * value) / pivot
        return carry, carry

    def substitute(following: Array, row: Any) -> tuple[Array, Array]:
        ratio, value = row
        solution = value - ratio * following
        return solution, solution

    zero = jnp.zeros((), right_hand_side.dtype)
    _, rows = lax.scan(eliminate, (zero, zero), (left, diagonal, right, right_hand_side))
    return lax.scan(substitute, zero, rows, reverse=True)[1]


def _safe_divide(x: Array, h: Array) -> Array:
    """`x / h`, or zero where `h` is, so that pieces of zero length have finite gradients."""
    return jnp.where(h > 0, x / jnp.where(h > 0, h, 1), 0)
