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


def mean_over_devices(
    value_and_grad: Callable, sharding: Any, num_samples: int, mapped: PyTree
) -> Callable:
    """Make `value_and_grad(model, state, batch, key, keep)` data parallel: the devices' mean.

    `mapped`: the pytree of a batch, True for arrays with an axis of samples; the others go whole to
    every device. `keep` is None: samples are not left out one by one.

    **Raises:** `DataError` unless the devices divide the samples.
    """
    sharding = find_sharding(sharding, [])
    assert sharding is not None
    axes, num_devices = mesh_axes(sharding), num_shards(sharding)
    if num_samples % num_devices:
        raise DataError(f"{num_devices} devices cannot share {num_samples} samples evenly")

    def spec(own: bool) -> PartitionSpec:
        return PartitionSpec(axes) if own else PartitionSpec()

    def data_parallel(model: PyTree, state: Any, batch: PyTree, key: Array, keep: None) -> Any:
        arrays, static = eqx.partition((model, state), eqx.is_array)

        def local_value_and_grad(arrays: PyTree, batch: PyTree, key: Array) -> Any:
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
            outputs = value_and_grad(*eqx.combine(arrays, static), batch, key, keep)
            return jax.tree.map(lambda x: _mean_or_max(x, axes), outputs)

        run_on_devices = jax.shard_map(
            local_value_and_grad,
            mesh=sharding.mesh,
            in_specs=(PartitionSpec(), jax.tree.map(spec, mapped), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        arrays, key = reshard_arrays((arrays, key), sharding, PartitionSpec())
        batch = jax.tree.map(lambda x, own: reshard_arrays(x, sharding, spec(own)), batch, mapped)
        return run_on_devices(arrays, batch, key)

    return data_parallel


def _mean_or_max(x: Array, axes: tuple[str, ...]) -> Array:
    """The mean over the devices, or for integers, such as a status, the maximum."""
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jax.lax.pmean(x, axes) if inexact else jax.lax.pmax(x, axes)
