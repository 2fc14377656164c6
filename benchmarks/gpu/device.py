"""The device: what it is called, what drives it, and what it can do at most."""

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


class Card(NamedTuple):
    """Facts for the head of the page."""

    name: str
    is_gpu: bool
    driver: str
    versions: str

    def peak(self, x64: bool) -> float | None:
        """GFLOP/s, None where it is not known."""
        for pattern, peaks in PEAKS.items():
            if re.search(pattern, self.name):
                return 1e3 * peaks[x64]
        return None

    @property
    def slug(self) -> str:
        """The name for a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def this_card() -> Card:
    """Of the first device that JAX has."""
    import jax

    device = jax.devices()[0]
    gpu = device.platform in ("gpu", "cuda")
    runtime = " ".join(device.client.platform_version.split())
    driver = f"{_driver()}, {runtime}" if gpu else runtime
    return Card(device.device_kind, gpu, driver, versions())


def versions() -> str:
    """Of all that is compared; what is not installed is named too."""
    import jaxode

    found = [f"Python {platform.python_version()}", f"jaxode {jaxode.__version__}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def _driver() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return "driver not known"
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return f"driver {found[0]}" if found else "driver not known"
