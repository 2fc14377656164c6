"""Spirals from 30, 50 and 100 noisy points: a latent ODE beside a recurrent network."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

import jaxode as jo

from .report import publish, spread, table

# Sizes and noise of Chen et al. (2018), arXiv 1806.07366, section 5.1, and of its code; both have a
# GRU here, where the paper has a plain recurrence.
SHOWN = (30, 50, 100)
LATENT, HIDDEN, WIDTH, NOISE, RATE = 4, 25, 20, 0.3, 1e-2
SERIES, TESTED, BATCH, STEPS = 1000, 500, 200, 3000
Batch = tuple[Array, Array]


class RNN(eqx.Module):
    """Predicts the next point from those before and the time to it, and goes on by itself."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, key: Array) -> None:
        of_cell, of_readout = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(3, HIDDEN, key=of_cell)
        self.readout = eqx.nn.Linear(HIDDEN, 2, key=of_readout)

    def step(self, h: Array, x: Array, gap: Array) -> tuple[Array, Array]:
        """The state behind a point, and what the next one will be after `gap`."""
        h = self.cell(jnp.append(x, gap), h)
        return h, self.readout(h)

    def __call__(self, ts: Array, xs: Array) -> tuple[Array, Array]:
        """The last state, and the prediction of every point but the first."""
        gaps = jnp.diff(ts)
        start = jnp.zeros(HIDDEN)
        return lax.scan(lambda h, seen: self.step(h, *seen), start, (xs[:-1], gaps))

    def future(self, ts: Array, xs: Array, times: Array) -> Array:
        """The values at `times` behind the series, each from the one before."""

        def on(carry: tuple[Array, Array], gap: Array) -> tuple[tuple[Array, Array], Array]:
            h, x = self.step(*carry, gap)
            return (h, x), x

        gaps = jnp.diff(times, prepend=ts[-1:])
        return lax.scan(on, (self(ts, xs)[0], xs[-1]), gaps)[1]


def shown_alone(ts: Array, batch: Batch, shown: int) -> tuple[Array, Array]:
    """Times and values of the points that the mask keeps, as many for every series."""
    xs, mask = batch
    places = jnp.sort(jnp.argsort(~mask, axis=1, stable=True)[:, :shown], axis=1)
    return ts[places], jnp.take_along_axis(xs, places[..., None], 1)


def rnn_loss(ts: Array, shown: int) -> Any:
    def loss(model: RNN, batch: Batch) -> Array:
        times, xs = shown_alone(ts, batch, shown)
        return jnp.mean((jax.vmap(model)(times, xs)[1] - xs[:, 1:]) ** 2)

    return loss


def latent_loss(ts: Array) -> Any:
    def loss(model: jo.nn.LatentODE, batch: Batch, key: Array) -> Array:
        return model.elbo_loss(ts, *batch, key=key, noise=NOISE)

    return loss


def errors(shown: int, seed: int, steps: int) -> tuple[float, float]:
    """The error of both on the next 100 points, against the spirals without noise."""
    train_key, test_key, model_key = jax.random.split(jax.random.key(seed), 3)
    train = jo.datasets.latent_spirals(SERIES, key=train_key, shown=shown, noise=NOISE)
    test = jo.datasets.latent_spirals(TESTED, key=test_key, shown=shown, noise=NOISE)
    seen, later = (test.xs, test.mask), test.times[100:]
    latent = jo.nn.LatentODE(2, LATENT, HIDDEN, width=WIDTH, key=model_key, rtol=1e-3, atol=1e-4)
    models = (latent, latent_loss(train.ts)), (RNN(model_key), rnn_loss(train.ts, shown))
    found = []
    for model, loss in models:
        trained, _ = jo.fit(
            model, (train.xs, train.mask), loss=loss, steps=steps, batch_size=BATCH,
            optimizer=optax.adam(optax.cosine_decay_schedule(RATE, steps)), key=model_key,
        )  # fmt: skip
        if isinstance(trained, RNN):
            guess = jax.vmap(lambda t, x: trained.future(t, x, later))(  # noqa: B023
                *shown_alone(test.ts, seen, shown)
            )
        else:
            guess = trained.predict(test.ts, test.xs, later, test.mask)
        found.append(float(jnp.sqrt(jnp.mean((guess - test.truth[:, 100:]) ** 2))))
    print(shown, seed, found, flush=True)
    return found[0], found[1]


def main() -> None:
    """Train both for each number of points and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    rows = []
    for shown in SHOWN:
        found = [errors(shown, seed, options.steps) for seed in range(options.seeds)]
        ours, theirs = zip(*found, strict=True)
        ratios = [a / b for a, b in found]
        rows.append([str(shown), spread(ours), spread(theirs), spread(ratios)])
    header = ["points of 100", "latent ODE, RMSE", "RNN, RMSE", "ratio"]
    note = "On the next 100 points of 500 other spirals, against the truth without noise."
    title = "Latent ODE on spirals: the future from noisy points"
    print(publish("latent", title, [*table(header, rows), "", note]))


if __name__ == "__main__":
    main()
