"""Helpers of random data sets: checks of noise and key, balanced labels, random subsets."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int

from ..problem.errors import OptionError
from ..problem.state import is_traced


def check_noise(noise: Any) -> None:
    """Check a noise level. **Raises:** `OptionError` if it is negative or not a number."""
    if not is_traced(noise) and not np.all(np.isfinite(noise) & (np.asarray(noise) >= 0)):
        raise OptionError(f"noise must be a number that is not negative, got {noise}")


def check_key(key: Any) -> None:
    """Check a key. **Raises:** `OptionError` unless it is one key of `jax.random`."""
    if isinstance(key, jax.Array):
        is_typed_key = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if (is_typed_key and key.shape == ()) or (key.dtype == jnp.uint32 and key.ndim == 1):
            return
    raise OptionError(f"key must be one key, such as jax.random.key(0), got {key!r}")


def balanced_labels(n_points: int, classes: int, key: Array) -> Int[Array, " n_points"]:
    """Labels from 0 to `classes - 1` in random order, their counts equal or one apart."""
    return jax.random.permutation(key, jnp.arange(n_points) % classes)


def random_subsets(n_series: int, n: int, size: int, key: Array) -> Bool[Array, "n_series n"]:
    """For each series a mask of `size` of its `n` places, drawn without replacement."""
    order = jnp.broadcast_to(jnp.arange(n), (n_series, n))
    return jax.random.permutation(key, order, axis=1, independent=True) < size
