"""A neural ODE 2-64-64-2 with tanh on a batch of 256 samples, solved as one system."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

_NETWORK = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
PARAMS, STATIC = eqx.partition(_NETWORK, eqx.is_inexact_array)
PARAMS = jax.tree.map(lambda x: 2.0 * x.astype(jnp.float64), PARAMS)
SAMPLES = jax.random.normal(jax.random.key(1), (256, 2), jnp.float64)
TIMES = jnp.array([0.0, 1.0])


def batch_field(t: Array, y: Array, params: PyTree) -> Array:
    """The vector field of all samples, shape (256, 2)."""
    return jax.vmap(eqx.combine(params, STATIC))(y)
