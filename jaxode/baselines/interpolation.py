"""Values between the observations of a series: straight lines, and cubic splines."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from ..problem.errors import DataError
from ..problem.validation import check_name
from .checks import check_series, check_times


def interpolate(
    ts: Float[ArrayLike, "*batch times"],
    ys: Float[ArrayLike, "batch times channels"],
    times: Float[ArrayLike, "*batch m"] | None = None,
    method: Literal["linear", "spline"] = "linear",
) -> Float[Array, "batch m channels"]:
    """The values at `times`, by a curve through the observed values of each channel.

    **Arguments:**

    - `ts`: times, shape `(times,)` or `(batch, times)`, increasing.
    - `ys`: values, shape `(batch, times, channels)`; NaN is a missing value.
    - `times`: shape `(m,)` or `(batch, m)`, in any order; `ts` if None, which fills the gaps.
    - `method`: "linear", or "spline" for the natural cubic spline (a line through two values).

    Before the first observed value and after the last the result is that value.

    **Raises:** `DataError` for shapes that disagree, times out of order, and channels without a
    value; `OptionError` for another method.
    """
    ys = check_series("ys", ys, missing=True)
    batch, n, channels = ys.shape
    ts = check_times("ts", ts, batch, n)
    wanted = ts if times is None else check_times("times", times, batch)
    check_name("method", method, ("linear", "spline"))
    empty = np.argwhere(np.isnan(ys).all(1))
    if empty.size:
        raise DataError(f"sample {empty[0][0]} of ys has no value in channel {empty[0][1]}")
    out = np.empty((batch, wanted.shape[1], channels))
    for sample in range(batch):
        for channel in range(channels):
            seen = ~np.isnan(ys[sample, :, channel])
            known = ts[sample, seen], ys[sample, seen, channel]
            out[sample, :, channel] = _values(*known, wanted[sample], method)
    return jnp.asarray(out)


def _values(ts: np.ndarray, ys: np.ndarray, times: np.ndarray, method: str) -> Any:
    """The values of one curve; outside of its times it is constant."""
    if method == "linear" or len(ts) < 2:
        return np.interp(times, ts, ys)
    from scipy.interpolate import CubicSpline

    return CubicSpline(ts, ys, bc_type="natural")(np.clip(times, ts[0], ts[-1]))
