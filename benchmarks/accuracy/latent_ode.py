"""Spirals from 30, 50 and 100 noisy points: a latent ODE beside a recurrent network."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

import jaxode as jo
from benchmarks.harness.results_section import publish, spread, table

# Sizes, noise and places to begin of Chen et al. (2018), arXiv 1806.07366, section 5.1, and of its
# code. There the networks are plain recurrences; here the latent ODE reads with a GRU, and both
# kinds are compared with it. `KL`: with 1 the past is fitted as well, the future less reliably.
SHOWN = (30, 50, 100)
LATENT, HIDDEN, WIDTH, NOISE, RATE = 4, 25, 20, 0.3, 1e-2
SERIES, TESTED, BATCH, STEPS, KL = 1000, 500, 200, 6000, 10.0
Batch = tuple[Array, Array]


class RNN(eqx.Module):
    """Predicts the next point from those before and the time to it, and goes on by itself."""

    cell: eqx.nn.GRUCell | eqx.nn.Linear
    readout: eqx.nn.Linear

    def __init__(self, key: Array, plain: bool = False) -> None:
        of_cell, of_readout = jax.random.split(key)
        linear = eqx.nn.Linear(3 + HIDDEN, HIDDEN, key=of_cell)
        self.cell = linear if plain else eqx.nn.GRUCell(3, HIDDEN, key=of_cell)
        self.readout = eqx.nn.Linear(HIDDEN, 2, key=of_readout)

    def step(self, h: Array, x: Array, gap: Array) -> tuple[Array, Array]:
        """The state behind a point, and what the next one will be after `gap`."""
        seen = jnp.append(x, gap)
        if isinstance(self.cell, eqx.nn.GRUCell):
            h = self.cell(seen, h)
        else:
            h = jnp.tanh(self.cell(jnp.concatenate([seen, h])))
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
        return model.elbo_loss(ts, *batch, key=key, noise=NOISE, kl_weight=KL)

    return loss


def errors(shown: int, seed: int, steps: int) -> list[float]:
    """The error of each on the next 100 points, against the spirals without noise."""
    train_key, test_key, model_key = jax.random.split(jax.random.key(seed), 3)
    train = jo.datasets.latent_spirals(SERIES, key=train_key, shown=shown, noise=NOISE, future=0)
    test = jo.datasets.latent_spirals(TESTED, key=test_key, shown=shown, noise=NOISE)
    seen, later = (test.xs, test.mask), test.times[100:]
    latent = jo.nn.LatentODE(2, LATENT, HIDDEN, width=WIDTH, key=model_key, rtol=1e-3, atol=1e-4)
    recurrent = rnn_loss(train.ts, shown)
    models = (
        (latent, latent_loss(train.ts)),
        (RNN(model_key, plain=True), recurrent),
        (RNN(model_key), recurrent),
    )
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
    return found


def main() -> None:
    """Train both for each number of points and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    rows = []
    for shown in SHOWN:
        found = [errors(shown, seed, options.steps) for seed in range(options.seeds)]
        ratios = [(a / b, a / c) for a, b, c in found]
        rows.append([str(shown), *(spread(x) for x in zip(*found, strict=True))])
        rows[-1] += [spread(x) for x in zip(*ratios, strict=True)]
    header = [
        "points of 100", "latent ODE, RMSE", "plain RNN", "GRU", "ratio to the RNN", "to the GRU",
    ]  # fmt: skip
    note = (
        "On the next 100 points of 500 other spirals, against the truth without noise. The spirals "
        "to learn from begin anywhere, those to forecast where 200 points are left."
    )
    title = "Latent ODE on spirals: the future from noisy points"
    print(publish("latent", title, [*table(header, rows), "", note]))


if __name__ == "__main__":
    main()
