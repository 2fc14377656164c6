"""The annulus: an augmented flow tells it from its middle, a plain one works ever harder."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.results_section import publish, spread, table

# Sizes, batches and the learning rate of Dupont et al. (2019), arXiv 1904.01681, section 5.
HIDDEN, EXTRA, BATCH, EPOCHS, POINTS, RATE = 32, 5, 64, 60, 2000, 1e-3


class Regressor(eqx.Module):
    """A flow, and a linear map of where it ends to one number."""

    flow: jo.NeuralODE
    readout: eqx.nn.Linear

    def __init__(self, extra: int, key: Array) -> None:
        of_field, of_readout = jax.random.split(key)
        size = 2 + extra
        field = eqx.nn.MLP(size, size, HIDDEN, 2, jax.nn.relu, key=of_field)
        self.flow = jo.NeuralODE(field, augment=extra, rtol=1e-5, atol=1e-5)
        self.readout = eqx.nn.Linear(size, 1, key=of_readout)


def loss(model: Regressor, batch: tuple[Array, Array]) -> tuple[Array, dict[str, Any]]:
    solution = model.flow.solve(batch[0])
    found = jax.vmap(model.readout)(solution.y1)[:, 0]
    return jnp.mean((found - batch[1]) ** 2), {"stats": solution.stats}


def data(seed: int) -> tuple[Array, Array]:
    """Points of both regions, and -1 for those within, +1 for those without."""
    x, labels = jo.datasets.annulus(POINTS, key=jax.random.key(100 + seed))
    return x, 2.0 * labels - 1.0


def trained(extra: int, seed: int, epochs: int) -> tuple[float, ...]:
    """The loss over all points at the end, and the evaluations of the first, tenth, last epoch."""
    steps, epoch = epochs * POINTS // BATCH, POINTS // BATCH
    model, log = jo.fit(
        Regressor(extra, jax.random.key(seed)), data(seed), loss=loss, steps=steps,
        batch_size=BATCH, optimizer=optax.adam(RATE), key=jax.random.key(seed),
    )  # fmt: skip
    each = log.history["evaluations"][: epochs * epoch].reshape(epochs, epoch).mean(axis=1)
    looked_at = each[[0, min(9, epochs - 1), -1]]
    return float(loss(model, data(seed))[0]), *map(float, looked_at)


def main() -> None:
    """Train both by each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    rows = []
    for name, extra in (("plain", 0), (f"augmented by {EXTRA}", EXTRA)):
        found = [trained(extra, seed, options.epochs) for seed in range(options.seeds)]
        losses, first, tenth, last = zip(*found, strict=True)
        growth = [b / a for a, b in zip(tenth, last, strict=True)]
        rows.append([name, *(spread(v) for v in (losses, first, tenth, last, growth))])
        print(rows[-1], flush=True)
    header = ["flow", "loss", "evaluations, first epoch", "tenth", "last", "last by tenth"]
    print(publish("annulus", "Annulus: augmented against plain", table(header, rows)))


if __name__ == "__main__":
    main()
