"""The Lotka-Volterra model of predator and prey, the demo's mechanistic baseline."""

import equinox as eqx
import jax.numpy as jnp
import optax
from jax import Array

from ..drivers.solve import solve
from ..integrate.solution import Solution
from ..training import Log, fit
from .pelts import Pelts

PERIOD = 10.0


class LotkaVolterra(eqx.Module):
    """The Lotka-Volterra model by its parameters: log rates (4,) and log initial counts (2,)."""

    log_rates: Array
    log_start: Array

    def __call__(self, ts: Array) -> Solution:
        """Solve from the initial state, in logarithms of thousands of pelts."""
        return solve(log_growth, self.log_start, ts, jnp.exp(self.log_rates), rtol=1e-5, atol=1e-6)


def log_growth(t: Array, y: Array, rates: Array) -> Array:
    """`d log(hare)/dt = a - b lynx` and `d log(lynx)/dt = d hare - c`, at `y` the logarithms."""
    a, b, c, d = rates
    hare, lynx = jnp.exp(y)
    return jnp.stack([a - b * lynx, d * hare - c])


def log_error(model: LotkaVolterra, batch: tuple[Array, Array]) -> tuple[Array, dict]:
    """Mean squared error of the logarithms of counts; `batch` is times (n,), counts (n, 2)."""
    ts, counts = batch
    solution = model(ts)
    return jnp.mean((solution.ys - jnp.log(counts)) ** 2), {"stats": solution.stats}


def textbook_guess(counts: Array) -> LotkaVolterra:
    """Rates whose equilibrium is the mean of `counts` (n, 2), with a period of ten years."""
    hare, lynx = counts.mean(0)
    rate = jnp.asarray(2 * jnp.pi / PERIOD)
    rates = jnp.stack([rate, rate / lynx, rate, rate / hare])
    return LotkaVolterra(jnp.log(rates), jnp.log(counts[0]))


def fit_lotka_volterra(
    pelts: Pelts, steps: int, progress: bool | None = None
) -> tuple[LotkaVolterra, Log]:
    """Fit the four rates and the initial state to all years of `pelts`."""
    return fit(
        textbook_guess(pelts.counts),
        (pelts.ts, pelts.counts),
        loss=log_error,
        steps=steps,
        optimizer=optax.adam(2e-2),
        progress=progress,
        label="Lotka-Volterra",
    )
