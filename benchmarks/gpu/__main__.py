"""`python -m benchmarks.gpu [NAME ...]`: measure on one GPU, write a page and a figure."""

import os

# Before JAX is imported, here and in the processes that measure: no runtime checks in diffrax,
# memory as it is needed, and nothing compiled before is taken from a disk.
os.environ["EQX_ON_ERROR"] = "nan"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import argparse
import pathlib
import sys
import tempfile
import time

from benchmarks.gpu.device import versions
from benchmarks.gpu.jobs import PROCESSOR
from benchmarks.gpu.report import not_run
from benchmarks.gpu.sizes import FULL, SMOKE
from benchmarks.gpu.supervisor import Findings, ask_card, measure

RESULTS = pathlib.Path(__file__).parents[1] / "results"
# Of the time, in this order; what is not needed goes to those that follow.
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
    """Measure what was named, or all; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHARES)}")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on any machine")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the page and the figure")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="to end in")
    given = parser.parse_args()
    unknown = set(given.names) - set(SHARES)
    if unknown:
        parser.error(f"nothing called {', '.join(sorted(unknown))}; known: {', '.join(SHARES)}")
    begin = time.time()
    card = ask_card()
    if isinstance(card, str) or not (card.is_gpu or given.smoke):
        return say_not_run(given.out or RESULTS, card)
    folder = given.out or (pathlib.Path(tempfile.mkdtemp()) if given.smoke else RESULTS)
    print(f"{card.name}; {card.versions}. At most {given.minutes:g} minutes.", flush=True)
    shares = {name: SHARES[name] for name in SHARES if name in given.names or not given.names}
    findings = Findings(card, folder, begin)
    measure(shares, SMOKE if given.smoke else FULL, begin + 60 * given.minutes, findings)
    return 0 if any(not row.failure for row in findings.rows.values()) else 1


def say_not_run(folder: pathlib.Path, card: object) -> int:
    """Print and write a table without numbers; a failure only if JAX did not start."""
    broken = isinstance(card, str)
    text = not_run(card if broken else "JAX has no NVIDIA GPU here", versions())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gpu-not-run.md"
    path.write_text(text)
    print(f"{text}\nwritten to {path}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
