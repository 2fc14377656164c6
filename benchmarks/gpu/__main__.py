"""`python -m benchmarks.gpu [NAME ...]`: measure on one GPU, write a report and a figure."""

import os

# These must be set before JAX is imported, here and in the measuring processes: no runtime checks
# in diffrax, memory allocated on demand, and no persistent compilation cache.
os.environ["EQX_ON_ERROR"] = "nan"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import argparse
import pathlib
import sys
import tempfile
import time

from benchmarks.gpu.device import software_versions
from benchmarks.gpu.jobs import PROCESSOR
from benchmarks.gpu.report import not_run_page
from benchmarks.gpu.sizes import FULL, SMOKE
from benchmarks.gpu.supervisor import Results, measure, query_device
from benchmarks.harness.folders import RESULTS

# The share of the time of each section, in the order of measurement; unused time passes on.
SHARES = {
    "lorenz": 110.0,
    "rober": 70.0,
    "gradients": 60.0,
    "neural": 60.0,
    "large": 40.0,
    "thresholds": 70.0,
    "models": 35.0,
    PROCESSOR: 15.0,
}
MINUTES = 7.5


def main() -> int:
    """Measure the sections named on the command line, or all; return the exit status."""
    options = parse_options()
    begin = time.time()
    device = query_device()
    if isinstance(device, str) or not (device.is_gpu or options.smoke):
        return write_not_run(options.out or RESULTS, device)
    folder = options.out or (pathlib.Path(tempfile.mkdtemp()) if options.smoke else RESULTS)
    print(f"{device.name}; {device.versions}. At most {options.minutes:g} minutes.", flush=True)
    names = options.names or SHARES
    shares = {name: share for name, share in SHARES.items() if name in names}
    results = Results(device, folder, begin)
    measure(shares, SMOKE if options.smoke else FULL, begin + 60 * options.minutes, results)
    return 0 if any(not found.failure for found in results.measurements.values()) else 1


def parse_options() -> argparse.Namespace:
    """The options on the command line; an unknown name ends the program with a message."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    known = ", ".join(SHARES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {known}")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on any machine")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the report and the figure")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="the time limit")
    options = parser.parse_args()
    unknown = set(options.names) - set(SHARES)
    if unknown:
        parser.error(f"nothing called {', '.join(sorted(unknown))}; known: {known}")
    return options


def write_not_run(folder: pathlib.Path, device: object) -> int:
    """Print and write a report without measurements; the status is 1 only if JAX did not start."""
    broken = isinstance(device, str)
    text = not_run_page(device if broken else "JAX has no NVIDIA GPU here", software_versions())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gpu-not-run.md"
    path.write_text(text)
    print(f"{text}\nwritten to {path}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
