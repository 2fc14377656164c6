"""Controllers whose step sizes are known beforehand: steps of one size, and those of a grid."""

import abc
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from ..problem.errors import OptionError
from ..problem.state import is_traced
from ..problem.validation import check_positive
from .step_size import AttemptedStep, Controller, Decision


class Prescribed(Controller):
    """Base class of controllers whose step sizes are known beforehand.

    Every step to a finite state is accepted, whatever its error.
    """

    adaptive: ClassVar[bool] = False

    @abc.abstractmethod
    def size_after(self, index: Array | int, like: Array) -> Array:
        """The size, positive, of the step after step `index`; dtype and shape of `like`."""

    @abc.abstractmethod
    def step(self, index: Array, t0: Array, direction: Array) -> tuple[Array, Array]:
        """The time at which step `index` of a solve from `t0` begins, and its signed size."""

    def init(self, h: Array) -> tuple[Array, Any]:
        """The size of the first step, and an empty state."""
        return self.size_after(-1, h), ()

    def decide(self, attempt: AttemptedStep, controller_state: Any) -> Decision:
        """Accept a step to a finite state; the next size is that of the step after it."""
        accept = jnp.isfinite(attempt.error_squared)
        return Decision(accept, self.size_after(attempt.index, attempt.h), controller_state)


class Fixed(Prescribed):
    """Steps of one size; the last one is shortened to end on the last time.

    `dt`: that size, a positive time, shape `()`.

    **Raises:** `OptionError` for another `dt`.
    """

    dt: ArrayLike

    def __check_init__(self) -> None:
        check_positive("dt of jo.Fixed", self.dt, none=False)

    def longest_step(self) -> ArrayLike | None:
        """`dt`."""
        return self.dt

    def size_after(self, index: Array | int, like: Array) -> Array:
        return jnp.full_like(like, self.dt)

    def step(self, index: Array, t0: Array, direction: Array) -> tuple[Array, Array]:
        h = direction * jnp.asarray(self.dt, t0.dtype)
        return t0 + index.astype(t0.dtype) * h, h


class Grid(Prescribed):
    """Steps from each of `times` to the next, in the direction of the solve.

    `times`: one-dimensional and monotone; they begin at the first time of the solve and end at its
    last. A solve **raises** an `OptionError` for others, and for events or jumps, which end steps
    where they are; so does this class for what is not at least two finite times.
    """

    times: ArrayLike

    def __check_init__(self) -> None:
        if is_traced(self.times):
            return
        try:
            times = np.asarray(self.times)
            times = times.astype(float) if times.dtype.kind in "iuf" else np.zeros(0)
        except (TypeError, ValueError):
            times = np.zeros(0)
        if times.ndim != 1 or times.size < 2 or not np.all(np.isfinite(times)):
            raise OptionError(f"jo.Grid needs at least two finite times, got {self.times!r}")

    def size_after(self, index: Array | int, like: Array) -> Array:
        return self._gap(index + 1, like)

    def step(self, index: Array, t0: Array, direction: Array) -> tuple[Array, Array]:
        return jnp.asarray(self.times, t0.dtype)[index], direction * self._gap(index, t0)

    def _gap(self, index: Array | int, like: Array) -> Array:
        """The length of interval `index` of the grid; of the last one beyond its end."""
        gaps = jnp.abs(jnp.diff(jnp.asarray(self.times, like.dtype)))
        return gaps[jnp.minimum(index, gaps.shape[0] - 1)]
