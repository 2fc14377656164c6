"""Irregular series of a batch: validation, and padding to arrays of one length."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from ..problem.errors import DataError, TimesError
from ..problem.state import is_traced
from ..problem.time_precision import check_resolution, warn_of_lost_digits


class Series(NamedTuple):
    """The observations of a batch, each sample at times of its own, padded to one length.

    - `ts`: shape `(batch, n)`, not decreasing; after a sample's length its last time, repeated.
    - `xs`: shape `(batch, n, channels)`, zero where nothing was observed.
    - `mask`: shape `(batch, n, channels)`, True where there is an observation.
    """

    ts: Float[Array, "batch n"]
    xs: Float[Array, "batch n channels"]
    mask: Bool[Array, "batch n channels"]


def prepare_series(
    ts: Any,
    xs: Any,
    mask: Any = None,
    lengths: Any = None,
    *,
    least: int = 2,
    channels: int | None = None,
) -> Series:
    """Validate the series of a batch and pad them to one length.

    **Arguments:**

    - `ts`: times, shape `(n,)` for all samples or `(batch, n)`, not decreasing.
    - `xs`: values, shape `(batch, n, channels)`. Without a mask a NaN is a missing value.
    - `mask`: True where `xs` was observed, shape `(batch, n)` or `(batch, n, channels)`.
    - `lengths`: integers, shape `(batch,)`: how many of the `n` places each sample uses.
    - `least`: how many places a sample must have. `channels`: how many a model has.

    **Raises:** `DataError` and `TimesError`, naming the sample, for shapes that disagree,
    observed values that are not finite, times out of order, series too short, and channels other
    than the model's.
    """
    xs = _check_xs(xs)
    batch, n, _ = xs.shape
    ts = _check_ts(ts, batch, n, xs.dtype)
    within = _within_length(lengths, batch, n, least)
    mask_observed = _observation_mask(xs, mask, within)
    _check_values(ts, xs, mask_observed, within)
    last_place = jnp.max(jnp.where(within, jnp.arange(n), 0), axis=1, keepdims=True)
    ts = jnp.where(within, ts, jnp.take_along_axis(ts, last_place, axis=1))
    if channels is not None and xs.shape[2] != channels:
        raise DataError(f"the model has {channels} channels, xs has {xs.shape[2]}")
    return Series(ts, jnp.where(mask_observed, xs, 0), mask_observed)


def _check_xs(xs: Any) -> Array:
    shape = np.shape(xs)
    if len(shape) != 3 or 0 in (shape[0], shape[2]):
        raise DataError(f"xs must have shape (batch, n, channels), got {shape}")
    xs = jnp.asarray(xs)
    return xs if jnp.issubdtype(xs.dtype, jnp.floating) else xs.astype(jnp.result_type(float))


def _check_ts(ts: Any, batch: int, n: int, dtype: Any) -> Array:
    if np.shape(ts) not in ((n,), (batch, n)):
        raise DataError(
            f"ts must have shape ({n},) or ({batch}, {n}), as many times as xs has places; got "
            f"{np.shape(ts)}"
        )
    return jnp.broadcast_to(_held("ts", ts, dtype), (batch, n))


def _held(name: str, ts: Any, dtype: Any) -> Array:
    """Times in a dtype that tells them apart.

    **Raises:** `TimesError` for times that become equal. **Warns:** `TimesWarning` for coarse ones.
    """
    if np.size(ts) and not is_traced(ts):
        given = np.asarray(ts)
        warn_of_lost_digits(given)
        with np.errstate(invalid="ignore"):  # padding may hold anything
            check_resolution(name, given, given.astype(dtype))
    return jnp.asarray(ts, dtype)


def _within_length(lengths: Any, batch: int, n: int, least: int) -> Array:
    """A mask of the places within each sample's length, shape `(batch, n)`."""
    if n < least:
        raise DataError(f"a series must have at least {least} points; those of xs have {n}")
    if lengths is None:
        return jnp.ones((batch, n), bool)
    if np.shape(lengths) != (batch,):
        raise DataError(f"lengths must have shape ({batch},), got {np.shape(lengths)}")
    if not is_traced(lengths):
        values = np.asarray(lengths)
        bad = np.flatnonzero((values < least) | (values > n))
        if values.dtype.kind not in "iu" or bad.size:
            sample = int(bad[0]) if bad.size else 0
            raise DataError(
                f"lengths must be integers between {least} and {n}; sample {sample} has "
                f"{values[sample]}"
            )
    return jnp.arange(n) < jnp.asarray(lengths)[:, None]


def _observation_mask(xs: Array, mask: Any, within: Array) -> Array:
    if mask is None:
        return within[..., None] & ~jnp.isnan(xs)
    if np.shape(mask) not in (xs.shape, xs.shape[:2]):
        raise DataError(f"mask must have shape {xs.shape[:2]} or {xs.shape}, got {np.shape(mask)}")
    mask = jnp.asarray(mask, bool)
    mask = mask if mask.ndim == 3 else mask[..., None]
    return jnp.broadcast_to(within[..., None] & mask, xs.shape)


def _check_values(ts: Array, xs: Array, observed: Array, within: Array) -> None:
    """Validate times and observed values, unless they are traced.

    **Raises:** `DataError` and `TimesError`.
    """
    if is_traced((ts, xs, observed)):
        return
    is_observed, times, is_within = np.asarray(observed), np.asarray(ts), np.asarray(within)
    bad = np.argwhere(is_observed & ~np.isfinite(np.asarray(xs)))
    if bad.size:
        sample, place, channel = bad[0]
        raise DataError(
            f"sample {sample} has {xs[sample, place, channel]} at place {place}, channel "
            f"{channel}, which the mask says was observed; without a mask NaN means missing"
        )
    bad_times = (~np.isfinite(times) & is_within).any(1) | (
        (times[:, 1:] < times[:, :-1]) & is_within[:, 1:]
    ).any(1)
    if bad_times.any():
        sample = int(np.flatnonzero(bad_times)[0])
        raise TimesError(f"the times of sample {sample} are not finite or not in order")
    empty = ~is_observed.any((1, 2))
    if empty.any():
        raise DataError(f"sample {int(np.flatnonzero(empty)[0])} has no observation at all")


def prepare_times(times: Any, batch: int, dtype: Any) -> Float[Array, "batch m"]:
    """Validate query times, of shape `(m,)` or `(batch, m)`, and give them to each sample.

    **Raises:** `DataError` for another shape, `TimesError` where they are not finite.
    """
    times = broadcast_times(times, batch, dtype)
    if not is_traced(times):
        bad = np.argwhere(~np.isfinite(np.asarray(times)))
        if bad.size:
            raise TimesError(f"times has {times[tuple(bad[0])]} for sample {bad[0][0]}")
    return times


def broadcast_times(times: Any, batch: int, dtype: Any) -> Float[Array, "batch m"]:
    """Broadcast times of shape `(m,)` or `(batch, m)` to each sample. **Raises:** `DataError`."""
    shape = np.shape(times)
    if len(shape) not in (1, 2) or 0 in shape or (len(shape) == 2 and shape[0] != batch):
        raise DataError(f"times must have shape (m,) or ({batch}, m), got {shape}")
    return jnp.broadcast_to(_held("times", times, dtype), (batch, shape[-1]))
