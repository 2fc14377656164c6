"""Memory that a batch needs, compared with the memory of the machine."""

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


def saved_bytes(
    save: str | Callable,
    packing: Packing,
    method: Method,
    times: int,
    read: PyTree,
) -> int:
    """Return the bytes that one trajectory saves; `read`: shapes of a save function's values."""
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


def event_log_bytes(options: EventOptions, packing: Packing) -> int:
    """Return the bytes of one trajectory's event log."""
    if not options.events:
        return 0
    state = packing.size * packing.dtype.itemsize
    return options.max_events * (state + packing.time_dtype.itemsize + 13)


def check_memory(bytes_each: dict[str, int], count: int) -> None:
    """Check that the machine can hold the arrays of `count` trajectories.

    `bytes_each` maps the name of each array to its bytes per trajectory.

    **Raises:** `OutOfMemoryError`, with the bytes needed, where it cannot. Under `jax.export` sizes
    may not be known: then nothing is checked.
    """
    available = machine_memory()
    needed = count * sum(bytes_each.values())
    if not isinstance(needed, int):
        return
    if available is None or needed <= available:
        return
    sizes = {name: format_bytes(count * size) for name, size in bytes_each.items()}
    shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
    raise OutOfMemoryError(
        f"{count} trajectories need {needed} bytes, {format_bytes(needed)} ({shown}), and the "
        f"machine has {format_bytes(available)}: save fewer times or a function of the state, "
        "or solve in parts"
    )


def machine_memory() -> int | None:
    """Return the bytes of memory of the default backend's local devices; None if unknown."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return None
    limits = [(d.memory_stats() or {}).get("bytes_limit", 0) for d in devices]
    return sum(limits) if all(limits) else None


def format_bytes(number: int) -> str:
    """Return a number of bytes as text, with its unit."""
    value, units = float(number), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}" if number >= 1024 else f"{number} bytes"
