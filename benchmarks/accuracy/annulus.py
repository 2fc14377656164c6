"""The annulus: regression by an augmented flow beside a plain one, with their evaluations."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.markdown import markdown_table, mean_and_range
from benchmarks.harness.results_section import publish_section

# Sizes, batches and learning rate are those of Dupont et al. (2019), arXiv 1904.01681, section 5.
HIDDEN, EXTRA, BATCH, EPOCHS, POINTS, RATE = 32, 5, 64, 60, 2000, 1e-3


class Regressor(eqx.Module):
    """A flow, and a linear map of its end state to one number."""

    flow: jo.NeuralODE
    readout: eqx.nn.Linear

    def __init__(self, extra: int, key: Array) -> None:
        field_key, readout_key = jax.random.split(key)
        size = 2 + extra
        field = eqx.nn.MLP(size, size, HIDDEN, 2, jax.nn.relu, key=field_key)
        self.flow = jo.NeuralODE(field, augment=extra, rtol=1e-5, atol=1e-5)
        self.readout = eqx.nn.Linear(size, 1, key=readout_key)


def loss(model: Regressor, batch: tuple[Array, Array]) -> tuple[Array, dict[str, Any]]:
    """The mean squared error, and the statistics of the solves."""
    solution = model.flow.solve(batch[0])
    predicted = jax.vmap(model.readout)(solution.y1)[:, 0]
    return jnp.mean((predicted - batch[1]) ** 2), {"stats": solution.stats}


def data(seed: int) -> tuple[Array, Array]:
    """Points of both regions, with targets -1 for the inner and +1 for the outer region."""
    x, labels = jo.datasets.annulus(POINTS, key=jax.random.key(100 + seed))
    return x, 2.0 * labels - 1.0


def train(extra: int, seed: int, epochs: int) -> tuple[float, ...]:
    """The final loss over all points, and the evaluations in the first, tenth and last epoch."""
    steps, steps_per_epoch = epochs * POINTS // BATCH, POINTS // BATCH
    model, log = jo.fit(
        Regressor(extra, jax.random.key(seed)), data(seed), loss=loss, steps=steps,
        batch_size=BATCH, optimizer=optax.adam(RATE), key=jax.random.key(seed),
    )  # fmt: skip
    evaluations = log.history["evaluations"][: epochs * steps_per_epoch]
    by_epoch = evaluations.reshape(epochs, steps_per_epoch).mean(axis=1)
    reported = by_epoch[[0, min(9, epochs - 1), -1]]
    return float(loss(model, data(seed))[0]), *map(float, reported)


def main() -> None:
    """Train both flows with each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    rows = []
    for name, extra in (("plain", 0), (f"augmented by {EXTRA}", EXTRA)):
        runs = [train(extra, seed, options.epochs) for seed in range(options.seeds)]
        losses, first, tenth, last = zip(*runs, strict=True)
        growth = [b / a for a, b in zip(tenth, last, strict=True)]
        rows.append([name, *map(mean_and_range, (losses, first, tenth, last, growth))])
        print(rows[-1], flush=True)
    header = ["flow", "loss", "evaluations, first epoch", "tenth", "last", "last by tenth"]
    lines = markdown_table(header, rows)
    print(publish_section("annulus", "Annulus: augmented against plain", lines))


if __name__ == "__main__":
    main()
