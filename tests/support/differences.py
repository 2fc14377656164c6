"""Finite differences, modules as functions of weights, losses whose gradient nothing hides."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def central(function: Callable[[Any], Any], point: Any, step: float = 1e-3) -> Any:
    """The gradient of `function` by central differences of order four, float64."""
    flat, unravel = ravel_pytree(point)
    run = jax.jit(lambda rows: jax.lax.map(lambda row: function(unravel(row)), rows))
    return unravel(_slopes(run(_perturbed(flat, step)), step))


def gradient_and_differences(
    function: Callable[[Any], Any], point: Any, step: float = 1e-3
) -> tuple[Any, Any]:
    """The gradient of `function` by JAX and by central differences: one compiled program."""
    flat, unravel = ravel_pytree(point)
    rows = jnp.concatenate([flat[None], _perturbed(flat, step)])
    value_and_gradient = jax.value_and_grad(lambda row: function(unravel(row)))
    values, gradients = jax.jit(lambda rows: jax.lax.map(value_and_gradient, rows))(rows)
    return unravel(gradients[0]), unravel(_slopes(values[1:], step))


def _perturbed(flat: Any, step: float) -> Any:
    """Four perturbed points for each entry of `flat`, those of one entry in sequence."""
    shifts = jnp.array([-2.0, -1.0, 1.0, 2.0]) * step
    points = flat + jnp.eye(flat.size)[:, None] * shifts[:, None]
    return points.reshape(-1, flat.size)


def _slopes(values: Any, step: float) -> Any:
    return values.reshape(-1, 4) @ jnp.array([1.0, -8.0, 8.0, -1.0]) / (12 * step)


def parted(module: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The weights as one vector, and the module as a function of them."""
    weights, rest = eqx.partition(module, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(weights)
    return flat, lambda flat: eqx.combine(unravel(flat), rest)


def assert_gradient(value_and_grad: Callable[[Any], Any], model: Any) -> None:
    """Along one direction of the weights, against central differences."""
    flat, of = parted(model)
    way = jnp.sin(1.0 + jnp.arange(flat.size))
    slope = parted(value_and_grad(model)[1])[0] @ way
    ends = [value_and_grad(of(flat + h * way))[0] for h in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-5)


def weighted(tree: Any) -> Any:
    """A sum of squares, each entry with a weight of its own."""
    total = 0.0
    for leaf in jax.tree.leaves(tree):
        weights = jnp.sin(1.0 + jnp.arange(leaf.size)).reshape(leaf.shape)
        total += jnp.sum(weights * jnp.real(leaf * jnp.conj(leaf)) + 0.3 * weights * leaf.real)
    return total


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    """Every leaf agrees within `tolerance` of that leaf's largest entry, which is not zero."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        size = float(np.max(np.abs(two)))
        assert one.shape == two.shape
        assert size > 0
        np.testing.assert_allclose(one, two, rtol=0, atol=tolerance * size)


def central_by_calls(function: Callable[[Any], Any], point: Any, step: float = 1e-3) -> Any:
    """The gradient as `central` finds it, by calls of a function that is compiled already.

    `point` holds arrays: a number of Python's would compile the function once more.
    """
    flat, unravel = ravel_pytree(point)
    flat, unravel = np.asarray(flat), jax.jit(unravel)
    shifts, weights = np.array([-2.0, -1.0, 1.0, 2.0]), np.array([1.0, -8.0, 8.0, -1.0])
    slopes = np.zeros_like(flat)
    for i in range(flat.size):
        moved = [flat + shift * step * (np.arange(flat.size) == i) for shift in shifts]
        values = [function(unravel(x)) for x in moved]
        slopes[i] = np.dot(weights, values) / (12 * step)
    return unravel(slopes)
