"""The annulus: regression by an augmented flow beside a plain one, with their evaluations."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.selection import (
    Settings,
    best_settings,
    cosine_adam,
    grid,
    num_weights,
    settings_text,
    width_for,
)
from benchmarks.harness.trained import Asked, Result, TrainedModel

# The data and the five further dimensions are those of Dupont et al. (2019), arXiv 1904.01681.
EXTRA, BATCH, EPOCHS, POINTS, TESTED = 5, 64, 20, 2000, 2000
CANDIDATES = grid(rate=(1e-3, 3e-3), weights=(600, 1500))
# What was asked: a loss, and evaluations in the last epoch over those in the first.
LOSS_BOUND, GROWTH_BOUND = 1e-3, 2.0


class Regressor(eqx.Module):
    """A flow, and a linear map of its end state to one number."""

    flow: jo.NeuralODE
    readout: eqx.nn.Linear

    def __init__(self, extra: int, width: int, key: Array) -> None:
        field_key, readout_key = jax.random.split(key)
        size = 2 + extra
        field = eqx.nn.MLP(size, size, width, 2, jax.nn.relu, key=field_key)
        self.flow = jo.NeuralODE(field, augment=extra, rtol=1e-5, atol=1e-5)
        self.readout = eqx.nn.Linear(size, 1, key=readout_key)


def loss(model: Regressor, batch: tuple[Array, Array]) -> tuple[Array, dict[str, Any]]:
    """The mean squared error, and the statistics of the solves."""
    solution = model.flow.solve(batch[0])
    predicted = jax.vmap(model.readout)(solution.y1)[:, 0]
    return jnp.mean((predicted - batch[1]) ** 2), {"stats": solution.stats}


def data(count: int, seed: int) -> tuple[Array, Array]:
    """Points of both regions, with targets -1 for the inner and +1 for the outer region."""
    x, labels = jo.datasets.annulus(count, key=jax.random.key(seed))
    return x, 2.0 * labels - 1.0


def train(extra: int, settings: Settings, seed: int, epochs: int) -> tuple[Regressor, list[float]]:
    """The trained model, and the mean evaluations in the first and in the last epoch."""
    per_epoch, key = POINTS // BATCH, jax.random.key(seed)
    make = partial(Regressor, extra, key=key)
    model, log = jo.fit(
        make(width_for(make, settings["weights"])), data(POINTS, 100 + seed), loss=loss,
        steps=epochs * per_epoch, batch_size=BATCH, key=key, progress=False,
        optimizer=cosine_adam(settings["rate"], epochs * per_epoch),
    )  # fmt: skip
    by_epoch = log.history["evaluations"].reshape(epochs, per_epoch).mean(axis=1)
    return model, [float(by_epoch[0]), float(by_epoch[-1])]


def measure(seeds: int, effort: float) -> Result:
    """Both flows with each seed."""
    epochs = max(2, int(effort * EPOCHS))
    rows = [
        flow_row(name, extra, seeds, epochs)
        for name, extra in (("plain", 0), (f"augmented by {EXTRA}", EXTRA))
    ]
    return Result(
        title="Annulus: augmented beside plain",
        columns={LOSS: ".3g", FIRST: ".1f", LAST: ".1f", GROWTH: ".2f"},
        rows=rows,
        settings=SETTINGS,
        asked=asked(*rows),
    )


LOSS, GROWTH = "test loss", "last by first"
FIRST, LAST = "evaluations, first epoch", "evaluations, last epoch"
SETTINGS = {
    "data": f"{POINTS:,} points to learn from, {TESTED:,} others to test",
    "validation": f"mean squared error on {TESTED:,} other points",
    "candidates": "learning rate 0.001, 0.003; 600, 1,500 weights, within 10 per cent",
    "network": "two hidden layers, ReLU",
    "training": f"{EPOCHS} epochs of Adam, cosine decay, batches of {BATCH}",
    "solver": "tsit5, rtol 1e-5, atol 1e-5, discrete adjoint, float32",
}


def flow_row(name: str, extra: int, seeds: int, epochs: int) -> TrainedModel:
    """The test losses and the evaluations of one flow."""
    chosen = best_settings(
        name,
        CANDIDATES,
        lambda s: float(loss(train(extra, s, 1000, epochs)[0], data(TESTED, 2000))[0]),
    )
    figures: dict[str, list[float]] = {LOSS: [], FIRST: [], LAST: [], GROWTH: []}
    weights = 0
    for seed in range(seeds):
        model, (first, last) = train(extra, chosen, seed, epochs)
        value = float(loss(model, data(TESTED, 3000 + seed))[0])
        for column, figure in zip(figures, (value, first, last, last / first), strict=True):
            figures[column].append(figure)
        weights = num_weights(model)
    print(name, figures, flush=True)
    return TrainedModel(name, weights, figures, settings_text(chosen))


def asked(plain: TrainedModel, augmented: TrainedModel) -> list[Asked]:
    """Whether losses and evaluations are what was asked for, in the mean."""

    def mean(row: TrainedModel, column: str) -> float:
        return sum(row.figures[column]) / len(row.figures[column])

    value, growth = mean(augmented, LOSS), mean(plain, GROWTH)
    return [
        Asked(f"augmented: loss at most {LOSS_BOUND:g}", value, value <= LOSS_BOUND),
        Asked(
            f"plain: evaluations at least {GROWTH_BOUND:g} times", growth, growth >= GROWTH_BOUND
        ),
    ]
