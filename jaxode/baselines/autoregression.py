"""Linear autoregression, fitted by least squares."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from ..problem.errors import DataError
from ..problem.validation import check_count
from .checks import check_series


def autoregression(
    ys: Float[ArrayLike, "batch times channels"],
    horizon: int,
    order: int,
    *,
    fitted_to: Float[ArrayLike, "samples long channels"] | None = None,
) -> Float[Array, "batch horizon channels"]:
    """Forecast by an autoregression, AR(`order`) with a constant, one step after the other.

    Each channel has weights of its own, `y[k] = c + w[1] y[k-1] + ... + w[order] y[k-order]`, by
    least squares over all times of all samples of `fitted_to`, which is `ys` if None. Of several
    weights that fit equally well those of the least norm are taken.

    **Raises:** `DataError` for series of another shape, with NaN, or of `order` times or fewer;
    `OptionError` for `horizon` and `order`.

    Source: G. E. P. Box and G. M. Jenkins, Time Series Analysis: Forecasting and Control (1970).
    """
    ys = check_series("ys", ys)
    train = ys if fitted_to is None else check_series("fitted_to", fitted_to)
    horizon, order = check_count("horizon", horizon), check_count("order", order)
    if train.shape[2] != ys.shape[2]:
        raise DataError(f"ys has {ys.shape[2]} channels, fitted_to {train.shape[2]}")
    if ys.shape[1] < order or train.shape[1] <= order:
        raise DataError(f"an autoregression of order {order} needs more times than that")
    channels = [_fit(train[..., i], order) for i in range(ys.shape[2])]
    forecasts = [_forecast(ys[..., i], horizon, *fit) for i, fit in enumerate(channels)]
    return jnp.asarray(np.stack(forecasts, -1))


def _fit(ys: np.ndarray, order: int) -> tuple[float, np.ndarray]:
    """The constant, and the weights from the oldest value to the newest, of `(samples, times)`."""
    windows = np.lib.stride_tricks.sliding_window_view(ys, order + 1, axis=1)
    windows = windows.reshape(-1, order + 1)
    middle = windows.mean()  # taken off, so that large values cost no digits
    inputs = np.concatenate([np.ones((len(windows), 1)), windows[:, :-1] - middle], axis=1)
    constant, *weights = np.linalg.lstsq(inputs, windows[:, -1] - middle, rcond=None)[0]
    return constant + middle * (1 - sum(weights)), np.array(weights)


def _forecast(ys: np.ndarray, horizon: int, constant: float, weights: np.ndarray) -> np.ndarray:
    """The next values of `(batch, times)`, shape `(batch, horizon)`."""
    values = list(ys[:, -len(weights) :].T)
    for _ in range(horizon):
        values.append(constant + weights @ np.stack(values[-len(weights) :]))
    return np.stack(values[-horizon:], -1)
