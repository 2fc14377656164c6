"""Paths through the observations of one sample: what drives a neural CDE."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import ArrayLike, Float

from .series import prepare_series


class Control(eqx.Module):
    """A path of polynomials between knots, for one sample; `jax.vmap` makes those of a batch.

    Outside its knots the first and the last polynomial go on.

    - `knots`: times, not decreasing; repeated ones have pieces of no length, which are not seen.
    - `coefficients`: those of each piece by rising powers of the time since its first knot.
    """

    knots: Float[Array, " knots"]
    coefficients: Float[Array, "pieces powers channels"]

    def evaluate(self, t: ArrayLike) -> Float[Array, " channels"]:
        """The path at the time `t`."""
        since, powers = self._piece(t)
        value = powers[-1]
        for factor in powers[-2::-1]:
            value = factor + since * value
        return value

    def derivative(self, t: ArrayLike) -> Float[Array, " channels"]:
        """The path's derivative at the time `t`, at a knot that of the piece behind it."""
        since, powers = self._piece(t)
        value = (len(powers) - 1) * powers[-1]
        for power in range(len(powers) - 2, 0, -1):
            value = power * powers[power] + since * value
        return value

    def path_time(self, t: Array) -> Array:
        """Where on the path what is known at the time `t` has been passed: at `t`."""
        return t

    def _piece(self, t: ArrayLike) -> tuple[Array, Array]:
        """The time since the piece of `t` began, and its coefficients."""
        inner = self.knots[1:-1]
        # A last time that is repeated is the end of the piece before, not the start of another.
        place = jnp.sum((t >= inner) & (inner < self.knots[-1]))
        return jnp.asarray(t) - self.knots[place], self.coefficients[place]


class Linear(Control):
    """Straight lines between the observations of each channel.

    **Arguments:**

    - `ts`: times, shape `(n,)`, not decreasing; of several observations at one time the last
      counts.
    - `xs`: values, shape `(n, channels)`; NaN is missing. Before a channel's first observation
      and after its last one the path stays at these; a channel that has none is zero.
    - `mask`: True where `xs` was observed, in the place of NaN; shape `(n, channels)`.

    **Raises:** `DataError` and `TimesError` for bad data, where they are known.
    """

    def __init__(self, ts: ArrayLike, xs: ArrayLike, mask: ArrayLike | None = None) -> None:
        ts, xs, mask = _merge_simultaneous(ts, xs, mask)
        self.knots = ts
        self.coefficients = linear_coefficients(ts, _each_channel(_fill_linearly, ts, xs, mask))


