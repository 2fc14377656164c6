"""`python -m benchmarks [NAME ...]`: run them on one processor, print and keep the tables."""

import os

# Both must stand before JAX is imported: one thread of work, and no runtime checks in diffrax.
os.environ["EQX_ON_ERROR"] = "nan"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import datetime
import importlib
import pathlib
import platform
import re

import diffrax
import equinox
import jax

import jaxode
from benchmarks.harness.timing import table

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
    "two_devices": "speed.two_devices",
}
RESULTS = pathlib.Path(__file__).parent / "results"


def device() -> str:
    """The accelerator, or the processor's model."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    info = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return f"{model.group(1).strip() if model else platform.processor()}, one core"


def header() -> str:
    """What the figures were made with."""
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (jaxode, jax, equinox, diffrax))
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"# {device()}\n\n{today}, Python {platform.python_version()}, {versions}, float64.\n\n"
        "The peer is diffrax unless a row names another: one outer jit, `EQX_ON_ERROR=nan`, "
        "PIDController at its defaults (for stiff problems PI, 0.3 and 0.4). JAX's asynchronous "
        "dispatch is off, for both. Medians of runs taken in turn; the ratio is the peer's time "
        "over jaxode's.\n"
    )


def main() -> None:
    """Run the benchmarks that were named, or all; write the tables of a whole run to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    names = parser.parse_args().names
    unknown = set(names) - set(MODULES)
    if unknown:
        parser.error(
            f"no benchmark called {', '.join(sorted(unknown))}; known: {', '.join(MODULES)}"
        )
    jax.config.update("jax_enable_x64", True)
    # On one processor a second thread for the work only adds its scheduling to the times.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    parts = [header()]
    print(parts[0], flush=True)
    for name in names or MODULES:
        module = importlib.import_module(f"benchmarks.{MODULES[name]}")
        parts.append(table(module.TITLE, module.rows()))
        print(parts[-1], flush=True)
    if not names:
        RESULTS.mkdir(exist_ok=True)
        slug = re.sub(r"[^a-z0-9]+", "-", device().lower()).strip("-")
        path = RESULTS / f"{slug}-jax-{jax.__version__}.md"
        path.write_text("\n".join(parts))
        print(f"written to {path}")


if __name__ == "__main__":
    main()
