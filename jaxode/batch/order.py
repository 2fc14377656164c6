"""Trajectories sorted by the work that the user expects of each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import BatchError
from ..problem.state import is_traced
from ..problem.validation import real_array


def check_work(work: Any, count: int) -> Array | None:
    """Return `work` as an array. **Raises:** `BatchError` unless it has a number per trajectory."""
    if work is None:
        return None
    work = real_array("work", work, BatchError)
    if np.shape(work) != (count,):
        raise BatchError(
            f"work has shape {np.shape(work)} where {count} trajectories need ({count},)"
        )
    if not is_traced(work) and not np.all(np.isfinite(np.asarray(work))):
        raise BatchError("work holds values that are not finite")
    return jax.lax.stop_gradient(jnp.asarray(work))


def run_longest_first(
    run: Callable[[PyTree, PyTree], PyTree],
    per_trajectory: PyTree,
    shared: PyTree,
    work: Array | None,
) -> PyTree:
    """Call `run(per_trajectory, shared)` on trajectories sorted by `work`, the largest first.

    The results are sorted back. Expensive trajectories then share a block of a kernel, and enter
    the lanes first.
    """
    if work is None:
        return run(per_trajectory, shared)
    order = jnp.argsort(work, descending=True)
    rank = jnp.argsort(order)
    result = run(jax.tree.map(lambda x: x[order], per_trajectory), shared)
    return jax.tree.map(lambda x: x[rank], result)
