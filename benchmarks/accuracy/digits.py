"""Digits 8x8: a `ConvODENet` beside residual networks of as many weights, and of six blocks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.selection import (
    Settings,
    best_settings,
    cosine_adam,
    grid,
    num_weights,
    settings_text,
)
from benchmarks.harness.trained import Asked, Result, TrainedModel
from jaxode.nn.images import group_norm

GROUPS, BATCH, EPOCHS, WEIGHT_DECAY = 4, 64, 15, 1e-3
CANDIDATES = grid(rate=(3e-3, 1e-2), channels=(8, 16))
# What was asked: an error in per cent above the six blocks', with at most a share of their weights.
EXCESS, SHARE = 0.5, 0.4


class ResidualBlock(eqx.Module):
    """A residual block: normalisation, ReLU and convolution, twice."""

    norms: tuple[eqx.nn.GroupNorm, ...]
    convolutions: tuple[eqx.nn.Conv2d, ...]

    def __init__(self, channels: int, key: Array) -> None:
        self.norms = tuple(group_norm(channels, GROUPS) for _ in range(2))
        self.convolutions = tuple(
            eqx.nn.Conv2d(channels, channels, 3, padding=1, key=k) for k in jax.random.split(key)
        )

    def __call__(self, x: Array) -> Array:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(jax.nn.relu(norm(y)))
        return x + y


class ResNet(eqx.Module):
    """The stem and head of the `ConvODENet` with residual blocks between them."""

    stem: eqx.nn.Conv2d
    blocks: tuple[ResidualBlock, ...]
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Linear

    def __init__(self, blocks: int, channels: int, key: Array) -> None:
        stem_key, head_key, *keys = jax.random.split(key, blocks + 2)
        self.stem = eqx.nn.Conv2d(1, channels, 3, 2, padding=1, key=stem_key)
        self.blocks = tuple(ResidualBlock(channels, k) for k in keys)
        self.norm = group_norm(channels, GROUPS)
        self.head = eqx.nn.Linear(channels, 10, key=head_key)

    def __call__(self, x: Array) -> Array:
        y = self.stem(x)
        for block in self.blocks:
            y = block(y)
        return self.head(jnp.mean(jax.nn.relu(self.norm(y)), axis=(1, 2)))


def ode_net(channels: int, key: Array) -> jo.nn.ConvODENet:
    """A `ConvODENet` of so many channels."""
    return jo.nn.ConvODENet(1, 10, channels=channels, groups=GROUPS, key=key, rtol=1e-2, atol=1e-2)


MAKERS: dict[str, Callable] = {
    "ConvODENet": ode_net,
    "ResNet, 1 block": partial(ResNet, 1),
    "ResNet, 6 blocks": partial(ResNet, 6),
}
Data = tuple[Array, Array]


def split(seed: int) -> tuple[Data, Data, Data]:
    """Images of training and of validation, split by `seed`, and those of testing, always the same.

    A fifth of all images is for testing, a fifth of the others for validation.
    """
    x, y = jo.datasets.digits()
    order = np.random.default_rng(0).permutation(len(y))
    test, rest = np.split(order, [len(y) // 5])
    rest = np.random.default_rng(seed).permutation(rest)
    validation, train = np.split(rest, [len(rest) // 5])
    return (x[train], y[train]), (x[validation], y[validation]), (x[test], y[test])


def train(make: Callable, settings: Settings, seed: int, effort: float) -> Any:
    """The trained model."""
    data = split(seed)[0]
    key, steps = jax.random.key(seed), max(2, int(effort * EPOCHS * len(data[1]) // BATCH))
    optimizer = cosine_adam(settings["rate"], steps, weight_decay=WEIGHT_DECAY)
    return jo.fit(
        make(settings["channels"], key=key), data, loss="cross_entropy", steps=steps,
        batch_size=BATCH, optimizer=optimizer, key=key, progress=False,
    )[0]  # fmt: skip


@eqx.filter_jit
def losses(model: Any, data: Data) -> tuple[Array, Array]:
    """The cross-entropy, and the share of images that are classified wrongly, in per cent."""
    logits = model(data[0]) if getattr(model, "batched", False) else jax.vmap(model)(data[0])
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, data[1])
    return jnp.mean(entropy), 100 * jnp.mean(jnp.argmax(logits, axis=-1) != data[1])


def measure(seeds: int, effort: float) -> Result:
    """The three networks with each seed."""
    rows = []
    for name, make in MAKERS.items():

        def validation_loss(settings: Settings) -> float:
            return float(losses(train(make, settings, 1000, effort), split(1000)[1])[0])  # noqa: B023

        chosen = best_settings(name, CANDIDATES, validation_loss)
        models = [train(make, chosen, seed, effort) for seed in range(seeds)]
        errors = [float(losses(model, split(0)[2])[1]) for model in models]
        print(name, errors, flush=True)
        weights = num_weights(models[0])
        rows.append(TrainedModel(name, weights, {ERROR: errors}, settings_text(chosen)))
    return Result(
        title="Digits, 8 x 8: continuous depth beside residual blocks",
        columns={ERROR: ".2f"},
        rows=rows,
        settings=SETTINGS,
        asked=asked(rows[0], rows[-1]),
    )


ERROR = "test error, %"
SETTINGS = {
    "data": "1,797 images: a fifth for tests (always the same), a fifth of the rest to validate",
    "validation": "cross-entropy",
    "candidates": "learning rate 0.003, 0.01; 8, 16 channels",
    "training": f"{EPOCHS} epochs of AdamW, cosine decay, weight decay {WEIGHT_DECAY}, "
    f"batches of {BATCH}",
    "solver of the ConvODENet": "tsit5, rtol 1e-2, atol 1e-2, discrete adjoint, float32",
}


def asked(ours: TrainedModel, blocks: TrainedModel) -> list[Asked]:
    """Whether the error and the weights beside six blocks are what was asked for."""
    excess = float(np.mean(ours.figures[ERROR]) - np.mean(blocks.figures[ERROR]))
    assert ours.weights is not None and blocks.weights is not None
    share = ours.weights / blocks.weights
    return [
        Asked(f"at most {EXCESS} points above the six blocks", excess, excess <= EXCESS),
        Asked(f"at most {SHARE:.0%} of their weights", share, share <= SHARE),
    ]
