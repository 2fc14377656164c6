"""What every vector field of `jaxode.nn.fields` must pass."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxode as jo
from jaxode.problem.field import call_field
from tests.support.differences import assert_close, parted, weighted

T = jnp.asarray(0.3)


def assert_weights_have_the_gradient_that_differences_show(field: Any, y: Any, args: Any = None):
    """Those of the slope at one state, along one direction."""
    flat, of = parted(field)
    assert_directional(lambda flat: weighted(call_field(of(flat), T, y, args)), flat)


def assert_a_batch_has_the_gradient_that_differences_show(field: Any, ys: Any, args: Any = None):
    """By the weights, along one direction, through a solve of several states."""
    flat, of = parted(field)

    def loss(flat):
        model = jo.NeuralODE(of(flat), solver="midpoint", dt=0.25)
        return weighted(model(ys, args=args))

    assert_directional(loss, flat)


def assert_directional(loss: Callable, flat: Any):
    """The gradient of `loss` has the slope that central differences of order four show."""
    direction = jax.random.normal(jax.random.key(9), flat.shape)

    @jax.jit
    def gradient_and_values(flat):
        shifted = flat + jnp.array([-2e-4, -1e-4, 1e-4, 2e-4])[:, None] * direction
        return jax.grad(loss)(flat), jax.lax.map(loss, shifted)

    gradient, values = gradient_and_values(flat)
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 1.2e-3
    np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6, atol=1e-8)


def assert_equal_with_gradient(solved: Callable, by_hand: Callable, flat: Any):
    """Two functions of the weights agree, and their gradients do."""
    value, gradient = jax.jit(jax.value_and_grad(solved))(flat)
    want, expected = jax.jit(jax.value_and_grad(by_hand))(flat)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    assert_close(gradient, expected, 1e-10)


def assert_single_precision_stays_single(field: Any, y: Any, args: Any = None):
    """In float32 the slope is too."""

    def single(x):
        return x.astype(jnp.float32) if eqx.is_inexact_array(x) else x

    field, y, args = jax.tree.map(single, (field, y, args))
    slope = eqx.filter_eval_shape(call_field, field, jnp.float32(0.3), y, args)
    assert slope.dtype == jnp.float32 and slope.shape == y.shape
