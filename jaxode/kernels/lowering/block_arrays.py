"""Block arrays: a network's weights, and the vectors of its hidden layers, not scalarised.

Element by element they would take thousands of operations. Instead, the vectors of all lanes form a
block `(lanes, padded size)`, whose padded size is a power of two of at least 16, as matrix products
require. Padding may hold any number: it is masked before it enters a sum.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import platform
from .lane_scalars import LaneScalars, LaneValue, is_constant
from .pallas import triton
from .unsupported import NoKernelError

MIN_BLOCK = 16


def stored_as_blocks(shapes: Sequence[tuple[int, ...]]) -> list[bool]:
    """Mark the shared arrays of a network: large matrices, and vectors that fit them in size."""
    large = [len(s) == 2 and min(s) > 0 and max(s) >= MIN_BLOCK for s in shapes]
    sizes = {n for s, flag in zip(shapes, large, strict=True) if flag for n in s if n >= MIN_BLOCK}
    return [flag or (len(s) == 1 and s[0] in sizes) for s, flag in zip(shapes, large, strict=True)]


def padded_size(size: int) -> int:
    """Return the next power of two, at least 16."""
    return max(MIN_BLOCK, 1 << (size - 1).bit_length())


def block_indices(shape: tuple[int, ...], axis: int) -> Array:
    """Return the index along an axis, for every entry of a block."""
    return lax.broadcasted_iota(jnp.int32, shape, axis)


@dataclasses.dataclass(frozen=True, eq=False)
class SharedMatrix(LaneValue):
    """A reference to a vector or matrix that all lanes share, stored row by row."""

    ref: Any
    shape: tuple[int, ...]
    dtype: np.dtype

    def row(self, index: int, axis: int) -> Array:
        """Load the slice at an index of an axis of the matrix, padded with zeros."""
        stride, other = self._strides(axis), self.shape[1 - axis]
        position = block_indices((padded_size(other),), 0)
        return self._load(index * stride[0] + position * stride[1], position < other)

    def matrix(self, axis: int) -> Array:
        """Load the matrix, `axis` first, padded with zeros."""
        stride = self._strides(axis)
        sizes = self.shape[axis], self.shape[1 - axis]
        shape = padded_size(sizes[0]), padded_size(sizes[1])
        first, second = block_indices(shape, 0), block_indices(shape, 1)
        inside = (first < sizes[0]) & (second < sizes[1])
        return self._load(first * stride[0] + second * stride[1], inside)

    def vector(self) -> Array:
        """Load the vector, padded with zeros."""
        position = block_indices((padded_size(self.shape[0]),), 0)
        return self._load(position, position < self.shape[0])

    def scalarise(self) -> LaneScalars:
        """Return the array as scalars."""
        elements = [self.ref[k] for k in range(int(np.prod(self.shape)))]
        return LaneScalars.of(elements, self.shape, self.dtype)

    def _strides(self, axis: int) -> tuple[int, int]:
        """Return the memory stride along an axis, and along the other."""
        strides = self.shape[1], 1
        return strides[axis], strides[1 - axis]

    def _load(self, position: Array, inside: Array) -> Array:
        zero = jnp.zeros((), self.dtype)
        return triton().load(self.ref.at[jnp.where(inside, position, 0)], mask=inside, other=zero)


@dataclasses.dataclass(frozen=True, eq=False)
class LaneVector(LaneValue):
    """A vector per lane: `block` of shape `(lanes, padded size)`."""

    block: Array
    shape: tuple[int, ...]
    dtype: np.dtype

    def masked(self) -> Array:
        """Return the block with zeros as padding."""
        if self.block.shape[1] == self.shape[0]:
            return self.block
        return jnp.where(block_indices(self.block.shape, 1) < self.shape[0], self.block, 0)

    def scalarise(self) -> LaneScalars:
        """Return the array as scalars."""
        column, boolean = block_indices(self.block.shape, 1), self.dtype == bool
        block = self.block.astype(jnp.int32) if boolean else self.block
        columns = (jnp.where(column == k, block, 0) for k in range(self.shape[0]))
        sums = [jnp.sum(column, axis=1, dtype=block.dtype) for column in columns]
        return LaneScalars.of([x != 0 for x in sums] if boolean else sums, self.shape, self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class OuterSum(LaneValue):
    """A matrix per lane: the sum of the outer products of `pairs` of vectors."""

    pairs: tuple[tuple[Any, Any], ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    def scalarise(self) -> LaneScalars:
        """Return the array as scalars."""
        rows = [(left.flat(), right.flat()) for left, right in self.pairs]
        elements = [
            sum(left[i] * right[j] for left, right in rows) for i, j in np.ndindex(*self.shape)
        ]
        return LaneScalars.of(elements, self.shape, self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class LaneReduction(LaneValue):
    """A sum over lanes and loop iterations, as a padded block."""

    block: Array
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def zeros(cls, like: Any) -> "LaneReduction":
        """Return the empty sum, with the shape and dtype of an array."""
        block = jnp.zeros(tuple(map(padded_size, like.shape)), like.dtype)
        return cls(block, like.shape, like.dtype)

    def scalarise(self) -> LaneScalars:
        """Refuse to scalarise an incomplete sum. **Raises:** `NoKernelError`."""
        raise NoKernelError("a sum over trajectories that is used before it is complete")

    def with_elements(
        self, elements: LaneScalars, active: Callable[[Array], Array]
    ) -> "LaneReduction":
        """Add the sums of elements over the lanes; `active` masks an element's inactive lanes."""
        block = self.block
        for position, element in zip(np.ndindex(*self.shape), elements.flat(), strict=True):
            here = jnp.full(block.shape, True)
            for axis, index in enumerate(position):
                here = here & (block_indices(block.shape, axis) == index)
            block = jnp.where(here, block + jnp.sum(active(element)), block)
        return LaneReduction(block, self.shape, self.dtype)

    def write(self, ref: Any, column: Any) -> None:
        """Store the sum in a column of `ref`, row by row; padding goes to its last row."""
        shape = self.block.shape
        step = [int(np.prod(self.shape[i + 1 :])) for i in range(len(shape))]
        position, inside = jnp.zeros(shape, jnp.int32), jnp.full(shape, True)
        for axis, size in enumerate(self.shape):
            here = block_indices(shape, axis)
            position, inside = position + here * step[axis], inside & (here < size)
        at = jnp.where(inside, position, int(np.prod(self.shape)))
        triton().store(ref.at[at, jnp.full(shape, column, jnp.int32)], self.block, mask=inside)