class Rectilinear(Control):
    """Time and values by turns: the one control that never looks ahead.

    Between two observations the path goes first, in half the time, along its channel of time,
    which is the first one, then along the values. So at each observation it has seen all up to
    there and nothing more, with values missing too.

    **Arguments:** as of `Linear`. After an observation a channel keeps its value until the next
    one; before its first it is zero.

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
        """Where on the path time has come to `t`, and the values are those known then."""
        ts = self.knots[::2]
        known = ts[jnp.sum(t >= ts[1:])]
        return known + (t - known) / 2


class Hermite(Control):
    """Cubics with backward differences: once differentiable, and each takes one value ahead.

    A cubic begins with the slope between the observation before and its first, and ends with the
    slope from its first to its last. Missing values are filled in linearly.

    **Arguments:** as of `Linear`.

    Source: Morrill et al., Neural CDEs for online prediction tasks (2021), arXiv 2106.11028.
    """

    def __init__(self, ts: ArrayLike, xs: ArrayLike, mask: ArrayLike | None = None) -> None:
        ts, xs, mask = _merge_simultaneous(ts, xs, mask)
        values = _each_channel(_fill_linearly, ts, xs, mask)
        h = jnp.diff(ts)[:, None]
        slopes = _safe_divide(jnp.diff(values, axis=0), h)
        place = jnp.arange(len(ts) - 1)
        # The slope before: that of the last piece that has a length; the first piece is a line.
        before = lax.cummax(jnp.where(h[:, 0] > 0, place, -1))
        before = jnp.concatenate([jnp.full(1, -1), before[:-1]])
        first = jnp.where(before[:, None] < 0, slopes, slopes[before])
        bend = _safe_divide(slopes - first, h)
        # Value 0, slope `first`, then value `slopes * h` and slope `slopes` at the end.
        powers = values[:-1], first, 2 * bend, -_safe_divide(bend, h)
        self.knots = ts
        self.coefficients = jnp.stack(powers, axis=1)


class NaturalCubic(Control):
    """The natural cubic spline of each channel through the observations that it has.

    It is twice differentiable, and looks ahead to the end.

    **Arguments:** as of `Linear`.

    Source: Kidger et al., Neural controlled differential equations for irregular time series
    (2020), arXiv 2005.08926.
    """

    def __init__(self, ts: ArrayLike, xs: ArrayLike, mask: ArrayLike | None = None) -> None:
        ts, xs, mask = _merge_simultaneous(ts, xs, mask)
        self.knots = ts
        self.coefficients = _each_channel(_spline, ts, xs, mask)


CONTROLS: dict[str, Callable[..., Control]] = {
    "linear": Linear,
    "rectilinear": Rectilinear,
    "hermite": Hermite,
    "natural_cubic": NaturalCubic,
}


def _merge_simultaneous(ts: Any, xs: Any, mask: Any) -> tuple[Array, Array, Array]:
    """The series, with what was observed at one time in its first place."""
    batch = prepare_series(
        ts, jnp.asarray(xs)[None], None if mask is None else jnp.asarray(mask)[None]
    )
    ts, xs, mask = (x[0] for x in batch)
    n = len(ts)
    new = jnp.concatenate([jnp.ones(1, bool), ts[1:] > ts[:-1]])
    group = jnp.cumsum(new) - 1
    place = jnp.where(mask, jnp.arange(n)[:, None], -1)
    last = jax.ops.segment_max(place, group, n)[group]
    values = jnp.take_along_axis(xs, jnp.maximum(last, 0), axis=0)
    observed = new[:, None] & (last >= 0)
    return ts, jnp.where(observed, values, 0), observed


def _each_channel(function: Any, ts: Array, xs: Array, mask: Array) -> Array:
    return jax.vmap(function, (None, 1, 1), -1)(ts, xs, mask)


def _neighbours(mask: Array) -> tuple[Array, Array]:
    """The last observation up to each place, -1 if none; the first from there on, n if none."""
    n = len(mask)
    place = jnp.arange(n)
    before = lax.cummax(jnp.where(mask, place, -1))
    return before, lax.cummin(jnp.where(mask, place, n), reverse=True)


def _fill_linearly(ts: Array, x: Array, mask: Array) -> Array:
    """One channel with missing values between two observations on the line between them."""
    before, behind = _neighbours(mask)
    n = len(ts)
    p = jnp.where(before < 0, behind, before) % n
    q = jnp.where(behind == n, before, behind) % n
    return x[p] + _safe_divide(ts - ts[p], ts[q] - ts[p]) * (x[q] - x[p])


def _fill_forward(ts: Array, x: Array, mask: Array) -> Array:
    """One channel as it was last observed at each time, zero before; repeated times know all."""
    before, _ = _neighbours(mask)
    return jnp.where(before < 0, 0, x[jnp.maximum(before, 0)])


def linear_coefficients(knots: Array, values: Array) -> Array:
    """The coefficients of straight lines from each value to the next."""
    slopes = _safe_divide(jnp.diff(values, axis=0), jnp.diff(knots)[:, None])
    return jnp.stack([values[:-1], slopes], axis=1)


def _interleave(first: Array, second: Array) -> Array:
    """One of the first, one of the second, and so on; the first is one longer."""
    pairs = jnp.stack([first[:-1], second], axis=1)
    return jnp.concatenate([pairs.reshape(-1, *first.shape[1:]), first[-1:]])


def _spline(ts: Array, x: Array, mask: Array) -> Array:
    """The coefficients of one channel's natural spline in the pieces of all, shape (n - 1, 4)."""
    n = len(ts)
    second = _second_derivatives(ts, x, mask)
    before, behind = _neighbours(mask)
    inside = (before[:-1] >= 0) & (behind[1:] < n)
    p, q = jnp.maximum(before[:-1], 0), jnp.minimum(behind[1:], n - 1)
    h, start, end = ts[q] - ts[p], second[p], second[q]
    slope = _safe_divide(x[q] - x[p], h) - h * (2 * start + end) / 6
    third = _safe_divide(end - start, h)
    s = ts[:-1] - ts[p]
    powers = (
        x[p] + s * (slope + s * (start / 2 + s * third / 6)),
        slope + s * (start + s * third / 2),
        (start + s * third) / 2,
        third / 6,
    )
    stays = _fill_linearly(ts, x, mask)[:-1], 0.0, 0.0, 0.0
    chosen = [jnp.where(inside, a, b) for a, b in zip(powers, stays, strict=True)]
    return jnp.stack(chosen, axis=1)


def _second_derivatives(ts: Array, x: Array, mask: Array) -> Array:
    """Those of the natural spline at the observations; anything elsewhere."""
    order = jnp.argsort(~mask, stable=True)  # the observations, and behind them the rest
    t, x, known = ts[order], x[order], mask[order]
    zero = jnp.zeros(1, x.dtype)
    h = jnp.where(known[1:], jnp.diff(t), 1)
    jump = jnp.diff(jnp.where(known[1:], jnp.diff(x), 0) / h)
    inner = jnp.concatenate([jnp.zeros(1, bool), known[2:], jnp.zeros(1, bool)])
    left, right = jnp.concatenate([zero, h]), jnp.concatenate([h, zero])
    diagonal = jnp.where(inner, 2 * (left + right), 1)
    left, right = jnp.where(inner, left, 0), jnp.where(inner, right, 0)
    wanted = jnp.where(inner, jnp.concatenate([zero, 6 * jump, zero]), 0)
    found = _solve_tridiagonal(left, diagonal, right, wanted)
    return jnp.zeros_like(x).at[order].set(found)


def _solve_tridiagonal(left: Array, diagonal: Array, right: Array, wanted: Array) -> Array:
    """Thomas's elimination: safe without pivots, for the diagonal dominates."""

    def down(carry: Any, row: Any) -> tuple[Any, Any]:
        ratio, value = carry
        a, b, c, d = row
        pivot = b - a * ratio
        carry = c / pivot, (d - a * value) / pivot
        return carry, carry

    def up(behind: Array, row: Any) -> tuple[Array, Array]:
        ratio, value = row
        found = value - ratio * behind
        return found, found

    zero = jnp.zeros((), wanted.dtype)
    _, rows = lax.scan(down, (zero, zero), (left, diagonal, right, wanted))
    return lax.scan(up, zero, rows, reverse=True)[1]


def _safe_divide(x: Array, h: Array) -> Array:
    """`x / h`, and zero where `h` is: pieces of no length have finite values and gradients."""
    return jnp.where(h > 0, x / jnp.where(h > 0, h, 1), 0)
