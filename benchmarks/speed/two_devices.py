"""Two host devices on two cores against one: 10,000 Lorenz systems to t = 5.

Each is a process of its own, `python -m benchmarks.speed.two_devices N`, which prints its time in ms.
"""

import os
import subprocess
import sys

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.harness.timing import Row, run_times
from benchmarks.speed.ensemble_solves import batch, lorenz

TITLE = "Two host devices on two cores against one on one (ms; columns: two, one)"
REPEATS = 15


def rows() -> list[Row]:
    work, target = "10,000 Lorenz, t = 5", ">= 1.7"
    if len(processors()) < 2:
        nan = float("nan")
        return [Row(work, nan, nan, target, note="no second processor here")]
    one, two = time_with(1), time_with(2)
    return [Row(work, two, one, target)]


def time_with(devices: int) -> float:
    """The time of a process with so many host devices, on as many processors."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.two_devices", str(devices)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "true"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(found.stdout)


def processors() -> list[int]:
    """Those that a process may ask for, whatever its parent kept to; none where none can ask."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, before)
    return allowed


def main(devices: int) -> None:
    """Time the ensemble on so many devices and processors."""
    # Before JAX starts its threads.
    os.sched_setaffinity(0, processors()[-devices:])
    sharding = None
    if devices > 1:
        mesh = Mesh(jax.devices(), ("batch",))
        sharding = NamedSharding(mesh, PartitionSpec("batch"))
    ensemble = lorenz(10_000, t1=5.0)
    ends = jax.jit(lambda *inputs: batch(ensemble.field, *inputs, sharding=sharding).y1)
    print(run_times(lambda: ends(*ensemble.inputs), repeats=REPEATS)[0])


if __name__ == "__main__":
    main(int(sys.argv[1]))
