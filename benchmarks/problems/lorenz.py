"""The Lorenz system of 1963."""

from typing import Any

import jax.numpy as jnp
from jax import Array

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
PARAMETERS = (SIGMA, RHO, BETA)


def lorenz(t: Array, y: Array, args: Array) -> Array:
    """The vector field with the parameters `(sigma, rho, beta)`."""
    sigma, rho, beta = args
    return jnp.stack([sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]])


def lorenz_of_rho(t: Any, y: Any, rho: Any) -> Array:
    """The vector field with the parameter rho alone; sigma and beta are constants."""
    return jnp.stack([SIGMA * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - BETA * y[2]])
