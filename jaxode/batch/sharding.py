"""A batch over several devices: each runs its share, and none waits for another."""

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
    """The sharding of the trajectories: what is given, else that of the first mapped array.

    **Raises:** `OptionError` unless it is a `NamedSharding` whose first entry names mesh axes.
    """
    if sharding is None:
        found = [getattr(x, "sharding", None) for x in leaves if not isinstance(x, Tracer)]
        several = [s for s in found if isinstance(s, NamedSharding) and axes_of_mesh(s)]
        return several[0] if several else None
    if not isinstance(sharding, NamedSharding):
        raise OptionError(
            "sharding must be a jax.sharding.NamedSharding such as NamedSharding(mesh, "
            f'PartitionSpec("batch")), got {sharding!r}'
        )
    if not axes_of_mesh(sharding):
        raise OptionError(
            f"the first entry of sharding must name the mesh axes that share the trajectories, got "
            f"{sharding.spec}"
        )
    return sharding


def axes_of_mesh(sharding: NamedSharding) -> tuple[str, ...]:
    """The mesh axes over which the first axis of an array is spread."""
    first = sharding.spec[0] if len(sharding.spec) else None
    if first is None:
        return ()
    return first if isinstance(first, tuple) else (first,)


def devices_of(sharding: NamedSharding) -> int:
    """Over how many devices the trajectories are spread."""
    size = 1
    for name in axes_of_mesh(sharding):
        size *= sharding.mesh.shape[name]
    return size


def over_devices(
    run: Callable[[PyTree, PyTree], PyTree], own: PyTree, shared: PyTree, sharding: NamedSharding
) -> PyTree:
    """`run(own, shared)`, the first axis of `own` and of what it returns spread over devices.

    There is no collective in `run`; the cotangent of `shared` is summed over the devices at its
    end. Where the devices do not divide the trajectories, the last one fills up.
    """
    count = jax.tree.leaves(own)[0].shape[0]
    missing = -count % devices_of(sharding)
    own_arrays, own_rest = eqx.partition(own, eqx.is_array)
    shared_arrays, shared_rest = eqx.partition(shared, eqx.is_array)

    def fill(x: Array) -> Array:
        return jnp.concatenate([x, jnp.repeat(x[-1:], missing, axis=0)]) if missing else x

    def local(own_arrays: PyTree, shared_arrays: PyTree) -> PyTree:
        own = eqx.combine(own_arrays, own_rest)
        return run(own, eqx.combine(shared_arrays, shared_rest))

    spread, whole = PartitionSpec(axes_of_mesh(sharding)), PartitionSpec()
    results = jax.shard_map(
        local,
        mesh=sharding.mesh,
        in_specs=(spread, whole),
        out_specs=spread,
        check_vma=False,
    )(
        place(jax.tree.map(fill, own_arrays), sharding, spread),
        place(shared_arrays, sharding, whole),
    )
    if not missing:
        return results
    return jax.tree.map(lambda x: x[:count], place(results, sharding, whole))


def spread_out(own: PyTree, sharding: NamedSharding) -> PyTree:
    """`own` with its first axis over the devices, where they divide it."""
    count = jax.tree.leaves(own)[0].shape[0]
    spread = PartitionSpec(axes_of_mesh(sharding))
    return own if count % devices_of(sharding) else place(own, sharding, spread)


def place(tree: PyTree, sharding: NamedSharding, spec: PartitionSpec) -> PyTree:
    """`tree` as `spec` says, on a mesh of explicit axes; on another, JAX does so by itself."""
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    arrays, rest = eqx.partition(tree, eqx.is_array)
    there = NamedSharding(sharding.mesh, spec)
    return eqx.combine(jax.reshard(arrays, there) if explicit else arrays, rest)
