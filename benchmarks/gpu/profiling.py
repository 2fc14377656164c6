"""The device's activity in a run, by JAX's profiler: busy time, and copies to the host."""

import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

DEVICE_TO_HOST = re.compile(r"memcpy.?d2h|memcpy.?dtoh|device.?to.?host", re.IGNORECASE)


class DeviceActivity(NamedTuple):
    """The milliseconds in which the device was busy, and the number of copies to the host."""

    busy_ms: float
    host_reads: int


def profile(call: Callable[[], Any]) -> DeviceActivity | None:
    """The device's activity in one run; None if no stream of a device was recorded."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(call())
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return device_activity(jax.profiler.ProfileData.from_file(str(path)))


def device_activity(data: Any) -> DeviceActivity | None:
    """The activity in a recorded profile: kernels and copies of all streams.

    Lines that aggregate them by module or operation are left out.
    """
    planes = [plane for plane in data.planes if plane.name.startswith("/device:GPU")]
    lines = [line for plane in planes for line in plane.lines if line.name.startswith("Stream")]
    events = [event for line in lines for event in line.events]
    if not events:
        return None
    busy = union_length((e.start_ns, e.start_ns + e.duration_ns) for e in events)
    return DeviceActivity(1e-6 * busy, sum(bool(DEVICE_TO_HOST.search(e.name)) for e in events))


def union_length(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
