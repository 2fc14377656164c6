"""Validation while a training runs."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from .data import samples_of
from .objective import Objective
from .step import Carry, make_evaluation
from .stream import is_stream, open_stream

# A number that no step has, folded into the key for the losses of validation.
OF_VALIDATION = 2**32 - 3


class Validation(NamedTuple):
    """The evaluation of a model on data that it does not learn from.

    - `evaluate`: compiled, of `(model, state, batch, key)`. `batches`: makes the batches.
    - `axes`: which arrays of a batch have an axis of samples. `key`: the same each time.
    """

    evaluate: Callable[..., dict[str, Array]]
    batches: Callable[[], Iterable[PyTree]]
    axes: PyTree
    key: Array

    def __call__(self, carry: Carry) -> dict[str, float]:
        """The loss and the metrics by name: means over the samples of all batches."""
        sums: dict[str, float] = {}
        count = 0
        for batch in self.batches():
            size = samples_of(self.axes)(batch)
            record = self.evaluate(carry.model, carry.state, batch, self.key)
            record.pop("status", None)
            for name, value in record.items():
                sums[name] = sums.get(name, 0.0) + size * float(value)
            count += size
        return {name: total / count for name, total in sums.items()}


def find_validation(
    objective: Objective, data: PyTree | None, axes: PyTree, key: Array
) -> Validation | None:
    """The validation on these data, all of them in one batch, or an iterator's; None without."""
    if data is None:
        return None
    if is_stream(data):

        def batches() -> Iterable[PyTree]:
            return (batch for batch, _ in open_stream(data, axes, "validation").feed(None, 1))

    else:
        whole = jax.tree.map(jnp.asarray, data)

        def batches() -> Iterable[PyTree]:
            return (whole,)

    return Validation(
        make_evaluation(objective), batches, axes, jax.random.fold_in(key, OF_VALIDATION)
    )
