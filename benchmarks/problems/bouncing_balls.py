"""Bouncing balls with different numbers of bounces, whose bounce times are known exactly."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

COUNT, GRAVITY = 1000, 9.81
MAX_BOUNCES = 24


class Balls(NamedTuple):
    """Initial heights, coefficients of restitution, and end times, which lie between bounces."""

    height: Array
    restitution: Array
    end: Array


def bouncing_balls() -> Balls:
    """Balls with 1 to 24 bounces, each number equally likely."""
    rng = np.random.default_rng(0)
    heights, restitutions = rng.uniform(1.0, 20.0, COUNT), rng.uniform(0.7, 0.95, COUNT)
    times = _first_bounces(jnp.asarray(heights), jnp.asarray(restitutions))
    last = rng.integers(0, MAX_BOUNCES, COUNT)
    ends = 0.5 * (times[np.arange(COUNT), last] + times[np.arange(COUNT), last + 1])
    return Balls(jnp.asarray(heights), jnp.asarray(restitutions), ends)


def free_fall(t: Any, y: Any, args: Any) -> Array:
    """The vector field of height and velocity between bounces."""
    return jnp.stack([y[1], -GRAVITY + 0 * y[1]])


def exact_bounce_times(balls: Balls) -> Array:
    """The times of the bounces, shape (balls, MAX_BOUNCES), NaN after the end."""
    times = _first_bounces(balls.height, balls.restitution)[:, :MAX_BOUNCES]
    return jnp.where(times < balls.end[:, None], times, jnp.nan)


def _first_bounces(heights: Array, restitutions: Array) -> Array:
    """The times of the first `MAX_BOUNCES + 1` bounces."""
    first = jnp.sqrt(2 * heights / GRAVITY)[:, None]
    flights = 2 * first * restitutions[:, None] ** jnp.arange(1, MAX_BOUNCES + 1)
    return jnp.concatenate([first, first + jnp.cumsum(flights, axis=1)], axis=1)
