"""A batch sharded over sharded devices, each of which runs its own loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ..problem.errors import OptionError


def find_sharding(sharding: Any, leaves: list[Any]) -> NamedSharding | None:
    """Return the sharding of the trajectories: the one given, else that of the first mapped array.

    **Raises:** `OptionError` unless it is a `NamedSharding` whose first entry names mesh axes.
    """
    if sharding is None:
        shardings = [getattr(x, "sharding", None) for x in leaves if not isinstance(x, Tracer)]
        sharded = [s for s in shardings if isinstance(s, NamedSharding) and mesh_axes(s)]
        return sharded[0] if sharded else None
    if not isinstance(sharding, NamedSharding):
        raise OptionError(
            "sharding must be a jax.sharding.NamedSharding such as NamedSharding(mesh, "
            f'PartitionSpec("batch")), got {sharding!r}'
        )
    if not mesh_axes(sharding):
        raise OptionError(
            f"the first entry of sharding must name the mesh axes that share the trajectories, got "
            f"{sharding.spec}"
        )
    return sharding


def mesh_axes(sharding: NamedSharding) -> tuple[str, ...]:
    """Return the mesh axes over which the first axis of an array is sharded."""
    first = sharding.spec[0] if len(sharding.spec) else None
    if first is None:
        return ()
    return first if isinstance(first, tuple) else (first,)


def num_shards(sharding: NamedSharding) -> int:
    """Return the number of shards of the trajectories."""
    size = 1
    for name in mesh_axes(sharding):
        size *= sharding.mesh.shape[name]
    return size


def run_sharded(
    run: Callable[[PyTree, PyTree], PyTree],
    per_trajectory: PyTree,
    shared: PyTree,
    sharding: NamedSharding,
) -> PyTree:
    """Call `run(per_trajectory, shared)` on shards of the trajectories, one on each device.

    The first axis of `per_trajectory` and of the results is sharded. `run` contains no collective;
    the cotangent of `shared` is summed over the devices at the end. Where the number of devices
    does not divide that of the trajectories, copies of the last trajectory pad the batch.
    """
    count = jax.tree.leaves(per_trajectory)[0].shape[0]
    padding = -count % num_shards(sharding)
    own_arrays, own_static = eqx.partition(per_trajectory, eqx.is_array)
    shared_arrays, shared_static = eqx.partition(shared, eqx.is_array)

    def pad(x: Array) -> Array:
        return jnp.concatenate([x, jnp.repeat(x[-1:], padding, axis=0)]) if padding else x

    def run_shard(own_arrays: PyTree, shared_arrays: PyTree) -> PyTree:
        return run(eqx.combine(own_arrays, own_static), eqx.combine(shared_arrays, shared_static))

    sharded, replicated = PartitionSpec(mesh_axes(sharding)), PartitionSpec()
    results = jax.shard_map(
        run_shard,
        mesh=sharding.mesh,
        in_specs=(sharded, replicated),
        out_specs=sharded,
        check_vma=False,
    )(
        reshard_arrays(jax.tree.map(pad, own_arrays), sharding, sharded),
        reshard_arrays(shared_arrays, sharding, replicated),
    )
    if not padding:
        return results
    return jax.tree.map(lambda x: x[:count], reshard_arrays(results, sharding, replicated))


def shard_trajectories(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Shard the first axis of `tree` over the devices, where their number divides its size."""
    count = jax.tree.leaves(tree)[0].shape[0]
    spec = PartitionSpec(mesh_axes(sharding))
    return tree if count % num_shards(sharding) else reshard_arrays(tree, sharding, spec)


def reshard_arrays(tree: PyTree, sharding: NamedSharding, spec: PartitionSpec) -> PyTree:
    """Reshard the arrays of `tree` to `spec` on a mesh of explicit axes; JAX does so on others."""
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    arrays, rest = eqx.partition(tree, eqx.is_array)
    target = NamedSharding(sharding.mesh, spec)
    return eqx.combine(jax.reshard(arrays, target) if explicit else arrays, rest)
