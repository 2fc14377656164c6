"""Infusions of a drug: a vector field with discontinuities at known times."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import expm

STARTS, LENGTH, INTERVAL = 12.0 * np.arange(20), 1.5, 12.0
DISCONTINUITIES = np.sort(np.concatenate([STARTS[1:], STARTS + LENGTH]))
SPAN = (0.0, INTERVAL * len(STARTS))


def infusions(t: Any, y: Any, args: Any) -> Array:
    """The vector field of the amounts in gut, blood and tissue."""
    on = jnp.any((t >= STARTS) & (t < STARTS + LENGTH))
    exchange = 0.3 * y[1] - 0.05 * y[2]
    gut = jnp.where(on, 100.0 / LENGTH, 0.0) - 0.8 * y[0]
    return jnp.stack([gut, 0.8 * y[0] - 0.15 * y[1] - exchange, exchange])


def exact_end_state() -> Array:
    """The end state from zero, by a matrix exponential for each smooth interval."""
    matrix = jnp.array([[-0.8, 0, 0, 1.0], [0.8, -0.45, 0.05, 0], [0, 0.3, -0.05, 0], [0] * 4])
    y = jnp.zeros(4)
    for _ in STARTS:
        y = expm(matrix * LENGTH) @ y.at[3].set(100.0 / LENGTH)
        y = expm(matrix * (INTERVAL - LENGTH)) @ y.at[3].set(0.0)
    return y[:3]
