"""The origin from which a solve counts time where float32 is too coarse for the times."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from .state import is_traced


class Origin(eqx.Module):
    """A time of higher precision than float32: the sum of two float32 numbers.

    `high` is the nearest float32 number, `low` the rest; each has the shape `()`, or
    `(trajectories,)` for one of each trajectory. Times of all trajectories have that axis first.
    """

    high: Array | np.ndarray
    low: Array | np.ndarray

    @classmethod
    def at(cls, time: np.ndarray) -> "Origin":
        """The origin at a time in float64, to 48 bits."""
        high = np.asarray(time, np.float32)
        return cls(high, np.asarray(time - np.asarray(high, np.float64), np.float32))

    @property
    def of_each(self) -> bool:
        """True if each trajectory has an origin of its own."""
        return self.high.ndim > 0

    def of_first(self) -> "Origin":
        """The origin of the first trajectory."""
        return Origin(self.high[0], self.low[0]) if self.of_each else self

    def clock(self, offset: Array) -> Array:
        """The time at an offset while a program is traced, in the dtype of the offset."""
        return jnp.asarray(self.high + (offset.astype(np.float32) + self.low), offset.dtype)

    def offsets(self, times: Any) -> Any:
        """The offsets of times: in float64 of NumPy if their values are known, else in float32."""
        times, high, low = self._parts(times)
        return (times - high) - low

    def offsets_of_all(self, times: Any) -> Any:
        """The offsets of times that are the same for all trajectories, whose axis comes first."""
        space = jnp if is_traced(times) else np
        return self.offsets(space.asarray(times)[None] if self.of_each else times)

    def times(self, offsets: Any) -> Any:
        """The times at offsets: in float64 of NumPy if their values are known, else in float32."""
        offsets, high, low = self._parts(offsets)
        return high + (offsets + low)

    def _parts(self, times: Any) -> tuple[Any, Any, Any]:
        """Times and the two parts of the origin, as arrays that broadcast."""
        space, dtype = (jnp, np.float32) if is_traced((times, self)) else (np, np.float64)
        times, high, low = (space.asarray(x, dtype) for x in (times, self.high, self.low))
        shape = high.shape + (1,) * (times.ndim - high.ndim)
        return times, high.reshape(shape), low.reshape(shape)
