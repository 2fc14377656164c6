"""Arrays inside of `jax.shard_map`, whose types tell over which axes of the mesh they vary.

A loop may not begin with constants and go on with arrays that vary. So the arrays of a solve are
made to vary over the same axes, and inside of it no axis is known. Where JAX transposes that, the
cotangents of what is shared are summed over the devices.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jax import lax
from jax.core import ShapedArray
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree


def varying_axes(x: Any) -> frozenset[str]:
    """The axes over which an array varies; `x` may be the type of one."""
    kind = x if isinstance(x, ShapedArray) else jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):
        return kind.manual_axis_type.varying
    return getattr(kind, "vma", frozenset())


def vary_together(tree: PyTree) -> PyTree:
    """The tree with arrays that vary over all axes over which any of them varies."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    axes = frozenset().union(*map(varying_axes, jax.tree.leaves(arrays)))
    if not axes:
        return tree

    def vary(x: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return eqx.combine(jax.tree.map(vary, arrays), rest)


def without_axes(kind: Any) -> ShapedArray:
    """The type of an array that varies over no axis."""
    return ShapedArray(kind.shape, kind.dtype, weak_type=kind.weak_type)


def varying_like(kinds: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The types of results of arrays of the types `inputs`, which vary over the same axes or none.

    **Raises:** `ValueError` where they vary over different ones.
    """
    found = {varying_axes(kind): kind for kind in inputs}
    found.pop(frozenset(), None)
    if not found:
        return list(kinds)
    (like,) = found.values()
    name = "manual_axis_type" if hasattr(like, "manual_axis_type") else "vma"
    axes, mesh = {name: getattr(like, name)}, like.sharding.mesh

    def varying(kind: Any) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(*[None] * kind.ndim))
        return kind.update(sharding=sharding, **axes)

    return [varying(kind) for kind in kinds]
