"""Validation of the options `events`, `jumps`, `max_events` and `overflow`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...problem.errors import OptionError, TimesError, unknown_name
from ...problem.state import Packing, is_traced
from ...problem.validation import check_count, real_array
from ...solvers.prescribed_steps import Grid
from ...solvers.step_size import Controller
from .event import AtRest, Event, Jumps, check_events, may_end

# What happens where there are more than `max_events`.
OVERFLOWS = ("fail", "stop")


class EventOptions(eqx.Module):
    """The validated options of events; `jumps` is a vector, or has a row per trajectory.

    `stops_looking`: after `max_events` events there are none; else a further one is a failure.
    `saves_after`: saved at a jump is the state after it. `jump_ends`: the `ends` of `Jumps`.
    """

    events: tuple[Event | AtRest, ...]
    jumps: jax.Array | None
    apply: Callable | None
    max_events: int = eqx.field(static=True)
    stops_looking: bool = eqx.field(static=True, default=False)
    saves_after: bool = eqx.field(static=True, default=False)
    jump_ends: str = eqx.field(static=True, default="both")

    @property
    def any(self) -> bool:
        """True if there are events or jumps."""
        return bool(self.events) or self.jumps is not None

    @property
    def terminal(self) -> bool:
        """True if an event can end the solve."""
        return may_end(self.events)


def find_event_options(
    events: Any,
    jumps: Any,
    max_events: Any,
    overflow: Any,
    controller: Controller,
    packing: Packing,
    count: int | None = None,
) -> EventOptions:
    """Validate the options of events; `count` is the number of trajectories of a batch.

    **Raises:** `EventError` for an object that is no event; `TimesError` for jumps that are no
    finite times; `OptionError` for a `max_events` that is no positive integer, an unknown
    `overflow`, and for events or jumps under prescribed steps.
    """
    apply = jumps.apply if isinstance(jumps, Jumps) else None
    checked = check_jumps(jumps, packing, count)
    given = jumps if isinstance(jumps, Jumps) else Jumps(())
    if not isinstance(overflow, str) or overflow not in OVERFLOWS:
        raise unknown_name("overflow", str(overflow), OVERFLOWS)
    options = EventOptions(
        check_events(events),
        checked,
        None if checked is None else apply,
        check_count("max_events", max_events),
        overflow == "stop",
        given.saved == "after",
        given.ends,
    )
    if options.any and isinstance(controller, Grid):
        raise OptionError(
            "jo.Grid prescribes every step, and events= and jumps= end steps where they are: use "
            "dt=, or a solver that chooses its steps"
        )
    return options


def check_jumps(jumps: Any, packing: Packing, count: int | None) -> jax.Array | None:
    """Make the times of jumps an array; None if there are none. **Raises:** `TimesError`."""
    array = jump_times(jumps, count)
    return None if array is None else jnp.asarray(array, packing.time_dtype)


def jump_times(jumps: Any, count: int | None) -> jax.Array | np.ndarray | None:
    """The times of jumps as an array in their dtype, of NumPy if known; None if there are none.

    **Raises:** `TimesError`.
    """
    if isinstance(jumps, Jumps):
        if jumps.times is None:
            raise TimesError("times of jo.Jumps must be times, got None")
        jumps = jumps.times
    if jumps is None:
        return None
    array = real_array("jumps", jumps, TimesError)
    shapes = "one-dimensional" if count is None else f"of shape (k,) or ({count}, k)"
    fits = array.ndim == 1 or (count is not None and array.ndim == 2 and array.shape[0] == count)
    if not fits:
        raise TimesError(f"jumps must be {shapes}, got shape {array.shape}")
    if not is_traced(jumps):
        flat = np.asarray(array, float).reshape(-1)
        bad = np.flatnonzero(~np.isfinite(flat))
        if bad.size:
            raise TimesError(f"jumps must be finite, but entry {bad[0]} is {flat[bad[0]]}")
    return None if array.shape[-1] == 0 else array
