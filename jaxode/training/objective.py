"""What a training minimises: a loss by name or a function of the user, with what is logged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..integrate.solution import Stats
from ..problem.errors import OptionError, unknown_name
from .losses import LOSSES

Loss = Callable[..., Any]


class Evaluation(NamedTuple):
    """The loss of a batch.

    - `loss`: a scalar, or the losses of the samples, shape `(samples,)`, whose mean it is.
    - `entries`: the scalars to log. `state`: that of the model after the batch, None if none.
    """

    loss: Array
    entries: dict[str, Array]
    state: Any


# A function `(model, state, batch, key)`.
Objective = Callable[[PyTree, Any, PyTree, Array], Evaluation]


def check_loss_option(loss: Any) -> None:
    """Check that a loss is a known name or a function. **Raises:** `OptionError`."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise unknown_name("loss", loss, LOSSES)
    elif not callable(loss):
        raise OptionError(f"loss must be a name or a function, got {loss!r}")


def log_entries(extra: dict) -> dict:
    """What is logged, with the statistics of a solve as two means."""
    stats = extra.pop("stats", None)
    if isinstance(stats, Stats):
        # Statistics of a batch are per sample.
        extra["evaluations"] = jnp.mean(stats.num_evaluations)
        extra["rejected"] = jnp.mean(stats.num_rejected)
    return extra
