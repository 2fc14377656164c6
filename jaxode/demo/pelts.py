"""The record of hare and lynx pelts: its fitted part, its scale, and forecast errors."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from ..datasets import lynx_hare

FITTED = 15
SPECIES = ("hare", "lynx")


@dataclasses.dataclass(frozen=True)
class Pelts:
    """The record: years (n,), and thousands of pelts (n, 2) of hare and lynx."""

    years: Array
    counts: Array

    @property
    def ts(self) -> Array:
        """Years since the first record, shape (n,)."""
        return self.years - 1900

    @property
    def fitted(self) -> "Pelts":
        """The first fifteen years, to which the models are fitted."""
        return Pelts(self.years[:FITTED], self.counts[:FITTED])


def load_pelts() -> Pelts:
    """Load the record of all 21 years."""
    return Pelts(*lynx_hare())


@dataclasses.dataclass(frozen=True)
class LogScale:
    """The transform of counts to standardised logarithms."""

    mean: Array
    spread: Array

    @classmethod
    def of(cls, counts: Array) -> "LogScale":
        """The scale in which `counts` (n, 2) have mean zero and variance one."""
        logs = jnp.log(counts)
        return cls(logs.mean(0), logs.std(0))

    def encode(self, counts: Array) -> Array:
        """The scaled logarithms of counts (..., 2)."""
        return (jnp.log(counts) - self.mean) / self.spread

    def decode(self, z: Array) -> Array:
        """The counts (..., 2) of scaled logarithms."""
        return jnp.exp(z * self.spread + self.mean)


def persistence(pelts: Pelts) -> np.ndarray:
    """The persistence forecast: the last fitted year, repeated for every later one, (n, 2)."""
    ahead = len(pelts.years) - FITTED
    return np.repeat(np.asarray(pelts.counts)[FITTED - 1 : FITTED], ahead, axis=0)


def forecast_error(pelts: Pelts, forecast: ArrayLike) -> np.ndarray:
    """Root mean square error over the held-out years, thousands of pelts, shape (2,)."""
    difference = np.asarray(forecast, float) - np.asarray(pelts.counts, float)[FITTED:]
    return np.sqrt(np.mean(difference**2, axis=0))
