"""Data parallelism: loss and gradient of a batch that is split over several devices."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

from ..batch.sharding import find_sharding, mesh_axes, num_shards, reshard_arrays
from ..problem.errors import DataError


def mean_over_devices(value_and_grad: Callable, sharding: Any, num_samples: int) -> Callable:
    """Make `value_and_grad(model, batch, key)` data parallel: the mean over the devices' shares.

    **Raises:** `DataError` unless the devices divide the samples.
    """
    sharding = find_sharding(sharding, [])
    assert sharding is not None
    axes, num_devices = mesh_axes(sharding), num_shards(sharding)
    if num_samples % num_devices:
        raise DataError(f"{num_devices} devices cannot share {num_samples} samples evenly")

    def data_parallel(model: PyTree, batch: PyTree, key: Array) -> Any:
        arrays, static = eqx.partition(model, eqx.is_array)

        def local_value_and_grad(arrays: PyTree, batch: PyTree, key: Array) -> Any:
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
            outputs = value_and_grad(eqx.combine(arrays, static), batch, key)
            return jax.tree.map(lambda x: _mean_or_max(x, axes), outputs)

        run_on_devices = jax.shard_map(
            local_value_and_grad,
            mesh=sharding.mesh,
            in_specs=(PartitionSpec(), PartitionSpec(axes), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        replicated = reshard_arrays((arrays, key), sharding, PartitionSpec())
        return run_on_devices(
            replicated[0], reshard_arrays(batch, sharding, PartitionSpec(axes)), replicated[1]
        )

    return data_parallel


def _mean_or_max(x: Array, axes: tuple[str, ...]) -> Array:
    """The mean over the devices, or for integers, such as a status, the maximum."""
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jax.lax.pmean(x, axes) if inexact else jax.lax.pmax(x, axes)
