"""Training data that do not fit into memory: iterators of batches."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import DataError, TrainingError
from ..problem.validation import shown_value
from .data import check_arrays, mapped_arrays, samples_of

_END = object()
_NO_STREAMS = (str, bytes, bytearray, set, frozenset, range, jax.Array, np.ndarray)


class Stream(NamedTuple):
    """Batches of an iterator.

    - `first`: its first batch. `rest`: the iterator after it. `again`: makes the iterator of
      another epoch, None if there is only one.
    - `axes`: which arrays of a batch have an axis of samples.
    """

    first: PyTree
    rest: Iterator
    again: Callable[[], Iterator] | None
    axes: PyTree

    @property
    def mapped(self) -> PyTree:
        """The pytree of a batch, True for the arrays with an axis of samples."""
        return mapped_arrays(self.first, self.axes)

    @property
    def samples(self) -> int:
        """The number of samples of the first batch."""
        return self.count(self.first)

    @property
    def validate_every(self) -> int:
        """Steps between validations by default."""
        return 100

    def count(self, batch: PyTree) -> int:
        """The number of samples of a batch."""
        return samples_of(self.axes)(batch)

    def planned(self, steps: int | None, epochs: int | None) -> int | None:
        """The steps of a training, 1000 by default; None if the data decide.

        **Raises:** `DataError` for several epochs of an iterator that does not begin again.
        """
        if epochs is not None and epochs > 1 and self.again is None:
            raise DataError(
                f"epochs={epochs} needs data that begin again: give a function that makes the "
                "iterator"
            )
        return 1000 if steps is None and epochs is None else steps

    def example(self) -> PyTree:
        """The shapes and dtypes of the first batch."""
        return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, self.first))

    def feed(
        self, steps: int | None, epochs: int | None, key: Array | None = None
    ) -> Iterator[tuple[PyTree, int]]:
        """The batch of each step, and its epoch; no more are drawn than steps are made."""
        steps = self.planned(steps, epochs)
        batch, batches, epoch, number = self.first, self.rest, 0, 0
        while True:
            yield jax.tree.map(jnp.asarray, batch), epoch
            number += 1
            if number == steps:
                return
            batch = _next_batch(batches, self.axes, number)
            if batch is _END:
                epoch += 1
                if epoch == epochs or self.again is None:
                    return
                batches = self.again()
                batch = _next_batch(batches, self.axes, number)
            if batch is _END:
                return

    def draw(self, batch: PyTree, key: Array, number: Array) -> PyTree:
        """The batch itself."""
        return batch


def is_stream(data: Any) -> bool:
    """True for an iterator, what makes one, and a function; not for arrays and pytrees of them."""
    if hasattr(data, "__next__"):
        return True
    leaf = jax.tree.structure(data) == jax.tree.structure(0) and not isinstance(data, type)
    iterable = hasattr(data, "__iter__") and not isinstance(data, _NO_STREAMS)
    return leaf and (callable(data) or iterable)


def open_stream(data: Any, axes: PyTree, what: str = "data") -> Stream:
    """Begin the iteration: its first batch is checked. **Raises:** `DataError`."""
    batches = _iterator(data, what)
    first = _next_batch(batches, axes, 0, what)
    if first is _END:
        raise DataError(f"the iterator of {what} has no batches")
    once = hasattr(data, "__next__")
    return Stream(first, batches, None if once else lambda: _iterator(data, what), axes)


def _iterator(data: Any, what: str) -> Iterator:
    try:
        batches: Any = data() if callable(data) else data
        if hasattr(batches, "__iter__") and not isinstance(batches, _NO_STREAMS):
            return iter(batches)
    except Exception as error:
        raise DataError(f"the function of {what} failed: {error}") from error
    raise DataError(
        f"a function of {what} must return an iterator of batches, got {shown_value(batches)}"
    )


def _next_batch(batches: Iterator, axes: PyTree, number: int, what: str = "data") -> Any:
    """The next batch as a pytree of arrays, or `_END`. **Raises:** `DataError`, `TrainingError`."""
    try:
        batch = next(batches, _END)
    except Exception as error:
        kind = DataError if number == 0 else TrainingError
        raise kind(
            f"the iterator of {what} raised {type(error).__name__} at step {number}: {error}"
        ) from error
    if batch is _END:
        return _END
    arrays = jax.tree.map(_as_array, batch)
    try:
        check_arrays(arrays, mapped_arrays(arrays, axes, what), f"a batch of {what}")
    except DataError as error:
        if number == 0:
            raise
        raise TrainingError(f"at step {number}: {error}") from error
    return arrays


def _as_array(leaf: Any) -> Any:
    """An array of NumPy for what turns into one, as a tensor of PyTorch does."""
    if isinstance(leaf, jax.Array | np.ndarray) or not hasattr(leaf, "__array__"):
        return leaf
    return np.asarray(leaf)
