"""Helpers of random data sets: balanced labels and random subsets."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int


def balanced_labels(n_points: int, classes: int, key: Array) -> Int[Array, " n_points"]:
    """Labels from 0 to `classes - 1` in random order, their counts equal or one apart."""
    return jax.random.permutation(key, jnp.arange(n_points) % classes)


def random_subsets(n_series: int, n: int, size: int, key: Array) -> Bool[Array, "n_series n"]:
    """For each series a mask of `size` of its `n` places, drawn without replacement."""
    order = jnp.broadcast_to(jnp.arange(n), (n_series, n))
    return jax.random.permutation(key, order, axis=1, independent=True) < size
