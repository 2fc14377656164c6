"""Forecasts of spirals from 30, 50 and 100 noisy points: a latent ODE beside two RNNs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
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

# The latent size, noise and starting points are those of Chen et al. (2018), arXiv 1806.07366,
# section 5.1, and its code. There the encoder is a plain RNN; here it is a GRU, and both kinds of
# RNN are compared.
LATENT, HIDDEN, NOISE = 4, 25, 0.3
SERIES, TESTED, BATCH, STEPS, CHOSEN_AT = 500, 500, 100, 1500, 50
CANDIDATES = grid(rate=(3e-3, 1e-2), weights=(4500, 9000))
LATENT_CANDIDATES = grid(rate=(3e-3, 1e-2), weights=(4500, 9000), kl_weight=(1.0, 10.0))
# What was asked: the error over the plain RNN's, by the number of points shown.
ASKED = {30: 0.5, 50: 0.5, 100: 0.75}
Batch = tuple[Array, Array]


class RNN(eqx.Module):
    """A recurrent network that predicts the next point from the previous ones and the time step."""

    cell: eqx.nn.GRUCell | eqx.nn.Linear
    readout: eqx.nn.Linear
    hidden: int = eqx.field(static=True)

    def __init__(self, plain: bool, hidden: int, key: Array) -> None:
        cell_key, readout_key = jax.random.split(key)
        linear = eqx.nn.Linear(3 + hidden, hidden, key=cell_key)
        self.cell = linear if plain else eqx.nn.GRUCell(3, hidden, key=cell_key)
        self.readout = eqx.nn.Linear(hidden, 2, key=readout_key)
        self.hidden = hidden

    def step(self, h: Array, x: Array, gap: Array) -> tuple[Array, Array]:
        """The hidden state after a point, and the prediction of the next one after `gap`."""
        inputs = jnp.append(x, gap)
        if isinstance(self.cell, eqx.nn.GRUCell):
            h = self.cell(inputs, h)
        else:
            h = jnp.tanh(self.cell(jnp.concatenate([inputs, h])))
        return h, self.readout(h)

    def __call__(self, ts: Array, xs: Array) -> tuple[Array, Array]:
        """The last hidden state, and the prediction of every point but the first."""
        h0, gaps = jnp.zeros(self.hidden), jnp.diff(ts)
        return lax.scan(lambda h, inputs: self.step(h, *inputs), h0, (xs[:-1], gaps))

    def future(self, ts: Array, xs: Array, times: Array) -> Array:
        """The forecast at `times` after the series, each value from the previous one."""

        def next_point(carry: tuple[Array, Array], gap: Array) -> tuple[tuple[Array, Array], Array]:
            h, x = self.step(*carry, gap)
            return (h, x), x

        gaps = jnp.diff(times, prepend=ts[-1:])
        return lax.scan(next_point, (self(ts, xs)[0], xs[-1]), gaps)[1]


def observed_points(ts: Array, batch: Batch, shown: int) -> tuple[Array, Array]:
    """Times and values of the observed points, the same number for every series."""
    xs, mask = batch
    indices = jnp.sort(jnp.argsort(~mask, axis=1, stable=True)[:, :shown], axis=1)
    return ts[indices], jnp.take_along_axis(xs, indices[..., None], 1)


def rnn_loss(ts: Array, shown: int) -> Any:
    """The mean squared error of one-step predictions."""

    def loss(model: RNN, batch: Batch) -> Array:
        times, xs = observed_points(ts, batch, shown)
        return jnp.mean((jax.vmap(model)(times, xs)[1] - xs[:, 1:]) ** 2)

    return loss


def latent_loss(ts: Array, kl_weight: float) -> Any:
    """The negative evidence lower bound."""

    def loss(model: jo.nn.LatentODE, batch: Batch, key: Array) -> Array:
        return model.elbo_loss(ts, *batch, key=key, noise=NOISE, kl_weight=kl_weight)

    return loss


def latent_ode(width: int, key: Array) -> jo.nn.LatentODE:
    """A latent ODE whose encoder has `HIDDEN` states and whose networks have layers of `width`."""
    return jo.nn.LatentODE(2, LATENT, HIDDEN, width=width, key=key, rtol=1e-3, atol=1e-4)


# Each model by its name, with the candidates for its settings.
MAKERS: dict[str, tuple[Callable, list[Settings]]] = {
    "latent ODE": (latent_ode, LATENT_CANDIDATES),
    "plain RNN": (partial(RNN, True), CANDIDATES),
    "GRU": (partial(RNN, False), CANDIDATES),
}


def trained(make: Callable, shown: int, settings: Settings, seed: int, steps: int) -> Any:
    """The model trained on series that begin anywhere."""
    data_key, key = jax.random.split(jax.random.key(seed))
    data = jo.datasets.latent_spirals(SERIES, key=data_key, shown=shown, noise=NOISE, future=0)
    model = make(width_for(partial(make, key=key), settings["weights"]), key=key)
    if isinstance(model, RNN):
        loss = rnn_loss(data.ts, shown)
    else:
        loss = latent_loss(data.ts, settings["kl_weight"])
    return jo.fit(
        model, (data.xs, data.mask), loss=loss, steps=steps, batch_size=BATCH, key=key,
        optimizer=cosine_adam(settings["rate"], steps), progress=False,
    )[0]  # fmt: skip


def forecast_error(model: Any, shown: int, seed: int) -> float:
    """The error on the next 100 points of other spirals, against the truth without noise."""
    test = jo.datasets.latent_spirals(TESTED, key=jax.random.key(seed), shown=shown, noise=NOISE)
    return float(jnp.sqrt(jnp.mean((forecast(model, test, shown) - test.truth[:, 100:]) ** 2)))


def forecast(model: Any, test: Any, shown: int) -> Array:
    """The predictions of a trained model at the last 100 times."""
    later = test.times[100:]
    if not isinstance(model, RNN):
        return model.predict(test.ts, test.xs, later, test.mask)
    times, xs = observed_points(test.ts, (test.xs, test.mask), shown)
    return jax.vmap(lambda t, x: model.future(t, x, later))(times, xs)


def measure(seeds: int, effort: float) -> Result:
    """All models for each number of points."""
    steps = max(2, int(effort * STEPS))
    rows = [model_row(name, *those, seeds, steps) for name, those in MAKERS.items()]
    return Result(
        title="Latent ODE on spirals: the future from noisy points",
        columns={column(shown): ".3g" for shown in ASKED},
        rows=rows,
        settings=SETTINGS,
        asked=[asked(rows[0], rows[1], shown, bound) for shown, bound in ASKED.items()],
        notes=[
            "Root mean square errors on the next 100 points, against the truth without noise. The "
            "training spirals begin anywhere, the test spirals where 200 points are left."
        ],
    )


SETTINGS = {
    "data": f"{SERIES} spirals to learn from, {TESTED} others to test, noise {NOISE}",
    "validation": f"the forecast of {TESTED} other spirals of which {CHOSEN_AT} points are shown",
    "candidates": "learning rate 0.003, 0.01; 4,500, 9,000 weights within 10 per cent; weight of "
    "the KL divergence 1, 10 (latent ODE)",
    "training": f"{STEPS} steps of Adam, cosine decay, batches of {BATCH}",
    "inputs": "values and times as they are, the same for all",
    "solver": "tsit5, rtol 1e-3, atol 1e-4, discrete adjoint, float32",
}


def column(shown: int) -> str:
    """The heading of a number of points."""
    return f"{shown} points of 100"


def model_row(
    name: str, make: Callable, candidates: list[Settings], seeds: int, steps: int
) -> TrainedModel:
    """The forecast errors of one model."""
    chosen = best_settings(
        name,
        candidates,
        lambda s: forecast_error(trained(make, CHOSEN_AT, s, 1000, steps), CHOSEN_AT, 2000),
    )
    figures, weights = {}, 0
    for shown in ASKED:
        models = [trained(make, shown, chosen, seed, steps) for seed in range(seeds)]
        figures[column(shown)] = [
            forecast_error(model, shown, 3000 + seed) for seed, model in enumerate(models)
        ]
        weights = num_weights(models[0])
        print(name, shown, figures[column(shown)], flush=True)
    return TrainedModel(name, weights, figures, settings_text(chosen))


def asked(ours: TrainedModel, rnn: TrainedModel, shown: int, bound: float) -> Asked:
    """Whether the mean error over the plain RNN's is what was asked for."""
    ratio = sum(ours.figures[column(shown)]) / sum(rnn.figures[column(shown)])
    return Asked(f"{shown} points: {bound} of the plain RNN's error", ratio, ratio <= bound)
