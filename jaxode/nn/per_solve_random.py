"""What stands still during a solve: random draws, and weights that are computed from others."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree


class SampledPerSolve(eqx.Module):
    """A part of a field that draws once per solve, such as a dropout mask or a random probe.

    `random_value` is what was drawn for one sample, or None. A subclass with an attribute `inference`
    needs no draw while that is True.
    """

    random_value: eqx.AbstractVar[Array | None]

    @abc.abstractmethod
    def draw(self, key: Array) -> Array:
        """What `random_value` is to be for one sample."""

    def is_random(self) -> bool:
        """Whether the part needs a draw before it is called."""
        return not getattr(self, "inference", False)


class Reparametrised(eqx.Module):
    """A layer whose weights are computed from others, such as a spectral normalisation."""

    @abc.abstractmethod
    def materialise(self) -> Any:
        """The plain layer with the weights as they are now, differentiable in those they are of."""


def needs_key(field: PyTree) -> bool:
    """Whether anything in the field is still to be drawn."""
    return any(node.is_random() and node.random_value is None for node in _random_parts(field))


def draw(field: PyTree, key: Array) -> Any:
    """The field with everything drawn anew for one sample, each part by its own sub-key."""
    nodes = _parts_to_draw(field)
    if not nodes:
        return field
    keys = jax.random.split(key, len(nodes))
    return _set_random_values(field, [node.draw(k) for node, k in zip(nodes, keys, strict=True)])


def draw_batch(field: PyTree, keys: Array) -> tuple[Any, Any]:
    """The field drawn for each of a batch, as `(own, shared)`.

    `keys` has shape `(batch,)`. `own` holds what was drawn, with a first axis of samples, and None
    elsewhere; `eqx.combine(own_of_one, shared)` is what `draw` with that sample's key returns.
    """
    nodes = _parts_to_draw(field)
    if not nodes:
        return jax.tree.map(lambda _: None, field), field
    keys = jax.vmap(lambda key: jax.random.split(key, len(nodes)))(keys)
    drawn = _set_random_values(
        field, [jax.vmap(node.draw)(keys[:, i]) for i, node in enumerate(nodes)]
    )
    nothing = jax.tree.map(lambda _: False, drawn)
    return eqx.partition(drawn, _set_random_values(nothing, [True] * len(nodes), _is_random(field)))


def materialise_weights(field: PyTree) -> Any:
    """The field with every normalised layer replaced by the plain layer that it amounts to.

    Once per solve, so that no stage of a step computes a norm. Gradients pass through it.
    """

    def settle(node: Any) -> Any:
        if isinstance(node, Reparametrised):
            return node.materialise()
        return _materialise_weight_norm(node) if isinstance(node, eqx.nn.WeightNorm) else node

    return jax.tree.map(settle, field, is_leaf=_is_reparametrised)


def _is_reparametrised(node: Any) -> bool:
    return isinstance(node, Reparametrised | eqx.nn.WeightNorm)


def _materialise_weight_norm(norm: eqx.nn.WeightNorm) -> Any:
    direction = getattr(norm.layer, norm.weight_name)
    kept = () if norm.axis is None else (norm.axis % direction.ndim,)
    others = tuple(axis for axis in range(direction.ndim) if axis not in kept)
    weight = direction * norm.g / jnp.sqrt(jnp.sum(direction**2, others, keepdims=True))
    return eqx.tree_at(lambda layer: getattr(layer, norm.weight_name), norm.layer, weight)


def _random_parts(tree: PyTree) -> list[SampledPerSolve]:
    """Every `SampledPerSolve` in the tree, one inside another too, in a fixed order."""
    found = [tree] if isinstance(tree, SampledPerSolve) else []
    below = jax.tree.leaves(
        tree, is_leaf=lambda x: isinstance(x, SampledPerSolve) and x is not tree
    )
    for node in below:
        if isinstance(node, SampledPerSolve):
            found += _random_parts(node)
    return found


def _is_random(field: PyTree) -> list[bool]:
    return [node.is_random() for node in _random_parts(field)]


def _parts_to_draw(field: PyTree) -> list[SampledPerSolve]:
    return [node for node in _random_parts(field) if node.is_random()]


def _set_random_values(field: PyTree, values: list[Any], active: list[bool] | None = None) -> Any:
    """The field with `values` in the places of its draws, those where `active` is True."""
    places = _is_random(field) if active is None else active

    def where(tree: PyTree) -> list[Any]:
        nodes = zip(_random_parts(tree), places, strict=True)
        return [node.random_value for node, draws in nodes if draws]

    return eqx.tree_at(where, field, values, is_leaf=lambda x: x is None)
