"""The state maps of jumps: all of one time in order, inside a solve and at its two ends."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.closure import ClosedFunction
from ...problem.state import Packing
from .compiled import packed_apply

Clock = tuple[Array, Array]  # a time and the state there
Slope = Callable[[Array, Array], Array]


class StateJumps(eqx.Module):
    """The state map of the jumps at `times`, shape `(k,)`; the identity where `apply` is None."""

    times: Array
    apply: ClosedFunction | None
    args: Any
    packing: Packing = eqx.field(static=True)

    def count(self, t: Array) -> Array:
        """The number of jumps at `t`."""
        return jnp.sum(self.times == t, dtype=jnp.int32)

    def place(self, t: Array, number: Array) -> Array:
        """The place in `times` of jump `number` of those at `t`."""
        rank = jnp.cumsum(self.times == t, dtype=jnp.int32)
        return jnp.argmax(rank == number + 1).astype(jnp.int32)

    def jump(self, t: Array, number: Array, start: Clock, slope: Slope) -> Clock:
        """The time of jump `number` of those at `t`, and the state after it.

        `start`: the time, equal in value, and the state before it. `slope(t, y)`, of the field,
        gives the state its derivative by the time between.
        """
        assert self.apply is not None
        before, y = start
        place = self.place(t, number)
        time = self.times[place]
        y = moved(y, time - before, slope(before, y))
        return time, packed_apply(self.apply, time, y, self.args, self.packing, place)

    def first(self, number: Array, start: Clock, slope: Slope) -> Clock:
        """Time and state after the first `number` jumps at the time of `start`.

        It is not differentiable backwards.
        """
        t = start[0]

        def unfinished(carry: tuple[Array, Clock]) -> Array:
            return carry[0] < number

        def apply_next(carry: tuple[Array, Clock]) -> tuple[Array, Clock]:
            return carry[0] + 1, self.jump(t, carry[0], carry[1], slope)

        return lax.while_loop(unfinished, apply_next, (jnp.int32(0), start))[1]

    def at_end(self, here: Array, t: Array, y: Array, slope: Slope) -> Array:
        """The state after all jumps at an end `t` of the solve, differentiable in both modes.

        `here` is `t`, or NaN where no jump is to apply.
        """
        number = self.count(here)

        def apply_next(clock: Clock, n: Array) -> tuple[Clock, None]:
            # Under vmap both branches run: a jump that is none is evaluated where the last one was.
            last = jnp.minimum(n, jnp.maximum(number - 1, 0))
            jumped = lambda clock: self.jump(here, last, clock, slope)  # noqa: E731
            return lax.cond(n < number, jumped, lambda clock: clock, clock), None

        def apply_all(y: Array) -> Array:
            order = jnp.arange(self.times.shape[0], dtype=jnp.int32)
            time, after = lax.scan(apply_next, (t, y), order)[0]
            return moved(after, t - time, slope(t, after))

        return lax.cond(number > 0, apply_all, lambda y: y, y)


@jax.custom_jvp
def moved(y: Array, zero: Array, slope: Array) -> Array:
    """Return `y`, with the derivative of `y + zero * slope`; the time `zero` is 0."""
    return y


@moved.defjvp
def _derivative_of_moved(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (y, zero, slope), (dy, dzero, _) = primals, tangents
    return moved(y, zero, slope), dy + dzero.astype(slope.dtype) * slope
