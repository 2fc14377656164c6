"""Loss and gradient of a batch that several devices share."""

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


def over_devices(value_and_grad: Callable, sharding: Any, samples: int) -> Callable:
    """`value_and_grad(model, batch, key)`, its means over the devices of the samples' shares.

    **Raises:** `DataError` unless the devices divide the samples.
    """
    sharding = find_sharding(sharding, [])
    assert sharding is not None
    axes, devices = mesh_axes(sharding), num_shards(sharding)
    if samples % devices:
        raise DataError(f"{devices} devices cannot share {samples} samples evenly")

    def together(model: PyTree, batch: PyTree, key: Array) -> Any:
        arrays, rest = eqx.partition(model, eqx.is_array)

        def local(arrays: PyTree, batch: PyTree, key: Array) -> Any:
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
            out = value_and_grad(eqx.combine(arrays, rest), batch, key)
            return jax.tree.map(lambda x: _joined(x, axes), out)

        share = jax.shard_map(
            local,
            mesh=sharding.mesh,
            in_specs=(PartitionSpec(), PartitionSpec(axes), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        whole = reshard_arrays((arrays, key), sharding, PartitionSpec())
        return share(whole[0], reshard_arrays(batch, sharding, PartitionSpec(axes)), whole[1])

    return together


def _joined(x: Array, axes: tuple[str, ...]) -> Array:
    """The mean over the devices; of integers, such as a status, the largest."""
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jax.lax.pmean(x, axes) if inexact else jax.lax.pmax(x, axes)
