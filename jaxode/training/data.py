"""Training data: checks, and the axes of their samples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..problem.errors import DataError
from ..problem.state import is_numeric
from ..problem.validation import is_count, shown_value

_SHARED = object()  # None as a leaf: jax.tree takes None for an empty tree


def mapped_arrays(arrays: PyTree, axes: PyTree, what: str = "data") -> PyTree:
    """Mark the arrays whose first axis is that of the samples. **Raises:** `DataError`.

    `axes`: 0 for these and None for shared ones, or a pytree of such entries, a prefix of the data.
    """
    marked = jax.tree.map(lambda axis: _SHARED if axis is None else axis, axes, is_leaf=_is_none)
    for entry in jax.tree.leaves(marked):
        if entry is not _SHARED and not (is_count(entry, 0) and entry == 0):
            raise DataError(
                "data_axes must hold 0 for arrays of samples and None for arrays that all samples "
                f"share, got {shown_value(axes)}"
            )
    try:
        full = jax.tree.broadcast(marked, arrays)
    except ValueError as error:
        raise DataError(
            f"data_axes={shown_value(axes)} does not fit the structure of {what}"
        ) from error
    return jax.tree.map(lambda entry: entry is not _SHARED, full)


def check_arrays(arrays: PyTree, mapped: PyTree, what: str = "data") -> int:
    """Check arrays of samples, and return their number. **Raises:** `DataError`."""
    leaves, own = jax.tree.leaves(arrays), jax.tree.leaves(mapped)
    known = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)
    if not leaves or not known or any(x.ndim == 0 for x, m in zip(leaves, own, strict=True) if m):
        raise DataError(f"{what} must be a pytree of arrays with a common first axis of samples")
    sizes = [x.shape[0] for x, m in zip(leaves, own, strict=True) if m]
    if not sizes:
        raise DataError("data_axes=None says that no array has an axis of samples")
    if len(set(sizes)) != 1 or sizes[0] == 0:
        raise DataError(
            f"{what} must agree in the number of samples, got {sizes}; arrays that all samples "
            "share, such as times, have None in data_axes"
        )
    for i, leaf in enumerate(leaves):
        if not is_numeric(leaf.dtype):
            raise DataError(f"array {i} of {what} holds no numbers: {shown_value(leaf)}")
    return sizes[0]


def check_pair(arrays: PyTree, what: str = "data") -> None:
    """Check data for a loss by name: `(x, y)` without NaN. **Raises:** `DataError`."""
    if not isinstance(arrays, tuple | list) or len(arrays) != 2:
        raise DataError(f"a loss by name needs {what}=(x, y); give a function for other data")
    for i, leaf in enumerate(jax.tree.leaves(arrays)):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            bad = np.argwhere(~np.isfinite(np.asarray(leaf)))
            if bad.size:
                raise DataError(
                    f"array {i} of {what} is not finite at sample {int(bad[0][0])}, which a loss "
                    "by name needs; a function may give NaN a meaning"
                )


def check_labels(labels: Any, classes: int, what: str = "data") -> None:
    """Check that every label has a logit of the model. **Raises:** `DataError`."""
    labels = np.asarray(labels)
    if labels.dtype.kind in "iu" and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"labels of {what} must lie between 0 and {classes - 1}, for the model gives {classes} "
            f"logits; got {labels.min()} to {labels.max()}"
        )


def samples_of(axes: PyTree) -> Callable[[PyTree], int]:
    """The number of samples of a batch with these axes, as a function of it."""
    return lambda batch: check_arrays(batch, mapped_arrays(batch, axes), "a batch")


def take(arrays: PyTree, mapped: PyTree, indices: Any) -> PyTree:
    """These samples; what all samples share is kept whole."""
    return jax.tree.map(lambda x, own: x[indices] if own else x, arrays, mapped)


def _is_none(x: Any) -> bool:
    return x is None
