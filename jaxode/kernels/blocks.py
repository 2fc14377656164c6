"""Kernels over blocks of lanes: how arrays lie in memory for them, and what they read and write."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import PyTree

from ..problem.errors import DifferentiationError
from .lowering import platform
from .lowering.block_arrays import MIN_BLOCK, LaneReduction, SharedMatrix, stored_as_blocks
from .lowering.lane_scalars import (
    Element,
    LaneScalars,
    broadcast_to_lanes,
    is_lane_value,
    select_array,
    zeros_like,
)
from .lowering.unsupported import NoKernelError

# Lanes of one warp of an NVIDIA GPU: a block has a thread for every lane. Where it keeps arrays
# whole it has two in float32 and four in float64: compiled for an H100, a thread then spills least
# in the loop over stages, and tensor cores do no product twice.
_WARP_LANES, _WARP_BYTES, _MAX_WARPS = 32, 64, 8


class Block(NamedTuple):
    """The lanes of one program of a kernel, from `start` on."""

    start: Array
    lanes: int

    @property
    def trajectories(self) -> Array:
        """Which trajectory is in which lane."""
        return self.start + jax.lax.broadcasted_iota(jnp.int32, (self.lanes,), 0)

    def load(self, ref: Any, shape: tuple[int, ...]) -> LaneScalars:
        """The lanes' arrays of `shape`, from their columns."""
        size = int(np.prod(shape, dtype=int))
        elements = [ref[k, pl.ds(self.start, self.lanes)] for k in range(size)]
        return LaneScalars.of(elements, shape, ref.dtype)

    def store(self, ref: Any, values: LaneScalars) -> None:
        """Write the lanes' arrays into their columns."""
        for k, element in enumerate(values.flat()):
            ref[k, pl.ds(self.start, self.lanes)] = broadcast_to_lanes(
                element, ref.dtype, self.lanes
            )

    def store_sum(self, ref: Any, values: Any) -> None:
        """Write the sums over the lanes into the block's column."""
        if isinstance(values, LaneReduction):
            values.write(ref, pl.program_id(0))
            return
        for k, element in enumerate(values.flat()):
            ref[k, pl.program_id(0)] = jnp.sum(broadcast_to_lanes(element, ref.dtype, self.lanes))

    def load_entry(self, ref: Any, index: Array) -> Array:
        """What each lane has at its own `index`, of a row of its own or one that all share."""
        if len(ref.shape) == 1:
            return triton.load(ref.at[index])
        return triton.load(ref.at[index, self.trajectories])

    def load_row(self, ref: Any, index: Array, shape: tuple[int, ...], dtype: Any) -> LaneScalars:
        """The row of each lane at its own `index`."""
        size = int(np.prod(shape, dtype=int))
        elements = [triton.load(ref.at[index, k, self.trajectories]) for k in range(size)]
        return LaneScalars.of(elements, shape, dtype)

    def store_row(self, ref: Any, mask: Array, index: Array, values: Sequence[Element]) -> None:
        """Write a row of each lane in `mask`, at its own `index`."""
        for k, element in enumerate(values):
            value = broadcast_to_lanes(element, ref.dtype, self.lanes).astype(ref.dtype)
            triton.store(ref.at[index, k, self.trajectories], value, mask=mask)


def load_shared(ref: Any, shape: tuple[int, ...]) -> LaneScalars:
    """What all lanes share, read once."""
    size = int(np.prod(shape, dtype=int))
    return LaneScalars.of([ref[k] for k in range(size)], shape, ref.dtype)


def to_columns(x: Array, lanes: int) -> Array:
    """An array `(trajectories, ...)` as `(numbers, trajectories)`, filled up to whole blocks."""
    return pad_to_blocks(x.reshape(x.shape[0], -1).T, lanes)


