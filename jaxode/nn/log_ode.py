"""The control of a neural rough differential equation: the log-signature of each window."""

import jax.numpy as jnp
from jaxtyping import ArrayLike

from ..problem.validation import check_count
from .controls import Control, LinearInterpolation, linear_coefficients
from .log_signature import log_signature


class LogODE(Control):
    """A piecewise linear path whose slope is a window's log-signature over its length.

    At depth 2 the channels are those of the data, then the Levy areas of all pairs of them, at
    higher depths further iterated integrals, in the order of `log_signature`; so steps may be as
    long as a window, however rough the data within.

    **Arguments:** as of `LinearInterpolation`, whose path is summarised, and

    - `window`: how many pieces between two times make a window; the last one may be shorter.
    - `depth`: of the log-signature.

    **Raises:** as `LinearInterpolation`, and `OptionError` for a window or depth below 1.

    Source: Morrill et al., Neural rough differential equations for long time series (2021),
    arXiv 2009.08295.
    """

    def __init__(
        self,
        ts: ArrayLike,
        xs: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        window: int = 8,
        depth: int = 2,
    ) -> None:
        window, depth = check_count("window", window), check_count("depth", depth)
        linear = LinearInterpolation(ts, xs, mask)
        times, start = linear.knots, linear.coefficients[0, 0]
        steps = linear.coefficients[:, 1] * jnp.diff(times)[:, None]
        last = len(times) - 1
        ends = jnp.minimum(jnp.arange(0, last + window, window), last)
        padding = -last % window
        steps = jnp.pad(steps, ((0, padding), (0, 0))).reshape(-1, window, steps.shape[1])
        signatures = log_signature(steps, depth)
        values = jnp.pad(jnp.cumsum(signatures, axis=0), ((1, 0), (0, 0)))
        self.knots = times[ends]
        self.coefficients = linear_coefficients(self.knots, values.at[:, : len(start)].add(start))
