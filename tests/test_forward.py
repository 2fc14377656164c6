"""Forward mode: tangents of every solver and kind of solve, and the directions that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differences import assert_close, weighted
from registry import ADAPTIVE, NAMES
from test_gradients import loss_of, point

import jaxode as jo

SAVES = ("ts", "steps", "dense", "function", "ends")
CASES = [(name, SAVES[i % len(SAVES)]) for i, name in enumerate(NAMES)]


def tangent_and_difference(loss, p):
    """The derivative of `loss` along a direction in which all of `p` moves, and its difference."""
    push = jax.tree.map(lambda x: jnp.cos(1.0 + jnp.arange(x.size)).reshape(x.shape), p)

    def both(s):
        moved = jax.tree.map(lambda x, v: x + s * v, p, push)
        return jax.jvp(loss, (moved,), (push,))

    h = 1e-3
    values, tangents = jax.jit(lambda s: jax.lax.map(both, s))(h * jnp.arange(-2.0, 3.0))
    return tangents[2], values @ jnp.array([1.0, -8.0, 0.0, 8.0, -1.0]) / (12 * h)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_fixed_steps_have_exact_tangents(name, mode):
    """In `y0`, `args` and `ts` at once, with every solver; the number of steps stays."""
    p = point()
    if mode == "ends":
        p["ts"] = p["ts"][jnp.array([0, -1])]
    step = {"controller": jo.Fixed(0.17)} if name in ADAPTIVE else {"dt": 0.17}
    loss = loss_of(mode, solver=name, max_steps=12, sensitivity="forward", **step)
    assert_close(*tangent_and_difference(loss, p), 1e-9)
