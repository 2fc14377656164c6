"""Windows of a long series, to train on and to forecast from."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from ..problem.errors import DataError
from ..problem.validation import check_count, real_array


class Windows(NamedTuple):
    """Windows of a series and what follows each, as `windows` returns them.

    - `ts`, `ys`: times and values, shapes `(n, length)` and `(n, length, channels)`.
    - `next_ts`, `next_ys`: those that follow, shapes `(n, horizon)` and `(n, horizon, channels)`.
    """

    ts: Float[Array, "n length"]
    ys: Float[Array, "n length channels"]
    next_ts: Float[Array, "n horizon"]
    next_ys: Float[Array, "n horizon channels"]


def windows(
    ts: Float[ArrayLike, " times"],
    ys: Float[ArrayLike, "times channels"],
    length: int,
    horizon: int = 0,
    stride: int = 1,
) -> Windows:
    """Cut a series into windows of `length` observations, each with the `horizon` that follow.

    **Arguments:**

    - `ts`: times, shape `(times,)`, increasing, of any distances.
    - `ys`: values, shape `(times, channels)`; NaN is a missing value and stays one.
    - `length`, `horizon`, `stride`: counts of observations. A window begins every `stride`, from
      the first on, as long as window and horizon lie inside of the series.

    **Raises:** `DataError` for other shapes, times that do not increase, and a series that is too
    short; `OptionError` for counts.
    """
    given = real_array("ts", ts, DataError), real_array("ys", ys, DataError)
    ts, ys = (_floats(array) for array in given)
    length, stride = check_count("length", length), check_count("stride", stride)
    horizon = check_count("horizon", horizon, 0)
    if ys.ndim != 2 or ts.shape != ys.shape[:1]:
        raise DataError(
            f"ts and ys must have shapes (times,) and (times, channels), got {ts.shape} and "
            f"{ys.shape}"
        )
    if not (np.isfinite(ts).all() and (np.diff(ts) > 0).all()):
        raise DataError("ts must be finite and increase")
    last = len(ts) - length - horizon
    if last < 0:
        raise DataError(
            f"the series has {len(ts)} times, a window with its horizon {length + horizon}"
        )
    places = np.arange(0, last + 1, stride)[:, None] + np.arange(length + horizon)
    seen, after = places[:, :length], places[:, length:]
    return Windows(*map(jnp.asarray, (ts[seen], ys[seen], ts[after], ys[after])))


def _floats(array: Any) -> np.ndarray:
    return (
        np.asarray(array) if jnp.issubdtype(array.dtype, jnp.floating) else np.asarray(array, float)
    )
