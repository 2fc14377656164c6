"""Digits 8x8: a `ConvODENet` beside a residual network of six blocks."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.results_section import publish, spread, table
from jaxode.nn.images import group_norm

CHANNELS, GROUPS, BATCH, EPOCHS = 32, 8, 64, 40


class Residual(eqx.Module):
    """Twice normalise, rectify and convolve, added to what came in."""

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
    """The stem and the head of the `ConvODENet`, and six residual blocks between."""

    stem: eqx.nn.Conv2d
    blocks: tuple[Residual, ...]
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Linear

    def __init__(self, key: Array) -> None:
        stem_key, head_key, *keys = jax.random.split(key, 8)
        self.stem = eqx.nn.Conv2d(1, CHANNELS, 3, 2, padding=1, key=stem_key)
        self.blocks = tuple(Residual(k) for k in keys)
        self.norm = group_norm(CHANNELS, GROUPS)
        self.head = eqx.nn.Linear(CHANNELS, 10, key=head_key)

    def __call__(self, x: Array) -> Array:
        y = self.stem(x)
        for block in self.blocks:
            y = block(y)
        return self.head(jnp.mean(jax.nn.relu(self.norm(y)), axis=(1, 2)))


def ode_net(key: Array, **options: Any) -> jo.nn.ConvODENet:
    chosen: Any = {"rtol": 1e-2, "atol": 1e-2, **options}
    return jo.nn.ConvODENet(1, 10, channels=CHANNELS, groups=GROUPS, key=key, **chosen)


def split(seed: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Four fifths of the digits to learn from, and a fifth to test on."""
    x, y = jo.datasets.digits()
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[: len(y) * 4 // 5], order[len(y) * 4 // 5 :]
    return (x[train], y[train]), (x[test], y[test])


def trained(model: Any, data: tuple[Array, Array], epochs: int, seed: int) -> tuple[Any, jo.Log]:
    steps = epochs * len(data[1]) // BATCH
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-3)
    return jo.fit(
        model, data, loss="cross_entropy", steps=steps, batch_size=BATCH, optimizer=optimizer,
        key=jax.random.key(seed),
    )  # fmt: skip


@eqx.filter_jit
def error(model: Any, data: tuple[Array, Array]) -> Array:
    """Per cent of the images that are named wrongly."""
    logits = model(data[0]) if getattr(model, "batched", False) else jax.vmap(model)(data[0])
    return 100 * jnp.mean(jnp.argmax(logits, axis=-1) != data[1])


def parameters(model: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def temporary_memory(steps: int, sensitivity: Any) -> float:
    """MiB beside arguments and results of a gradient that may take so many steps."""
    model = ode_net(jax.random.key(0), sensitivity=sensitivity, max_steps=steps)
    x, y = split(0)[0]

    def loss(model: Any, x: Array, y: Array) -> Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(x), y))

    lowered = eqx.filter_jit(eqx.filter_grad(loss)).lower(model, x[:BATCH], y[:BATCH])
    return lowered.compile().compiled.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    """Train both by each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    rows, makers = [], {"ResNet, 6 blocks": ResNet, "ConvODENet": ode_net}
    for name, make in makers.items():
        errors, times, size = [], [], 0
        for seed in range(options.seeds):
            train, test = split(seed)
            model, log = trained(make(jax.random.key(seed)), train, options.epochs, seed)
            errors.append(float(error(model, test)))
            times.append(log.ms_per_step)
            size = parameters(model)
        rows.append([name, f"{size:,}", spread(errors, ".2f"), spread(times, ".0f")])
        print(rows[-1], flush=True)
    memory = [
        [label, *(f"{temporary_memory(steps, sensitivity):.1f}" for steps in (16, 64, 256))]
        for label, sensitivity in (("continuous adjoint", "adjoint"), ("discrete, 8 states",
         jo.Discrete(memory=8)), ("discrete, every state", jo.Discrete(memory="steps")))
    ]  # fmt: skip
    lines = table(["model", "parameters", "test error, %", "ms a step"], rows)
    lines += ["", "Temporary memory of a training step, MiB, by the most steps of the solver:", ""]
    lines += table(["gradient", "16", "64", "256"], memory)
    print(publish("digits", "Digits, 8 x 8: continuous depth against six blocks", lines))


if __name__ == "__main__":
    main()