def pad_to_blocks(x: Array, lanes: int) -> Array:
    """The same with its last axis, the trajectories, filled up to whole blocks by the last one."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % lanes)], mode="edge")


def from_columns(x: Array, count: int, shape: tuple[int, ...]) -> Array:
    """The way back."""
    return x[:, :count].T.reshape(count, *shape)


class KernelInputs(NamedTuple):
    """What a kernel is given: arrays with trajectories first, arrays that all share, tables.

    A table is read at places that are known only inside: its trajectories are last, if it has any.
    """

    per_trajectory: PyTree
    shared: PyTree
    tables: tuple[Array, ...]


def call_kernel(
    body: Callable[..., None],
    given: KernelInputs,
    outputs: Sequence[jax.ShapeDtypeStruct],
    count: int,
    lanes: int,
) -> list[Array]:
    """Run `body(block, own, shared, tables, outputs)` on blocks of `lanes` of `count` trajectories.

    `per_trajectory` and `shared` are taken apart into elements, `tables` and `outputs` are references. Numbers
    that the user's program holds are part of `given`: a kernel closes over none.
    """
    (own, rest_own), (shared, rest_shared) = (
        eqx.partition(tree, eqx.is_array) for tree in (given.per_trajectory, given.shared)
    )
    own_arrays, own_def = jax.tree.flatten(own)
    shared_arrays, shared_def = jax.tree.flatten(shared)
    own_shapes = [x.shape[1:] for x in own_arrays]
    shared_shapes = [x.shape for x in shared_arrays]
    whole = stored_as_blocks(shared_shapes)
    wide = [x for x, flag in zip(shared_arrays, whole, strict=True) if flag]
    if any(whole) and lanes < MIN_BLOCK and platform.backend() != "cpu":
        raise NoKernelError(f"a network needs at least {MIN_BLOCK} lanes")
    # No array of a kernel may be empty: such a one has no elements, so its place is all it needs.
    arrays = [_at_least_one_element(to_columns(x, lanes)) for x in own_arrays]
    arrays += [_at_least_one_element(x.reshape(-1)) for x in shared_arrays]
    ends = np.cumsum([len(own_arrays), len(shared_arrays), len(given.tables)])

    def kernel(*refs: Any) -> None:
        block = Block(pl.program_id(0) * lanes, lanes)
        owns = zip(refs[: ends[0]], own_shapes, strict=True)
        shares = zip(refs[ends[0] : ends[1]], shared_shapes, strict=True)
        own = jax.tree.unflatten(own_def, [block.load(r, s) for r, s in owns])
        elements = [
            SharedMatrix(r, s, r.dtype) if flag else load_shared(r, s)
            for (r, s), flag in zip(shares, whole, strict=True)
        ]
        shared = jax.tree.unflatten(shared_def, elements)
        trees = eqx.combine(own, rest_own), eqx.combine(shared, rest_shared)
        body(block, *trees, refs[ends[1] : ends[2]], refs[ends[2] :])

    called = pl.pallas_call(
        kernel,
        out_shape=list(outputs),
        grid=(-(-count // lanes),),
        interpret=platform.backend() == "cpu",
        compiler_params=_compiler_params(lanes, wide),
        name="jaxode",
    )
    return _first_order_only(called)(*arrays, *given.tables)


def _first_order_only(called: Callable[..., list[Array]]) -> Callable[..., list[Array]]:
    """A kernel with an error of its own for second derivatives."""
    once = jax.custom_jvp(called)

    @once.defjvp
    def _again(primals: Any, tangents: Any) -> Any:
        raise DifferentiationError(
            "a kernel is differentiated backwards once alone: second derivatives need kernel=False"
        )

    return once


def call_reducing_kernel(
    body: Callable[..., tuple[PyTree, PyTree]],
    given: KernelInputs,
    ends: PyTree,
    totals: PyTree,
    count: int,
    lanes: int,
) -> tuple[PyTree, PyTree]:
    """What `body(block, own, shared, tables)` returns: what each trajectory has, and sums over all.

    `ends`, `totals`: their shapes, of one trajectory.
    """
    of_each, of_all = jax.tree.leaves(ends), jax.tree.leaves(totals)
    padded = count + -count % lanes
    outputs = [jax.ShapeDtypeStruct((max(x.size, 1), padded), x.dtype) for x in of_each]
    outputs += [jax.ShapeDtypeStruct((x.size + 1, padded // lanes), x.dtype) for x in of_all]

    def writing(block: Block, own: PyTree, shared: PyTree, tables: Any, refs: Any) -> None:
        found, sums = body(block, own, shared, tables)
        for ref, x in zip(refs, jax.tree.leaves(found, is_leaf=is_lane_value), strict=False):
            block.store(ref, x)
        # What fills up the last block has no part in a sum.
        real = block.trajectories < count
        for ref, x in zip(
            refs[len(of_each) :], jax.tree.leaves(sums, is_leaf=is_lane_value), strict=True
        ):
            whole = isinstance(x, LaneReduction)  # summed already, of lanes that were under way
            block.store_sum(ref, x if whole else select_array(real, x, zeros_like(x)))

    found = call_kernel(writing, given, outputs, count, lanes)
    kept = [
        from_columns(x[: like.size], count, like.shape)
        for x, like in zip(found, of_each, strict=False)
    ]
    sums = [
        jnp.sum(x[: like.size], axis=1).reshape(like.shape)
        for x, like in zip(found[len(kept) :], of_all, strict=True)
    ]
    structures = jax.tree.structure(ends), jax.tree.structure(totals)
    return jax.tree.unflatten(structures[0], kept), jax.tree.unflatten(structures[1], sums)


def _compiler_params(lanes: int, wide: list[Array]) -> Any:
    """`wide`: the arrays that are kept whole."""
    if platform.backend() == "tpu":
        return None
    warps = lanes // _WARP_LANES
    if wide:
        warps = min(lanes * wide[0].dtype.itemsize // _WARP_BYTES, _MAX_WARPS)
    return triton.CompilerParams(num_warps=max(warps, 1), num_stages=1)


def _at_least_one_element(x: Array) -> Array:
    return x if x.size else jnp.zeros((1,) * x.ndim, x.dtype)
