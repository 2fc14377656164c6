"""Pallas kernels over blocks of lanes: memory layout of their arrays, loads and stores."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
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
from .lowering.pallas import pallas, triton
from .lowering.unsupported import NoKernelError

# Lanes of one warp of an NVIDIA GPU: a block has one thread per lane. A block with block arrays has
# two threads per lane in float32, four in float64: compiled for an H100, a thread then spills least
# in the loop over stages, and tensor cores compute no product twice.
_WARP_LANES, _WARP_BYTES, _MAX_WARPS = 32, 64, 8


class Block(NamedTuple):
    """The lanes of one program of a kernel, from `start` on."""

    start: Array
    lanes: int

    @property
    def trajectories(self) -> Array:
        """The index of the trajectory in each lane."""
        return self.start + jax.lax.broadcasted_iota(jnp.int32, (self.lanes,), 0)

    def load(self, ref: Any, shape: tuple[int, ...]) -> LaneScalars:
        """Load the lanes' arrays of `shape` from their columns."""
        size = int(np.prod(shape, dtype=int))
        elements = [ref[k, pallas().ds(self.start, self.lanes)] for k in range(size)]
        return LaneScalars.of(elements, shape, ref.dtype)

    def store(self, ref: Any, values: LaneScalars) -> None:
        """Store the lanes' arrays in their columns."""
        for k, element in enumerate(values.flat()):
            ref[k, pallas().ds(self.start, self.lanes)] = broadcast_to_lanes(
                element, ref.dtype, self.lanes
            )

    def store_sum(self, ref: Any, values: Any) -> None:
        """Store the sums over the lanes in the block's column."""
        if isinstance(values, LaneReduction):
            values.write(ref, pallas().program_id(0))
            return
        for k, element in enumerate(values.flat()):
            ref[k, pallas().program_id(0)] = jnp.sum(
                broadcast_to_lanes(element, ref.dtype, self.lanes)
            )

    def load_entry(self, ref: Any, index: Array) -> Array:
        """Load one entry per lane, at the lane's `index`, of a shared or per-trajectory table."""
        if len(ref.shape) == 1:
            return triton().load(ref.at[index])
        return triton().load(ref.at[index, self.trajectories])

    def load_row(self, ref: Any, index: Array, shape: tuple[int, ...], dtype: Any) -> LaneScalars:
        """Load a row of `shape` per lane, at the lane's `index`."""
        size = int(np.prod(shape, dtype=int))
        elements = [triton().load(ref.at[index, k, self.trajectories]) for k in range(size)]
        return LaneScalars.of(elements, shape, dtype)

    def store_row(self, ref: Any, mask: Array, index: Array, values: Sequence[Element]) -> None:
        """Store a row for each lane in `mask`, at the lane's `index`."""
        for k, element in enumerate(values):
            value = broadcast_to_lanes(element, ref.dtype, self.lanes).astype(ref.dtype)
            triton().store(ref.at[index, k, self.trajectories], value, mask=mask)


def load_shared(ref: Any, shape: tuple[int, ...]) -> LaneScalars:
    """Load a shared array, element by element."""
    size = int(np.prod(shape, dtype=int))
    return LaneScalars.of([ref[k] for k in range(size)], shape, ref.dtype)


def to_columns(x: Array, lanes: int) -> Array:
    """Reshape `(trajectories, ...)` to `(size, trajectories)`, padded to whole blocks."""
    return pad_to_blocks(x.reshape(x.shape[0], -1).T, lanes)


