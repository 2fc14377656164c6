"""Digits 8x8: a `ConvODENet` beside a residual network of six blocks."""

import argparse
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.markdown import markdown_table, mean_and_range
from benchmarks.harness.results_section import publish_section
from jaxode.nn.images import group_norm

CHANNELS, GROUPS, BATCH, EPOCHS = 32, 8, 64, 40


class ResidualBlock(eqx.Module):
    """A residual block: normalisation, ReLU and convolution, twice."""

    norms: tuple[eqx.nn.GroupNorm, ...]
    convolutions: tuple[eqx.nn.Conv2d, ...]

    def __init__(self, key: Array) -> None:
        self.norms = tuple(group_norm(CHANNELS, GROUPS) for _ in range(2))
        self.convolutions = tuple(
            eqx.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, key=k) for k in jax.random.split(key)
        )

    def __call__(self, x: Array) -> Array:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(jax.nn.relu(norm(y)))
        return x + y


class ResNet(eqx.Module):
    """The stem and head of the `ConvODENet` with six residual blocks between them."""

    stem: eqx.nn.Conv2d
    blocks: tuple[ResidualBlock, ...]
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Linear

    def __init__(self, key: Array) -> None:
        stem_key, head_key, *keys = jax.random.split(key, 8)
        self.stem = eqx.nn.Conv2d(1, CHANNELS, 3, 2, padding=1, key=stem_key)
        self.blocks = tuple(ResidualBlock(k) for k in keys)
        self.norm = group_norm(CHANNELS, GROUPS)
        self.head = eqx.nn.Linear(CHANNELS, 10, key=head_key)

    def __call__(self, x: Array) -> Array:
        y = self.stem(x)
        for block in self.blocks:
            y = block(y)
        return self.head(jnp.mean(jax.nn.relu(self.norm(y)), axis=(1, 2)))


def ode_net(key: Array, **options: Any) -> jo.nn.ConvODENet:
    """A `ConvODENet` of the same width as the `ResNet`."""
    chosen: Any = {"rtol": 1e-2, "atol": 1e-2, **options}
    return jo.nn.ConvODENet(1, 10, channels=CHANNELS, groups=GROUPS, key=key, **chosen)


def split(seed: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Four fifths of the digits for training, and one fifth for testing."""
    x, y = jo.datasets.digits()
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[: len(y) * 4 // 5], order[len(y) * 4 // 5 :]
    return (x[train], y[train]), (x[test], y[test])


def train(model: Any, data: tuple[Array, Array], epochs: int, seed: int) -> tuple[Any, jo.Log]:
    """The trained model, and the log of the training."""
    steps = epochs * len(data[1]) // BATCH
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-3)
    return jo.fit(
        model, data, loss="cross_entropy", steps=steps, batch_size=BATCH, optimizer=optimizer,
        key=jax.random.key(seed),
    )  # fmt: skip


@eqx.filter_jit
def test_error(model: Any, data: tuple[Array, Array]) -> Array:
    """The share of images that are classified wrongly, in per cent."""
    logits = model(data[0]) if getattr(model, "batched", False) else jax.vmap(model)(data[0])
    return 100 * jnp.mean(jnp.argmax(logits, axis=-1) != data[1])


def num_parameters(model: Any) -> int:
    """The number of trainable parameters."""
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def temporary_memory(steps: int, sensitivity: Any) -> float:
    """The temporary memory in MiB of a gradient with `max_steps=steps`."""
    model = ode_net(jax.random.key(0), sensitivity=sensitivity, max_steps=steps)
    x, y = split(0)[0]

    def loss(model: Any, x: Array, y: Array) -> Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(x), y))

    lowered = eqx.filter_jit(eqx.filter_grad(loss)).lower(model, x[:BATCH], y[:BATCH])
    return lowered.compile().compiled.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    """Train both models with each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    makers = {"ResNet, 6 blocks": ResNet, "ConvODENet": ode_net}
    rows = [model_row(n, make, options.seeds, options.epochs) for n, make in makers.items()]
    lines = markdown_table(["model", "parameters", "test error, %", "ms per step"], rows)
    lines += ["", "Temporary memory of a training step, MiB, by the most steps of the solver:", ""]
    lines += markdown_table(["gradient", "16", "64", "256"], memory_rows())
    print(publish_section("digits", "Digits, 8 x 8: continuous depth against six blocks", lines))


def model_row(name: str, make: Callable[[Array], Any], seeds: int, epochs: int) -> list[str]:
    """The parameters, test errors and times per step of one model."""
    errors, times, size = [], [], 0
    for seed in range(seeds):
        train_data, test_data = split(seed)
        model, log = train(make(jax.random.key(seed)), train_data, epochs, seed)
        errors.append(float(test_error(model, test_data)))
        times.append(log.ms_per_step)
        size = num_parameters(model)
    row = [name, f"{size:,}", mean_and_range(errors, ".2f"), mean_and_range(times, ".0f")]
    print(row, flush=True)
    return row


def memory_rows() -> list[list[str]]:
    """The temporary memory by sensitivity and by the maximal number of steps."""
    sensitivities: dict[str, Any] = {
        "continuous adjoint": "adjoint",
        "discrete, 8 states": jo.Discrete(memory=8),
        "discrete, every state": jo.Discrete(memory="steps"),
    }
    return [
        [name, *(f"{temporary_memory(steps, sensitivity):.1f}" for steps in (16, 64, 256))]
        for name, sensitivity in sensitivities.items()
    ]


if __name__ == "__main__":
    main()
