"""Trajectories in the order of the work that they are expected to make."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import BatchError
from ..problem.state import is_traced


def check_work(work: Any, count: int) -> Array | None:
    """`work` as an array. **Raises:** `BatchError` unless it has a number per trajectory."""
    if work is None:
        return None
    if np.shape(work) != (count,):
        raise BatchError(
            f"work has shape {np.shape(work)} where {count} trajectories need ({count},)"
        )
    if not is_traced(work) and not np.all(np.isfinite(np.asarray(work, float))):
        raise BatchError("work holds values that are not finite")
    return jax.lax.stop_gradient(jnp.asarray(work))


def longest_first(
    run: Callable[[PyTree, PyTree], PyTree], own: PyTree, shared: PyTree, work: Array | None
) -> PyTree:
    """`run(own, shared)`, its trajectories sorted by `work` and what it returns sorted back.

    Those that take long then share a block of a kernel, and begin first in a queue.
    """
    if work is None:
        return run(own, shared)
    order = jnp.argsort(work, descending=True)
    place = jnp.argsort(order)
    result = run(jax.tree.map(lambda x: x[order], own), shared)
    return jax.tree.map(lambda x: x[place], result)
