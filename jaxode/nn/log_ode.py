"""The control of a neural rough differential equation: the log-signature of each window."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float

from .controls import Control, Linear, linear_coefficients


class LogODE(Control):
    """A piecewise linear path whose slope is a window's depth-2 log-signature over its length.

    The channels are those of the data, then the Levy areas of all pairs of them; so steps may be
    as long as a window, however rough the data within.

    **Arguments:** as of `Linear`, whose path is summarised, and

    - `window`: how many pieces between two times make a window; the last one may be shorter.

    Source: Morrill et al., Neural rough differential equations for long time series (2021),
    arXiv 2009.08295.
    """

    def __init__(
        self, ts: ArrayLike, xs: ArrayLike, mask: ArrayLike | None = None, *, window: int = 8
    ) -> None:
        linear = Linear(ts, xs, mask)
        times, start = linear.knots, linear.coefficients[0, 0]
        steps = linear.coefficients[:, 1] * jnp.diff(times)[:, None]
        last = len(times) - 1
        ends = jnp.minimum(jnp.arange(0, last + window, window), last)
        padding = -last % window
        steps = jnp.pad(steps, ((0, padding), (0, 0))).reshape(-1, window, steps.shape[1])
        signatures = log_signature(steps)
        values = jnp.pad(jnp.cumsum(signatures, axis=0), ((1, 0), (0, 0)))
        self.knots = times[ends]
        self.coefficients = linear_coefficients(self.knots, values.at[:, : len(start)].add(start))


def log_signature(
    steps: Float[Array, "*windows pieces channels"],
) -> Float[Array, "*windows signature"]:
    """The log-signature of depth 2 of piecewise linear paths.

    **Arguments:** `steps`, the increment of each piece.

    **Returns:** for `c` channels the `c` increments of the whole, then the `c (c - 1) / 2` Levy
    areas of the pairs (0, 1), (0, 2), ..., (1, 2), ...: half the integral of
    `X_i dX_j - X_j dX_i` from the start.
    """
    so_far = jnp.cumsum(steps, axis=-2) - steps
    products = jnp.einsum("...pi,...pj->...ij", so_far, steps)
    areas = (products - jnp.swapaxes(products, -1, -2)) / 2
    i, j = jnp.triu_indices(steps.shape[-1], 1)
    return jnp.concatenate([steps.sum(-2), areas[..., i, j]], axis=-1)


def signature_channels(channels: int) -> int:
    """The number of channels of the depth-2 log-signature of a path of `channels` channels."""
    return channels * (channels + 1) // 2
