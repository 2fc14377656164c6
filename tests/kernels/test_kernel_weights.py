"""What else fields do with arrays that a kernel keeps whole, and what they save of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.kernels.lowering import platform
from tests.support.sweeps import few

N, WIDTH = 9, 18
KEYS = jax.random.split(jax.random.key(7), 6)
FIRST = jax.random.normal(KEYS[0], (WIDTH, 2)) / 2
LAST = jax.random.normal(KEYS[1], (2, WIDTH)) / 4
BIAS = jax.random.normal(KEYS[2], (WIDTH,))
SQUARE = jax.random.normal(KEYS[3], (WIDTH, WIDTH)) / 5
Y0 = jax.random.normal(KEYS[4], (N, 2))
WEIGHTS = FIRST, LAST, BIAS
MASK = jnp.arange(WIDTH)[:, None] % 3 > 0


def hidden(y, weights):
    first, _, bias = weights
    return jnp.tanh(first @ y + bias)


def skipped(t, y, weights):
    _, last, bias = weights
    wide = jnp.concatenate([hidden(y, weights)[:16], y])
    return last @ (wide * bias)


def masked(t, y, weights):
    first, last, bias = weights
    return last @ jnp.tanh((2 * first * MASK) @ y + bias)


def any_of_layer(t, y, weights):
    h = hidden(y, weights)
    return weights[1] @ jnp.where(jnp.any(h > 0.9), h, -h)


def tied(t, y, weights):
    first, last, _ = weights
    return first.T @ hidden(y, weights) - y @ first.T @ last.T


def gated(t, y, weights):
    return jax.nn.glu(jnp.concatenate([weights[1] @ hidden(y, weights), y]))


def many_numbers(t, y, square):
    return jnp.tanh(square @ y) - y


def data(t, y, points):
    return jnp.sum(y - points, axis=0) / WIDTH


FIELDS: dict[str, tuple[Any, Any, Any]] = {
    "a skip connection": (skipped, WEIGHTS, Y0),
    "a mask of weights": (masked, WEIGHTS, Y0),
    "any of a layer": (any_of_layer, WEIGHTS, Y0),
    "weights the other way round": (tied, WEIGHTS, Y0),
    "a gate": (gated, WEIGHTS, Y0),
    "a state as wide as a layer": (many_numbers, SQUARE, jax.random.normal(KEYS[5], (N, WIDTH))),
    "points": (data, FIRST, Y0),
}


def solve(kernel: bool, field: Any, y0: Any, weights: Any, **options: Any) -> Any:
    options = {"controller": jo.Fixed(0.25), "solver": "heun", "max_steps": 8, **options}
    ts = jnp.array([0.0, 0.4, 1.0])
    axes = (0, None, None)
    return jo.solve_batch(field, y0, ts, weights, in_axes=axes, kernel=kernel, lanes=4, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", few(FIELDS, "a gate"))
def test_values_and_gradients_are_those_of_tiles(name):
    field, weights, y0 = FIELDS[name]

    def loss(weights, y0, kernel):
        ys = solve(kernel, field, y0, weights).ys
        return jnp.sum(jnp.sin(ys)), ys

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    found = [run(weights, y0, flag) for flag in (True, False)]
    for kernel, tiles in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(kernel, tiles, 1e-10, 1e-12)


def read(t, y, weights):
    return {
        "layer": hidden(y, weights),
        "bias": weights[2],
        "high": jnp.sum(hidden(y, weights) > 0.5),
        "rising": y[0] > 0,
    }


@pytest.mark.slow
def test_layers_and_counts_are_saved():
    def loss(weights, kernel):
        ys = solve(kernel, tied, Y0, weights, save=read).ys
        return jnp.sum(ys["layer"] ** 2) + jnp.sum(ys["bias"] * jnp.arange(WIDTH)), ys

    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    found = [run(WEIGHTS, flag) for flag in (True, False)]
    for kernel, tiles in zip(*map(jax.tree.leaves, found), strict=True):
        assert kernel.dtype == tiles.dtype
        np.testing.assert_allclose(kernel, tiles, 1e-10, 1e-12)


@pytest.mark.parametrize(
    "second", [jax.hessian, lambda f: jax.grad(lambda y: f(y) + jax.grad(f)(y).sum())]
)
def test_second_derivatives_are_refused(second):
    def loss(y0):
        return jnp.sum(solve(True, lambda t, y, args: -(y**2), y0[None], None).y1)

    with pytest.raises(jo.DifferentiationError, match=r"once alone.*kernel=False|backwards once"):
        second(loss)(jnp.ones(2))


def test_a_tpu_has_no_kernels_of_networks(monkeypatch):
    monkeypatch.setattr(platform, "backend", lambda: "tpu")
    with pytest.raises(jo.OptionError, match=r"a network .on a TPU no kernel has one"):
        jo.solve_batch(tied, Y0, [0.0, 1.0], WEIGHTS, in_axes=(0, None, None), kernel=True)
