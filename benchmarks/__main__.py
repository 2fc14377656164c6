"""`python -m benchmarks [NAME ...]`: run benchmarks on one processor; each writes its own page."""

import os

# These must be set before JAX is imported: one processor, and no runtime checks in diffrax.
os.environ["EQX_ON_ERROR"] = "nan"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import importlib
import json

import jax

from benchmarks.harness.catalogue import MODULES
from benchmarks.harness.comparison import Comparison, comparison_table
from benchmarks.harness.folders import RESULTS
from benchmarks.harness.header import page_header, provenance
from benchmarks.harness.side_by_side import Settings, settings_table


def main() -> None:
    """Run the benchmarks named on the command line, or all, and write a page for each."""
    names = parse_names()
    jax.config.update("jax_enable_x64", True)
    # On one processor a second thread of computation only adds its scheduling to the times.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    for name in names or MODULES:
        module = importlib.import_module(f"benchmarks.{MODULES[name]}")
        write_page(name, module.TITLE, module.rows(), module.SETTINGS)


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


def write_page(name: str, title: str, rows: list[Comparison], settings: Settings) -> None:
    """Print and write the page of a benchmark, and its rows and settings as data."""
    table = f"{comparison_table(title, rows)}\n### Settings\n\n{settings_table(settings)}"
    page = f"# {name}\n\n{page_header(name)}\n{table}"
    print(page, flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page)
    data = {**provenance(), "title": title, "settings": settings}
    data["rows"] = [row.as_data() for row in rows]
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
