"""Training data in memory: split for validation, and cut into batches."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import DataError, OptionError
from ..problem.validation import is_count
from .data import check_arrays, mapped_arrays, take

# Numbers that no step has, folded into the key for what is drawn beside the steps.
ORDER_OF_EPOCHS, SPLIT = 2**32 - 1, 2**32 - 2


class Arrays(NamedTuple):
    """Data in memory, and how batches are cut of them.

    - `arrays`: a pytree of arrays. `mapped`: the same pytree, True for arrays whose first axis is
      that of the samples, False for those that all samples share.
    - `size`: the number of samples. `batch_size`: samples of a batch; None for all of them.
    - `by_epoch`: each epoch goes through the samples in a new order; else every batch is drawn
      afresh.
    """

    arrays: PyTree
    mapped: PyTree
    size: int
    batch_size: int | None
    by_epoch: bool

    @property
    def samples(self) -> int:
        """The number of samples of a batch."""
        return self.batch_size or self.size

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches of an epoch."""
        return self.size // self.samples

    @property
    def first(self) -> PyTree:
        """The arrays that are checked."""
        return self.arrays

    @property
    def validate_every(self) -> int:
        """Steps between validations by default."""
        return max(self.steps_per_epoch, 10)

    def count(self, given: PyTree) -> int:
        """The number of samples of a batch of what a step is given."""
        return self.samples

    def planned(self, steps: int | None, epochs: int | None) -> int:
        """The steps of a training that is given in steps or in epochs; 1000 by default."""
        if epochs is not None:
            return epochs * self.steps_per_epoch
        return 1000 if steps is None else steps

    def example(self) -> PyTree:
        """The shapes and dtypes of a batch."""

        def shape(x: Any, mapped: bool) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(
                (self.samples, *x.shape[1:]) if mapped else x.shape,
                jax.dtypes.canonicalize_dtype(x.dtype),
            )

        return jax.tree.map(shape, self.arrays, self.mapped)

    def feed(
        self, steps: int | None, epochs: int | None, key: Array
    ) -> Iterator[tuple[PyTree, int]]:
        """What each step is given, and its epoch: the arrays, and the order of samples if any."""
        arrays, order = jax.tree.map(jnp.asarray, self.arrays), None
        key = jax.random.fold_in(key, ORDER_OF_EPOCHS)
        for number in range(self.planned(steps, epochs)):
            if not self.by_epoch:
                yield (arrays, None), number * self.samples // self.size
                continue
            epoch = number // self.steps_per_epoch
            if self.batch_size is not None and number % self.steps_per_epoch == 0:
                order = jax.random.permutation(jax.random.fold_in(key, epoch), self.size)
            yield (arrays, order), epoch

    def draw(self, given: PyTree, key: Array, number: Array) -> PyTree:
        """The batch of step `number` from what it is given, traced; `key`: of this step."""
        arrays, order = given
        if self.batch_size is None:
            return arrays
        if order is None:
            indices = jax.random.choice(key, self.size, (self.samples,), replace=False)
        else:
            start = (number % self.steps_per_epoch).astype(order.dtype) * self.samples
            indices = jax.lax.dynamic_slice_in_dim(order, start, self.samples)
        return take(arrays, self.mapped, indices)


def open_arrays(arrays: PyTree, axes: PyTree, batch_size: Any, by_epoch: bool) -> Arrays:
    """Check data in memory. **Raises:** `DataError`, `OptionError` for another `batch_size`."""
    mapped = mapped_arrays(arrays, axes)
    size = check_arrays(arrays, mapped)
    check_batch_size(batch_size, size)
    return Arrays(arrays, mapped, size, None if batch_size is None else int(batch_size), by_epoch)


def check_batch_size(batch_size: Any, size: int) -> None:
    """Check that samples for a batch are there. **Raises:** `OptionError`."""
    if batch_size is not None and not (is_count(batch_size) and batch_size <= size):
        raise OptionError(
            f"batch_size must be an integer between 1 and {size} samples, got {batch_size!r}"
        )


def check_share(share: float, size: int) -> int:
    """How many samples a share for validation takes. **Raises:** `DataError` for none or all."""
    number = round(share * size)
    if not 0 < number < size:
        raise DataError(
            f"validation={share} of {size} samples leaves {number} for validation and "
            f"{size - number} for training"
        )
    return number


def split(data: Arrays, number: int, key: Array) -> tuple[Arrays, PyTree]:
    """Part `number` samples from the data, drawn by `key`: what is left, and those."""
    order = jax.random.permutation(jax.random.fold_in(key, SPLIT), data.size)
    rest = take(data.arrays, data.mapped, order[number:])
    held_out = take(data.arrays, data.mapped, order[:number])
    return data._replace(arrays=rest, size=data.size - number), held_out
