"""`python -m benchmarks [NAME ...]`: run benchmarks on one processor, print and save the tables."""

import os

# These must be set before JAX is imported: one processor, and no runtime checks in diffrax.
os.environ["EQX_ON_ERROR"] = "nan"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import importlib
import re

import jax

from benchmarks.harness.comparison import comparison_table
from benchmarks.harness.folders import RESULTS
from benchmarks.harness.header import device_name, page_header

# The module of each benchmark, in the order of the page.
MODULES = {
    "lorenz": "speed.lorenz",
    "lotka_volterra": "speed.lotka_volterra",
    "neural_ode": "speed.neural_ode",
    "gradients": "gradients.end_states",
    "gradient_modes": "gradients.modes",
    "adjoint_memory": "gradients.adjoint_memory",
    "adjoint_evaluations": "gradients.adjoint_evaluations",
    "ensembles": "speed.ensembles",
    "neural_batch": "speed.neural_batch",
    "batch_scaling": "speed.batch_scaling",
    "stiff": "speed.stiff",
    "stiff_batch": "speed.stiff_batch",
    "stiff_pde": "speed.stiff_pde",
    "reversible": "gradients.reversible",
    "events": "speed.events",
    "models": "speed.models",
    "eager_calls": "speed.eager_calls",
    "two_devices": "speed.two_devices",
}


def main() -> None:
    """Run the benchmarks named on the command line, or all and write their tables to a file."""
    names = parse_names()
    jax.config.update("jax_enable_x64", True)
    # On one processor a second thread of computation only adds its scheduling to the times.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    parts = [page_header()]
    print(parts[0], flush=True)
    for name in names or MODULES:
        module = importlib.import_module(f"benchmarks.{MODULES[name]}")
        parts.append(comparison_table(module.TITLE, module.rows()))
        print(parts[-1], flush=True)
    if not names:
        write_page(parts)


def parse_names() -> list[str]:
    """The names on the command line; an unknown one ends the program with a message."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = ", ".join(MODULES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {known}")
    names = parser.parse_args().names
    unknown = ", ".join(sorted(set(names) - set(MODULES)))
    if unknown:
        parser.error(f"no benchmark called {unknown}; known: {known}")
    return names


def write_page(parts: list[str]) -> None:
    """Write the page of a complete run, named after the device and JAX's version."""
    RESULTS.mkdir(exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
    path = RESULTS / f"{slug}-jax-{jax.__version__}.md"
    path.write_text("\n".join(parts))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
