"""Gradients by what all trajectories of a batch share: their sum, and under vmap one for each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.batches import in_tile, one_by_one
from tests.support.differences import assert_close, weighted

N = 7
ROUGH = {"solver": "bosh3", "rtol": 1e-3, "atol": 1e-5, "dt": 0.7, "max_steps": 64}


def swing(p):
    """A field that all trajectories share: `args`, and an array that it closes over."""

    def f(t, y, args):
        return jnp.stack([args * y[1], -p["c"] * jnp.sin(3 * y[0])])

    return f


def single_loss(p, y):
    return weighted(jo.solve(swing(p), y, (0.0, 2.0), p["k"], **ROUGH).y1)


def batch_loss(p, ys):
    sols = jo.solve_batch(swing(p), ys, (0.0, 2.0), p["k"], lanes=3, **ROUGH)
    return jnp.sum(jax.vmap(weighted)(sols.y1))


SHARED = {"k": jnp.array(1.3), "c": jnp.array(2.0)}
STARTS = 2 * jax.random.normal(jax.random.key(5), (N, 2))


@functools.cache
def gradient_of_each():
    """The gradient of each trajectory by what they share."""
    return one_by_one(lambda y: jax.grad(single_loss)(SHARED, y), 0, STARTS)


def test_vmap_of_a_gradient_by_what_is_shared_has_one_for_each_lane():
    """Not their sum, which a rule of solve for vmap that sums would give."""
    lanes = jax.jit(jax.vmap(jax.grad(single_loss), (None, 0)))(SHARED, STARTS)
    assert lanes["k"].shape == lanes["c"].shape == (N,)
    assert_close(lanes, gradient_of_each(), 1e-10)
    for own in jax.tree.leaves(lanes):
        assert np.min(np.abs(own - np.sum(own))) > 0.1 * np.max(np.abs(own))


def test_gradient_of_a_batch_by_what_is_shared_is_the_sum():
    """Outside jit, where the batch is compiled by itself; rejected steps count for nothing."""
    total = jax.grad(batch_loss)(SHARED, STARTS)
    assert_close(total, jax.tree.map(lambda x: jnp.sum(x, axis=0), gradient_of_each()), 1e-10)


@pytest.mark.slow
def test_vmap_of_gradients_of_batches():
    """Two batches at once, of other parameters and starts: a gradient by both for each."""
    many = jax.tree.map(lambda x: x * jnp.array([1.0, 0.7]), SHARED)
    starts = jnp.stack([STARTS, STARTS[::-1]])
    run = in_tile(False, jax.vmap(jax.grad(batch_loss, argnums=(0, 1))), many, starts)

    def alone(p, starts):
        own, by_start = jax.lax.map(lambda y: jax.grad(single_loss, argnums=(0, 1))(p, y), starts)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), own), by_start

    assert_close(run(many, starts), one_by_one(alone, 0, many, starts), 1e-10)
