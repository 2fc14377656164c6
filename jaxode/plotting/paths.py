"""The trajectories of points under a flow, of any kind of model that has them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from ..problem.errors import OptionError
from ..problem.times import check_times


def check_flow(model: Any) -> None:
    """Check that `paths_of` can take the model. **Raises:** `OptionError`."""
    if isinstance(model, type) or not (_is_flow_map(model) or _is_density(model)):
        raise OptionError(f"model must be a NeuralODE or a CNF, got {type(model).__name__}")


def times_of(model: Any, times: ArrayLike | None, count: int) -> np.ndarray:
    """The times of the user, or `count` from `model.t0` to `model.t1`. **Raises:** `TimesError`."""
    if times is None:
        times = np.linspace(float(model.t0), float(model.t1), count)
    return np.asarray(check_times(times))


def paths_of(model: Any, X: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The first two coordinates of each point at each of the times, shape `(n, m, 2)`.

    A `CNF` moves points of its base to data, and a `NeuralODE` its inputs to its outputs.
    """
    x = jnp.asarray(X, jnp.result_type(float))
    if _is_flow_map(model):
        states = jax.tree.leaves(model.solve(x, jnp.asarray(times)).ys)[0]  # first of a pair
    else:
        states = model.inverse(x, ts=jnp.asarray(times))
    return np.asarray(states)[..., :2]


def _is_flow_map(model: Any) -> bool:
    return bool(getattr(model, "flow_map", False))


def _is_density(model: Any) -> bool:
    return hasattr(model, "base") and callable(getattr(model, "inverse", None))