def matmul(a: Array, b: Array, over: tuple[int, int] = (1, 0)) -> Array:
    """Return the product of two matrices over the axes `over`."""
    precision = lax.Precision.HIGHEST
    if a.dtype == jnp.float32 and platform.backend() != "cpu":
        # Three TF32 products on tensor cores are exact to the last bit or two of float32.
        precision = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    numbers = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a, b, numbers, precision=precision)


def as_block(x: Any, lanes: int) -> Array:
    """Return a vector of any kind as a block over all lanes."""
    size = padded_size(x.shape[0])
    if isinstance(x, LaneVector):
        return x.block
    if isinstance(x, SharedMatrix):
        return jnp.broadcast_to(x.vector()[None], (lanes, size))
    elements = x.flat()
    first = elements[0]
    if all(c is first or (is_constant(c) and is_constant(first) and c == first) for c in elements):
        return jnp.broadcast_to(column(first, x.dtype), (lanes, size))
    here, block = block_indices((lanes, size), 1), jnp.zeros((lanes, size), x.dtype)
    for k, element in enumerate(elements):
        block = jnp.where(here == k, column(element, x.dtype), block)
    return block


def column(element: Any, dtype: Any) -> Array:
    """Return an element as a column of a block."""
    if is_constant(element) or not element.ndim:
        return jnp.full((1, 1), element, dtype)
    return element[:, None]
