"""Batches over eight devices of one process, and over two processes, against one device."""

import concurrent.futures
import os
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxode as jo
from tests.support.batches import assert_same

PROGRAMS = Path(__file__).parents[1] / "support" / "device_programs.py"
WHOLE = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("batch",)), PartitionSpec())


def run(folder: Path, *programs: tuple[str, ...], devices: int) -> list[dict[str, list]]:
    """Run programs beside each other; of each, the arrays that it saved by name."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    }
    options = {"env": environment, "capture_output": True, "text": True, "timeout": 300}

    def end(file: Path, program: tuple[str, ...]) -> tuple[int, Any]:
        command = [sys.executable, "-W", "error", PROGRAMS, file, *program]
        try:
            done = subprocess.run(command, **options)
        except subprocess.TimeoutExpired as error:
            return -1, f"{error}: {error.stderr}"
        return done.returncode, done.stderr

    files = [folder / f"{i}.npz" for i in range(len(programs))]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ends = list(pool.map(end, files, programs))
    assert all(code == 0 for code, _ in ends), "\n".join(str(words) for _, words in ends)
    return [load(file) for file in files]


def load(file: Path) -> dict[str, list]:
    leaves = defaultdict(list)
    with np.load(file) as arrays:
        for key in arrays:
            leaves[key.rpartition("/")[0]].append(arrays[key])
    return dict(leaves)


@pytest.mark.slow
def test_eight_devices_give_what_one_gives(tmp_path):
    """Numbers of trajectories that eight divides or not, meshes of either kind, inside jit."""
    [results] = run(tmp_path, ("forward",), devices=8)
    ys, _, status, num_steps, *_ = one = results["one device"]
    assert ys.shape == (19, 4, 2)
    assert set(status.tolist()) == {jo.Status.SUCCESS, jo.Status.MAX_STEPS}
    assert len(np.unique(num_steps)) > 5
    for name in ("auto 16", "explicit 16", "auto 19", "explicit 19", "given 16"):
        assert_same(results[name], [x[: int(name[-2:])] for x in one], rtol=1e-13)
    assert set(map(int, results["rows"])) == {2}  # on each device
    assert results["collectives"] == [""]


@pytest.mark.slow
def test_gradients_over_eight_devices(tmp_path):
    """Of states, of what each trajectory has for itself, and of what they share."""
    [results] = run(tmp_path, ("gradients",), devices=8)
    for mode in ("discrete", "adjoint"):
        one = results[f"{mode}, one device"]
        assert [np.count_nonzero(x) for x in one[:3]] == [x.size for x in one[:3]]
        assert_same(results[mode], one, rtol=1e-10)
        assert "all-reduce" in str(results[f"{mode}, collectives"])


@pytest.mark.slow
def test_shard_map_that_checks_what_varies(tmp_path):
    """Gradients of shared arrays are summed over the devices."""
    [results] = run(tmp_path, ("mapped_by_hand",), devices=2)
    for way in ("batch", "vmap"):
        assert [x.shape for x in results[way]] == [(), (16, 2), (16,), (2,)]
        assert_same(results[way], results[f"{way}, whole"], rtol=1e-9)


@pytest.mark.slow
def test_fit_over_eight_devices(tmp_path):
    [results] = run(tmp_path, ("training",), devices=8)
    for kind in ("auto", "explicit"):
        assert results[kind][0].shape == (3,)
        assert_same(results[kind], results[f"{kind}, one device"], rtol=1e-9)
    refusal = "8 devices cannot share 12 samples evenly"
    assert results["12 samples"] == results["16 samples"] == [refusal]
    # Each device has a key of its own: the variance of uniform numbers is a twelfth.
    [variances] = results["variance of draws"]
    assert np.all((variances > 0.02) & (variances < 0.2))


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Each holds half of the trajectories; the shared gradient is the sum over both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    programs = ("process", "0", port), ("process", "1", port)
    for results in run(tmp_path, *programs, devices=1):
        assert results["together"][2].shape == (8, 2)  # half of the gradient by y0
        assert_same(results["together"], results["alone"], rtol=1e-10)
        assert "all-reduce" in str(results["collectives"])


@pytest.mark.parametrize("sharding", ["batch", WHOLE])
def test_bad_shardings_are_refused(sharding):
    x = jnp.ones((4, 2))
    with pytest.raises(jo.OptionError, match="sharding"):
        jo.solve_batch(lambda t, y, args: -y, x, (0.0, 1.0), sharding=sharding)
    with pytest.raises(jo.OptionError, match="sharding"):
        jo.fit(jo.NeuralODE(lambda y: -y), (x, x), progress=False, sharding=sharding)
