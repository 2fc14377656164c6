"""Where the batches of a training come from: arrays in memory or an iterator."""

from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from ..problem.errors import DataError, OptionError
from ..problem.validation import real_number
from .arrays import Arrays, check_batch_size, check_share, open_arrays, split
from .data import check_arrays, mapped_arrays
from .stream import Stream, is_stream, open_stream

Source = Arrays | Stream


def open_source(data: Any, axes: PyTree, batch_size: Any, by_epoch: bool) -> Source:
    """Check the data, and of an iterator its first batch. **Raises:** `DataError`, `OptionError`.

    An error of the options is one of `batch_size`.
    """
    if not is_stream(data):
        return open_arrays(data, axes, batch_size, by_epoch)
    if batch_size is not None:
        raise OptionError(
            f"batch_size={batch_size!r} is for data in memory: an iterator has batches already"
        )
    return open_stream(data, axes)


def hold_out(source: Source, validation: Any) -> tuple[Source, int]:
    """How many samples a share for validation takes, and the source after it, uncut so far.

    0 where validation is no share. **Raises:** `DataError`, `OptionError`.
    """
    share = real_number(validation)
    if share != share:
        return source, 0
    if isinstance(source, Stream):
        raise DataError("a share for validation needs data in memory: give validation data")
    number = check_share(share, source.size)
    check_batch_size(source.batch_size, source.size - number)
    return source._replace(size=source.size - number), number


def cut(source: Source, whole: Source, number: int, key: Array) -> tuple[Source, PyTree]:
    """Part `number` samples for validation, drawn by `key`, from the whole source."""
    return split(whole, number, key) if isinstance(whole, Arrays) and number else (source, None)


def validation_arrays(validation: Any, axes: PyTree, source: Source) -> PyTree:
    """Validation data, checked; of an iterator its first batch. **Raises:** `DataError`."""
    if is_stream(validation):
        arrays = open_stream(validation, axes, "validation").first
    else:
        arrays = validation
        check_arrays(arrays, mapped_arrays(arrays, axes, "validation"), "validation")
    if jax.tree.structure(arrays) != jax.tree.structure(source.first):
        raise DataError("validation data must have the structure of the data")
    return arrays


def check_full_batch(name: str, source: Source, sharding: NamedSharding | None) -> None:
    """Check that an optimiser sees all data in every step. **Raises:** `OptionError`."""
    if isinstance(source, Stream) or source.batch_size is not None or sharding is not None:
        raise OptionError(
            f"{name} compares losses of all data: give data in memory, no batch_size and no "
            "sharding"
        )
