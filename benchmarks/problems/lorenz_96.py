"""Lorenz's system of 1996, with a state of any size."""

from typing import Any

import jax.numpy as jnp
from jax import Array


def lorenz_96(t: Any, y: Any, forcing: Any) -> Array:
    """The vector field; each component depends on its neighbours in a ring."""
    return (jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1) - y + forcing
