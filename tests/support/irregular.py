"""Irregular series for the tests of models, and what these tests share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax


def series(channels: int = 2, batch: int = 3, n: int = 5) -> tuple[Any, Any, Any]:
    """Times, values and a mask; at one place of sample 1 nothing is observed."""
    rng = np.random.default_rng(1)
    ts = np.sort(rng.uniform(0.0, 3.0, (batch, n)), 1)
    mask = rng.uniform(size=(batch, n, channels)) < 0.7
    mask[:, 0], mask[1, 2] = True, False
    return ts, rng.normal(size=(batch, n, channels)), mask


def sines(seed: int, noise: float, batch: int = 32, n: int = 8) -> tuple[Any, Any, Any]:
    """Times, noisy values and clean ones of sines of one frequency at irregular times."""
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.uniform(0.0, 4.0, (batch, n)), 1)
    clean = np.sin(1.5 * ts + rng.uniform(0.0, 2 * np.pi, (batch, 1)))[..., None]
    return ts, clean + noise * rng.normal(size=clean.shape), clean


def assert_what_is_masked_out_and_other_samples_do_not_matter(answers: Callable) -> Any:
    """`answers(ts, xs, mask)` for `series()`, which they are."""
    ts, xs, mask = series()
    expected = answers(ts, xs, mask)
    hidden = np.where(mask, xs, np.nan)
    np.testing.assert_array_equal(answers(ts, hidden, mask), expected)
    order = np.array([2, 0, 1])
    moved = answers(ts[order], xs[order], mask[order])
    np.testing.assert_allclose(moved, expected[order], rtol=1e-12, atol=1e-14)
    others = np.arange(3)[:, None] > 0
    mixed = answers(ts + 2.0 * others, xs + 3.0 * others[..., None], mask)
    np.testing.assert_allclose(mixed[0], expected[0], rtol=1e-12, atol=1e-14)
    assert not np.allclose(mixed[1], expected[1], rtol=1e-2)
    return expected


def trained(value_and_grad: Callable, model: Any, steps: int) -> tuple[Any, list[float]]:
    """The model after `steps` by `value_and_grad(model, key)`, and the losses before each."""
    optimizer = optax.adam(2e-2)

    @eqx.filter_jit
    def update(model, gradient, state):
        moves, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, moves), state

    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    for i in range(steps):
        loss, gradient = value_and_grad(model, jax.random.key(i))
        model, state = update(model, gradient, state)
        losses.append(float(loss))
    return model, losses
