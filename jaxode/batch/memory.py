"""What a batch needs in memory, against what the machine has."""

import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..integrate.events.options import EventOptions
from ..integrate.step import Method
from ..problem.errors import OutOfMemoryError
from ..problem.state import Packing


def bytes_of_saved(
    save: str | Callable,
    packing: Packing,
    method: Method,
    times: int,
    read: PyTree,
) -> int:
    """What one trajectory saves; `read` holds the shapes of a save function's values."""
    max_steps, slopes = method.max_steps, method.solver.num_dense
    state = packing.size * packing.dtype.itemsize
    time = packing.time_dtype.itemsize
    if save == "steps":
        return (max_steps + 1) * (state + time)
    if save == "dense":
        return max_steps * (2 * time + (1 + slopes) * state) + times * state
    if save == "ts":
        return times * state
    values = [jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(read)]
    return times * sum(math.prod(x.shape) * x.dtype.itemsize for x in values)


def bytes_of_events(switches: EventOptions, packing: Packing) -> int:
    """What the log of one trajectory's events takes."""
    if not switches.events:
        return 0
    state = packing.size * packing.dtype.itemsize
    return switches.max_events * (state + packing.time_dtype.itemsize + 8)


def refuse_too_much(rows: dict[str, int], count: int) -> None:
    """Refuse a batch whose arrays cannot all be held.

    `rows` maps what is held to its bytes per trajectory.

    **Raises:** `OutOfMemoryError` with the bytes.
    """
    available = memory_of_machine()
    needed = count * sum(rows.values())
    if available is None or needed <= available:
        return
    shown = ", ".join(f"{name} {size_text(count * size)}" for name, size in rows.items())
    raise OutOfMemoryError(
        f"{count} trajectories need {needed} bytes, {size_text(needed)} ({shown}), and the machine "
        f"has {size_text(available)}: save fewer times or a function of the state, or solve in "
        "parts"
    )


def memory_of_machine() -> int | None:
    """Bytes of memory on the default backend, all its local devices together; None if unknown."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return None
    limits = [(d.memory_stats() or {}).get("bytes_limit", 0) for d in devices]
    return sum(limits) if all(limits) else None


def size_text(number: int) -> str:
    """A number of bytes to read."""
    value, units = float(number), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}" if number >= 1024 else f"{number} bytes"
