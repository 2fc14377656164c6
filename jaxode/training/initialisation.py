"""Initial weights that suit vector fields."""

from typing import Any, TypeVar

import equinox as eqx
import jax

from ..problem.errors import OptionError
from ..problem.validation import check_level, shown_value

Network = TypeVar("Network")


def small_last_layer(network: Network, scale: float = 0.01) -> Network:
    """Make a copy of a network whose last layer has weights and a bias smaller by `scale`.

    As a field it then begins near zero, and a model of it near the identity: the first solves are
    short, and training does not begin far from where it leads. The last layer is the last module
    in the network whose `weight` is a matrix or an array of more axes, such as `eqx.nn.Linear`.

    **Raises:** `OptionError` if there is none, or for a `scale` that is negative or no number.
    """
    check_level("scale", scale)
    leaves, treedef = jax.tree.flatten(network, is_leaf=_is_layer)
    layers = [i for i, leaf in enumerate(leaves) if _is_layer(leaf)]
    if not layers:
        raise OptionError(f"the network has no layer with a weight, got {shown_value(network)}")
    leaves[layers[-1]] = _scaled(leaves[layers[-1]], scale)
    return jax.tree.unflatten(treedef, leaves)


def _is_layer(module: Any) -> bool:
    weight = getattr(module, "weight", None) if isinstance(module, eqx.Module) else None
    return weight is not None and eqx.is_inexact_array(weight) and weight.ndim > 1


def _scaled(layer: Any, scale: float) -> Any:
    layer = eqx.tree_at(lambda x: x.weight, layer, scale * layer.weight)
    if getattr(layer, "bias", None) is None:
        return layer
    return eqx.tree_at(lambda x: x.bias, layer, scale * layer.bias)
