"""The chirality of spirals with missing points: a neural CDE beside a GRU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

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

# What was asked of the neural CDE: the accuracy by the share of missing points.
ASKED = {0.0: 100.0, 0.3: 99.0, 0.5: 99.0, 0.7: 98.0}
# Every second of the 100 points is kept, before a share of them is removed.
HIDDEN, SERIES, TESTED, BATCH, STEPS, STRIDE = 8, 128, 512, 32, 800, 2
# `span`: the length to which times are scaled, for all models.
CANDIDATES = grid(rate=(1e-2, 3e-2), weights=(700, 2200), span=(1.0, 12.566))
CHOSEN_AT = 0.5
Batch = tuple[Array, Array, Array, Array]


class GRU(eqx.Module):
    """A GRU whose inputs are the time since the last point, the values, and the mask."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear
    hidden: int = eqx.field(static=True)
    batched = True

    def __init__(self, hidden: int, key: Array) -> None:
        cell_key, readout_key = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(4, hidden, key=cell_key)
        self.readout = eqx.nn.Linear(hidden, 2, key=readout_key)
        self.hidden = hidden

    def __call__(self, ts: Array, xs: Array, mask: Array) -> Array:
        gaps = jnp.diff(ts, prepend=ts[:1])[:, None]

        def logits(x: Array, observed: Array) -> Array:
            inputs = jnp.concatenate([gaps, x, observed.astype(x.dtype)], axis=1)
            h, _ = lax.scan(lambda h, i: (self.cell(i, h), None), jnp.zeros(self.hidden), inputs)
            return self.readout(h)

        return jax.vmap(logits)(xs, mask[..., None])


def neural_cde(width: int, key: Array) -> Any:
    """A neural CDE whose vector field is a multilayer perceptron."""
    return jo.nn.NeuralCDE.mlp(2, 2, hidden=HIDDEN, width=width, key=key, rtol=1e-2, atol=1e-3)


MAKERS = {"neural CDE": neural_cde, "GRU": GRU}


def data(n: int, missing: float, span: float, key: Array) -> Batch:
    """Times, shape (n, 50), from zero to `span`; series with zeros for missing points, (n, 50, 2);
    masks, (n, 50, 1); labels, (n,).
    """
    xs, labels = jo.datasets.spiral_chirality(n, key=key)[1:]
    xs = xs[:, ::STRIDE]
    kept = jax.random.uniform(jax.random.fold_in(key, 1), xs.shape[:2])
    count = round(missing * xs.shape[1])
    # The first and the last point are always there.
    kept = kept.at[:, 0].set(1.0).at[:, -1].set(1.0)
    mask = jnp.argsort(jnp.argsort(kept, axis=1), axis=1)[..., None] >= count
    ts = jnp.broadcast_to(jnp.linspace(0.0, span, xs.shape[1]), xs.shape[:2])
    return ts, jnp.where(mask, xs, 0.0), mask, labels


def loss(model: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """The cross-entropy, and the share of series classified correctly."""
    ts, xs, mask, labels = batch
    logits = model(ts[0], xs, mask[..., 0])
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"accuracy": accuracy}


compiled_loss = eqx.filter_jit(loss)


def trained_loss(
    make: Callable, missing: float, settings: Settings, seed: int, steps: int
) -> tuple[float, float, int]:
    """Cross-entropy and accuracy, in per cent, on other series after training; and the weights."""
    train_key, test_key, model_key = jax.random.split(jax.random.key(seed), 3)
    width = width_for(partial(make, key=model_key), settings["weights"])
    draw = partial(data, missing=missing, span=settings["span"])
    model, _ = jo.fit(
        make(width, model_key), draw(SERIES, key=train_key), loss=loss, steps=steps,
        batch_size=BATCH, optimizer=cosine_adam(settings["rate"], steps), key=model_key,
        progress=False,
    )  # fmt: skip
    value, metrics = compiled_loss(model, draw(TESTED, key=test_key))
    return float(value), 100 * float(metrics["accuracy"]), num_weights(model)


def measure(seeds: int, effort: float) -> Result:
    """Every model with every share of missing points."""
    steps = max(2, int(effort * STEPS))
    rows = []
    for name, make in MAKERS.items():
        chosen = best_settings(
            name,
            CANDIDATES,
            lambda s: trained_loss(make, CHOSEN_AT, s, 1000, steps)[0],  # noqa: B023
        )
        figures, weights = {}, 0
        for missing in ASKED:
            runs = [trained_loss(make, missing, chosen, seed, steps) for seed in range(seeds)]
            figures[column(missing)] = [accuracy for _, accuracy, _ in runs]
            weights = runs[0][2]
            print(name, missing, figures[column(missing)], flush=True)
        rows.append(TrainedModel(name, weights, figures, settings_text(chosen)))
    return Result(
        title="Spiral chirality: test accuracy in per cent",
        columns={column(missing): ".1f" for missing in ASKED},
        rows=rows,
        settings=SETTINGS,
        asked=[asked_accuracy(rows[0], missing, bound) for missing, bound in ASKED.items()],
    )


SETTINGS = {
    "data": f"{SERIES} series of 50 points to learn from, {TESTED} others to test",
    "validation": f"cross-entropy on {TESTED} other series, half of the points missing",
    "candidates": "learning rate 0.01, 0.03; 700, 2,200 weights; times from 0 to 1 or 4 pi",
    "training": f"{STEPS} steps of Adam, cosine decay, batches of {BATCH}",
    "inputs": "times, values, which points are there: the same for all",
    "solver of the neural CDE": "tsit5, rtol 1e-2, atol 1e-3, discrete adjoint, float32",
}


def column(missing: float) -> str:
    """The heading of a share of missing points."""
    return f"{missing:.0%} missing"


def asked_accuracy(row: TrainedModel, missing: float, bound: float) -> Asked:
    """Whether the mean accuracy is what was asked for."""
    figures = row.figures[column(missing)]
    mean = sum(figures) / len(figures)
    return Asked(f"{row.name}, {column(missing)}: {bound:.0f} per cent", mean, mean >= bound)
