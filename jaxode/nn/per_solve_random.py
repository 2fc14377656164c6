"""The parts of a field that are fixed during a solve: random values and normalised weights."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree


class SampledPerSolve(eqx.Module):
    """A part of a field whose random value is drawn once per solve, such as a dropout mask.

    `random_value` is the value of one sample, or None before it is drawn. A subclass with an
    attribute `inference` needs no value while that is True.
    """

    random_value: eqx.AbstractVar[Array | None]

    @abc.abstractmethod
    def draw(self, key: Array) -> Array:
        """Draw the random value of one sample."""

    def is_random(self) -> bool:
        """Tell whether the part needs a random value before it is called."""
        return not getattr(self, "inference", False)


class Reparametrised(eqx.Module):
    """A layer whose weights are computed from others, such as a spectral normalisation."""

    @abc.abstractmethod
    def materialise(self) -> Any:
        """The plain layer with the computed weights, differentiable in those they depend on."""


def needs_key(field: PyTree) -> bool:
    """Tell whether the field has a random value that is not drawn yet."""
    return any(part.is_random() and part.random_value is None for part in _random_parts(field))


def draw(field: PyTree, key: Array) -> Any:
    """The field with new random values of one sample, each part's by its own sub-key."""
    parts = _parts_to_draw(field)
    if not parts:
        return field
    keys = jax.random.split(key, len(parts))
    return _set_random_values(field, [part.draw(k) for part, k in zip(parts, keys, strict=True)])


def draw_batch(field: PyTree, keys: Array) -> tuple[Any, Any]:
    """The field with random values for each sample of a batch, as `(per_sample, shared)`.

    `keys` has shape `(batch,)`. `per_sample` holds the random values, with a first axis of samples,
    and None elsewhere; `eqx.combine(per_sample[i], shared)` is what `draw` with key `i` returns.
    """
    parts = _parts_to_draw(field)
    if not parts:
        return jax.tree.map(lambda _: None, field), field
    keys = jax.vmap(lambda key: jax.random.split(key, len(parts)))(keys)
    values = [jax.vmap(part.draw)(keys[:, i]) for i, part in enumerate(parts)]
    sampled = _set_random_values(field, values)
    nowhere = jax.tree.map(lambda _: False, sampled)
    is_per_sample = _set_random_values(nowhere, [True] * len(parts), _is_random(field))
    return eqx.partition(sampled, is_per_sample)


def materialise_weights(field: PyTree) -> Any:
    """The field with every normalised layer replaced by the plain layer of its current weights.

    Called once per solve, so that no stage of a step computes a norm. Gradients pass through it.
    """

    def materialise(node: Any) -> Any:
        if isinstance(node, Reparametrised):
            return node.materialise()
        return _materialise_weight_norm(node) if isinstance(node, eqx.nn.WeightNorm) else node

    return jax.tree.map(materialise, field, is_leaf=_is_reparametrised)


def _is_reparametrised(node: Any) -> bool:
    return isinstance(node, Reparametrised | eqx.nn.WeightNorm)


def _materialise_weight_norm(norm: eqx.nn.WeightNorm) -> Any:
    direction = getattr(norm.layer, norm.weight_name)
    kept_axes = () if norm.axis is None else (norm.axis % direction.ndim,)
    summed_axes = tuple(axis for axis in range(direction.ndim) if axis not in kept_axes)
    weight = direction * norm.g / jnp.sqrt(jnp.sum(direction**2, summed_axes, keepdims=True))
    return eqx.tree_at(lambda layer: getattr(layer, norm.weight_name), norm.layer, weight)


def _random_parts(tree: PyTree) -> list[SampledPerSolve]:
    """Every `SampledPerSolve` in the tree, nested ones included, in a fixed order."""
    parts = [tree] if isinstance(tree, SampledPerSolve) else []
    nodes = jax.tree.leaves(
        tree, is_leaf=lambda x: isinstance(x, SampledPerSolve) and x is not tree
    )
    for node in nodes:
        if isinstance(node, SampledPerSolve):
            parts += _random_parts(node)
    return parts


def _is_random(field: PyTree) -> list[bool]:
    return [part.is_random() for part in _random_parts(field)]


def _parts_to_draw(field: PyTree) -> list[SampledPerSolve]:
    return [part for part in _random_parts(field) if part.is_random()]


def _set_random_values(field: PyTree, values: list[Any], selected: list[bool] | None = None) -> Any:
    """The field with `values` as the random values of the parts where `selected` is True."""
    flags = _is_random(field) if selected is None else selected

    def random_values(tree: PyTree) -> list[Any]:
        parts = zip(_random_parts(tree), flags, strict=True)
        return [part.random_value for part, flag in parts if flag]

    return eqx.tree_at(random_values, field, values, is_leaf=lambda x: x is None)
