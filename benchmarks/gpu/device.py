"""The device: its name, its driver, and its peak performance."""

import platform
import re
import shutil
import subprocess
from importlib import metadata
from typing import NamedTuple

# TFLOP/s in float32 and float64 without tensor cores, from NVIDIA's data sheets.
PEAKS = {
    r"H100 PCIe": (51.2, 25.6),
    r"H100|H200|GH200": (66.9, 33.5),
    r"A100": (19.5, 9.7),
    r"V100": (15.7, 7.8),
    r"RTX 4090": (82.6, 1.29),
    r"\bL4\b": (30.3, 0.47),
    r"\bT4\b": (8.1, 0.25),
}
PACKAGES = ("jax", "jaxlib", "numpy", "diffrax", "torch", "torchdiffeq")


class Device(NamedTuple):
    """The device's name, driver and software versions, for the head of the report."""

    name: str
    is_gpu: bool
    driver: str
    versions: str

    def peak(self, x64: bool) -> float | None:
        """The peak performance in GFLOP/s; None if it is not known."""
        for pattern, peaks in PEAKS.items():
            if re.search(pattern, self.name):
                return 1e3 * peaks[x64]
        return None

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def current_device() -> Device:
    """The first device that JAX finds."""
    import jax

    device = jax.devices()[0]
    gpu = device.platform in ("gpu", "cuda")
    runtime = " ".join(device.client.platform_version.split())
    driver = f"{_driver()}, {runtime}" if gpu else runtime
    return Device(device.device_kind, gpu, driver, software_versions())


def software_versions() -> str:
    """The versions of all compared packages, including those that are not installed."""
    import jaxode

    found = [f"Python {platform.python_version()}", f"jaxode {jaxode.__version__}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def _driver() -> str:
    """The version of NVIDIA's driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return "driver unknown"
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    output = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return f"driver {output[0]}" if output else "driver unknown"