def pad_to_blocks(x: Array, lanes: int) -> Array:
    """Pad the last axis, the trajectories, to whole blocks with copies of the last one."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % lanes)], mode="edge")


def from_columns(x: Array, count: int, shape: tuple[int, ...]) -> Array:
    """Invert `to_columns`: reshape to `(count, *shape)`."""
    return x[:, :count].T.reshape(count, *shape)


class KernelInputs(NamedTuple):
    """The inputs of a kernel: arrays with trajectories first, shared arrays, and tables.

    A table is read at indices that are computed in the kernel. Its last axis is the trajectories,
    if it has such an axis.
    """

    per_trajectory: PyTree
    shared: PyTree
    tables: tuple[Array, ...]


def call_kernel(
    body: Callable[..., None],
    inputs: KernelInputs,
    outputs: Sequence[jax.ShapeDtypeStruct],
    count: int,
    lanes: int,
) -> list[Array]:
    """Call `body(block, per_trajectory, shared, tables, outputs)` for each block of `lanes`.

    The body receives `per_trajectory` and `shared` as scalarised arrays, `tables` and `outputs` as
    references. Arrays that the user's program captures are part of `inputs`: a kernel captures
    none. Returns the outputs.

    **Raises:** `NoKernelError` where a network has too few lanes.
    """
    (own, static_own), (shared, static_shared) = (
        eqx.partition(tree, eqx.is_array) for tree in (inputs.per_trajectory, inputs.shared)
    )
    own_arrays, own_def = jax.tree.flatten(own)
    shared_arrays, shared_def = jax.tree.flatten(shared)
    own_shapes = [x.shape[1:] for x in own_arrays]
    shared_shapes = [x.shape for x in shared_arrays]
    as_block = stored_as_blocks(shared_shapes)
    matrices = [x for x, flag in zip(shared_arrays, as_block, strict=True) if flag]
    if matrices and lanes < MIN_BLOCK and platform.backend() != "cpu":
        raise NoKernelError(f"a network needs at least {MIN_BLOCK} lanes")
    # Pallas accepts no empty arrays: a placeholder of one element stands for each.
    arrays = [_at_least_one_element(to_columns(x, lanes)) for x in own_arrays]
    arrays += [_at_least_one_element(x.reshape(-1)) for x in shared_arrays]
    ends = np.cumsum([len(own_arrays), len(shared_arrays), len(inputs.tables)])

    def kernel(*refs: Any) -> None:
        block = Block(pallas().program_id(0) * lanes, lanes)
        own_refs = zip(refs[: ends[0]], own_shapes, strict=True)
        shared_refs = zip(refs[ends[0] : ends[1]], shared_shapes, strict=True)
        own = jax.tree.unflatten(own_def, [block.load(r, s) for r, s in own_refs])
        values = [
            SharedMatrix(r, s, r.dtype) if flag else load_shared(r, s)
            for (r, s), flag in zip(shared_refs, as_block, strict=True)
        ]
        shared = jax.tree.unflatten(shared_def, values)
        trees = eqx.combine(own, static_own), eqx.combine(shared, static_shared)
        body(block, *trees, refs[ends[1] : ends[2]], refs[ends[2] :])

    pallas_kernel = pallas().pallas_call(
        kernel,
        out_shape=list(outputs),
        grid=(-(-count // lanes),),
        interpret=platform.backend() == "cpu",
        compiler_params=_compiler_params(lanes, matrices),
        name="jaxode",
    )
    return _first_order_only(pallas_kernel)(*arrays, *inputs.tables)


def _first_order_only(kernel: Callable[..., list[Array]]) -> Callable[..., list[Array]]:
    """Return the kernel with a `DifferentiationError` for its second derivatives."""
    undifferentiable = jax.custom_jvp(kernel)

    @undifferentiable.defjvp
    def _refuse(primals: Any, tangents: Any) -> Any:
        raise DifferentiationError(
            "a kernel is differentiated backwards once alone: second derivatives need kernel=False"
        )

    return undifferentiable


def call_reducing_kernel(
    body: Callable[..., tuple[PyTree, PyTree]],
    inputs: KernelInputs,
    ends: PyTree,
    totals: PyTree,
    count: int,
    lanes: int,
) -> tuple[PyTree, PyTree]:
    """Return `body(block, per_trajectory, shared, tables)`: results, and sums over trajectories.

    `ends`, `totals`: the shapes of the two for one trajectory.
    """
    end_leaves, total_leaves = jax.tree.leaves(ends), jax.tree.leaves(totals)
    padded = count + -count % lanes
    outputs = [jax.ShapeDtypeStruct((max(x.size, 1), padded), x.dtype) for x in end_leaves]
    outputs += [jax.ShapeDtypeStruct((x.size + 1, padded // lanes), x.dtype) for x in total_leaves]

    def write_outputs(block: Block, own: PyTree, shared: PyTree, tables: Any, refs: Any) -> None:
        results, sums = body(block, own, shared, tables)
        for ref, x in zip(refs, jax.tree.leaves(results, is_leaf=is_lane_value), strict=False):
            block.store(ref, x)
        # Padding lanes of the last block are left out of the sums.
        real = block.trajectories < count
        for ref, x in zip(
            refs[len(end_leaves) :], jax.tree.leaves(sums, is_leaf=is_lane_value), strict=True
        ):
            reduced = isinstance(x, LaneReduction)  # a sum over the active lanes already
            block.store_sum(ref, x if reduced else select_array(real, x, zeros_like(x)))

    outputs = call_kernel(write_outputs, inputs, outputs, count, lanes)
    results = [
        from_columns(x[: like.size], count, like.shape)
        for x, like in zip(outputs, end_leaves, strict=False)
    ]
    sums = [
        jnp.sum(x[: like.size], axis=1).reshape(like.shape)
        for x, like in zip(outputs[len(results) :], total_leaves, strict=True)
    ]
    structures = jax.tree.structure(ends), jax.tree.structure(totals)
    return jax.tree.unflatten(structures[0], results), jax.tree.unflatten(structures[1], sums)


def _compiler_params(lanes: int, matrices: list[Array]) -> Any:
    """Return the Triton options for a block of `lanes` that reads `matrices`; None on a TPU."""
    if platform.backend() == "tpu":
        return None
    warps = lanes // _WARP_LANES
    if matrices:
        warps = min(lanes * matrices[0].dtype.itemsize // _WARP_BYTES, _MAX_WARPS)
    return triton().CompilerParams(num_warps=max(warps, 1), num_stages=1)


def _at_least_one_element(x: Array) -> Array:
    return x if x.size else jnp.zeros((1,) * x.ndim, x.dtype)
