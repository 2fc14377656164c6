"""What a batch needs in memory, against what the machine has."""

import os

import jax

from ..errors import OutOfMemoryError


def refuse_too_much(rows: dict[str, int], count: int) -> None:
    """Refuse a batch whose arrays cannot all be held.

    `rows` maps what is held to its bytes per trajectory.

    **Raises:** `OutOfMemoryError` with the bytes.
    """
    available = memory_of_machine()
    needed = count * sum(rows.values())
    if available is None or needed <= available:
        return
    shown = ", ".join(f"{name} {_size(count * size)}" for name, size in rows.items())
    raise OutOfMemoryError(
        f"{count} trajectories need {_size(needed)} ({shown}), and the machine has "
        f"{_size(available)}: save fewer times, save a function of the state, or solve in parts"
    )


def memory_of_machine() -> int | None:
    """Bytes of memory on the default backend, all its local devices together; None if unknown."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return None
    limits = [(d.memory_stats() or {}).get("bytes_limit") for d in devices]
    return None if None in limits else sum(limits)


def _size(number: int) -> str:
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value /= 1024
    else:
        unit = "TiB"
    return f"{number} bytes" if unit == "bytes" else f"{value:.1f} {unit} ({number} bytes)"
