"""Densities of normal variables, and their divergence from the standard normal."""

import jax.numpy as jnp
from jax import Array


def normal_log_density(x: Array, mean: Array, log_variance: Array) -> Array:
    """The log density of each normal variable, nats."""
    squares = (x - mean) ** 2 * jnp.exp(-log_variance)
    return -0.5 * (squares + log_variance + jnp.log(2 * jnp.pi).astype(x.dtype))


def kl_to_standard_normal(mean: Array, log_variance: Array) -> Array:
    """The Kullback-Leibler divergence of each normal variable from the standard normal, nats."""
    return 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
