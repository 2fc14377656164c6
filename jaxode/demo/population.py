"""The neural ODE of the two populations, without a mechanism."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from ..integrate.solution import Solution
from ..nn import NeuralODE
from ..training import Log, fit
from .pelts import LogScale, Pelts

# Chosen among a dozen by forecasts of 1910-1914 from the years before, not by 1915 and later.
WIDTH, WINDOW, WEIGHT_DECAY = 32, 3, 0.2


class Population(eqx.Module):
    """A `NeuralODE` in scaled logarithms of counts, and its fitted initial state, shape (2,)."""

    ode: NeuralODE
    start: Array

    def __call__(self, ts: Array) -> Solution:
        """Solve from the initial state over years `ts`."""
        return self.ode.solve(self.start, ts)


def window_error(model: Population, batch: tuple[Array, Array]) -> tuple[Array, dict]:
    """Mean squared error of short forecasts that each start at an observed state.

    `batch` is times (windows, years) and scaled logarithms (windows, years, 2).
    """
    ts, z = batch
    solution = model.ode.solve(z[:, 0], ts[0])
    error = jnp.mean((solution.ys - z) ** 2)
    return error, {"stats": solution.stats}


def series_error(model: Population, batch: tuple[Array, Array]) -> tuple[Array, dict]:
    """Mean squared error over the whole series: times (years,), scaled logarithms (years, 2)."""
    ts, z = batch
    solution = model(ts)
    return jnp.mean((solution.ys - z) ** 2), {"stats": solution.stats}


def windows(ts: Array, z: Array, length: int) -> tuple[Array, Array]:
    """Every window of `length + 1` successive years: times from zero, and states."""
    first = range(len(ts) - length)
    times = jnp.stack([ts[: length + 1] - ts[0] for _ in first])
    return times, jnp.stack([z[i : i + length + 1] for i in first])


def fit_population(
    pelts: Pelts, window_steps: int, series_steps: int, progress: bool | None = None
) -> tuple[Population, tuple[Log, Log]]:
    """Fit to all years of `pelts`: first windows of three years, then the whole series.

    Fitting windows first gives the long solve a good initial guess of the field.
    """
    z = LogScale.of(pelts.counts).encode(pelts.counts)
    field = eqx.nn.MLP(2, 2, WIDTH, 1, jax.nn.softplus, key=jax.random.key(0))
    model = Population(NeuralODE(field, rtol=1e-4, atol=1e-4), z[0])
    model, first = fit(
        model,
        windows(pelts.ts, z, WINDOW),
        loss=window_error,
        steps=window_steps,
        optimizer=_decaying_adamw(window_steps),
        progress=progress,
        label="pelts, windows",
    )
    model, second = fit(
        model,
        (pelts.ts, z),
        loss=series_error,
        steps=series_steps,
        optimizer=_decaying_adamw(series_steps),
        progress=progress,
        label="pelts, whole series",
    )
    return model, (first, second)


def count_field(model: Population, scale: LogScale) -> Callable[[Array], Array]:
    """The field in thousands of pelts per year, from the model's in scaled logarithms."""

    def field(counts: Array) -> Array:
        return counts * scale.spread * model.ode.field(scale.encode(counts))

    return field


def _decaying_adamw(steps: int) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(1e-2, steps)
    return optax.adamw(schedule, weight_decay=WEIGHT_DECAY, mask=_weight_decay_mask)


def _weight_decay_mask(params: Population) -> Population:
    """The mask of weight decay: the network's weights, not the initial state."""
    everything = jax.tree.map(lambda _: True, params)
    return eqx.tree_at(lambda model: model.start, everything, False)
