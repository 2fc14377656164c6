"""What random draws share: checks of noise and key, labels dealt out, places kept."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int

from ..problem.errors import OptionError
from ..problem.state import is_traced


def check_noise(noise: Any) -> None:
    """**Raises:** `OptionError` for noise that is negative, or not a number."""
    if not is_traced(noise) and not np.all(np.isfinite(noise) & (np.asarray(noise) >= 0)):
        raise OptionError(f"noise must be a number that is not negative, got {noise}")


def check_key(key: Any) -> None:
    """**Raises:** `OptionError` unless `key` is one key of `jax.random`."""
    if isinstance(key, jax.Array):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if (typed and key.shape == ()) or (key.dtype == jnp.uint32 and key.ndim == 1):
            return
    raise OptionError(f"key must be one key, such as jax.random.key(0), got {key!r}")


def balanced_labels(n_points: int, classes: int, key: Array) -> Int[Array, " n_points"]:
    """Labels from 0 to `classes - 1` in random order, as many of each as of any, or one more."""
    return jax.random.permutation(key, jnp.arange(n_points) % classes)


def random_subsets(n_series: int, n: int, kept: int, key: Array) -> Bool[Array, "n_series n"]:
    """For each series which `kept` of its `n` places are kept, drawn without replacement."""
    places = jnp.broadcast_to(jnp.arange(n), (n_series, n))
    return jax.random.permutation(key, places, axis=1, independent=True) < kept
