"""Forecasts that repeat what was seen."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from ..problem.errors import DataError
from ..problem.validation import check_count
from .checks import check_series


def persistence(
    ys: Float[ArrayLike, "batch times channels"], horizon: int
) -> Float[Array, "batch horizon channels"]:
    """Forecast the last value, for each of the next `horizon` times.

    **Raises:** `DataError` for series of another shape or with NaN, `OptionError` for `horizon`.
    """
    ys = check_series("ys", ys)
    return jnp.asarray(np.repeat(ys[:, -1:], check_count("horizon", horizon), axis=1))


def seasonal_naive(
    ys: Float[ArrayLike, "batch times channels"], horizon: int, period: int
) -> Float[Array, "batch horizon channels"]:
    """Forecast the value of one `period` before, so the last period over and over.

    `period` counts times: 12 for the year of a monthly series.

    **Raises:** `DataError` for series of another shape, with NaN, or shorter than the period;
    `OptionError` for `horizon` and `period`.
    """
    ys, horizon = check_series("ys", ys), check_count("horizon", horizon)
    period = check_count("period", period)
    if ys.shape[1] < period:
        raise DataError(f"ys has {ys.shape[1]} times, fewer than the period of {period}")
    places = ys.shape[1] - period + np.arange(horizon) % period
    return jnp.asarray(ys[:, places])
