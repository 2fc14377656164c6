"""What the device did in a solve, by JAX's profiler: how long it was busy, how often read."""

import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

READ_BACK = re.compile(r"memcpy.?d2h|memcpy.?dtoh|device.?to.?host", re.IGNORECASE)


class Watched(NamedTuple):
    """Milliseconds in which a device did anything, and copies to the host."""

    busy: float
    read_backs: int


def watched(call: Callable[[], Any]) -> Watched | None:
    """One more run; None where no device's streams were recorded."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(call())
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return summed(jax.profiler.ProfileData.from_file(str(path)))


def summed(data: Any) -> Watched | None:
    """Kernels and copies; the lines that sum them up by module or operation are left out."""
    planes = [plane for plane in data.planes if plane.name.startswith("/device:GPU")]
    lines = [line for plane in planes for line in plane.lines if line.name.startswith("Stream")]
    events = [event for line in lines for event in line.events]
    if not events:
        return None
    busy = covered((e.start_ns, e.start_ns + e.duration_ns) for e in events)
    return Watched(1e-6 * busy, sum(bool(READ_BACK.search(e.name)) for e in events))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
