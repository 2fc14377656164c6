"""Two host devices on two cores against one: 10,000 Lorenz systems to t = 5.

Each runs in its own process, `python -m benchmarks.speed.two_devices N`, which prints its median
time in ms.
"""

import os
import subprocess
import sys

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.harness.comparison import Comparison
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import run_times
from benchmarks.problems.ensembles import lorenz_ensemble
from benchmarks.speed.ensemble_solves import solve_ensemble

TITLE = "Two host devices on two cores against one on one (ms; columns: two, one)"
SETTINGS = beside_diffrax(
    rtol="1e-7",
    atol="1e-9",
    controller="jo.PID(), its defaults: I",
    adjoint="not differentiated",
    threads=("2, one a device", "1, jaxode too"),
)
REPEATS = 15


def rows() -> list[Comparison]:
    work, target = "10,000 Lorenz, t = 5", ">= 1.7"
    if len(allowed_processors()) < 2:
        nan = float("nan")
        return [Comparison(work, nan, nan, target, note="no second processor here")]
    one, two = time_in_process(1), time_in_process(2)
    return [Comparison(work, two, one, target)]


def time_in_process(devices: int) -> float:
    """The time in ms that a process with `devices` host devices on as many processors prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.two_devices", str(devices)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "true"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(finished.stdout)


def allowed_processors() -> list[int]:
    """The processors that this process may use, even if its parent was pinned to fewer.

    The list is empty where the platform does not let a process choose.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, before)
    return allowed


def main(devices: int) -> None:
    """Print the time of the ensemble on `devices` devices and processors."""
    # This must happen before JAX starts its threads.
    os.sched_setaffinity(0, allowed_processors()[-devices:])
    sharding = None
    if devices > 1:
        mesh = Mesh(jax.devices(), ("batch",))
        sharding = NamedSharding(mesh, PartitionSpec("batch"))
    ensemble = lorenz_ensemble(10_000, t1=5.0)
    ends = jax.jit(lambda *inputs: solve_ensemble(ensemble.field, *inputs, sharding=sharding).y1)
    print(run_times(lambda: ends(*ensemble.inputs), repeats=REPEATS)[0])


if __name__ == "__main__":
    main(int(sys.argv[1]))
