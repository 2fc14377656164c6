"""`python -m benchmarks.accuracy [NAME ...]`: train models; each result writes its own page.

A module of this package has `measure(seeds, effort)`, which returns its `Result`. `effort` scales
the number of training steps; `FLOAT64` says that it trains in double precision.
"""

import argparse
import importlib

import jax

from benchmarks.harness.header import provenance
from benchmarks.harness.trained import write_result

NAMES = (
    "annulus", "chirality", "damped_pendulum", "densities", "digits", "double_pendulum",
    "hypersolver", "latent_ode", "ude",
)  # fmt: skip


def main() -> None:
    """Measure the results named on the command line, or all."""
    options = parse_options()
    for name in options.names or NAMES:
        module = importlib.import_module(f"benchmarks.accuracy.{name}")
        jax.config.update("jax_enable_x64", getattr(module, "FLOAT64", False))
        # Before the training, which may take so long that files change under it.
        origin = provenance()
        if options.smoke:
            print(module.measure(1, 0.01))
        else:
            write_result(name, module.measure(options.seeds, 1.0), origin)


def parse_options() -> argparse.Namespace:
    """The options on the command line; an unknown name ends the program with a message."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="few steps, nothing is written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no result called {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
