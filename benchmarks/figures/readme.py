"""`python -m benchmarks.figures.readme`: write the tables of README and docs from the results.

A table stands between two comments with its name. Each of its rows shows rows of the page of a
benchmark or of a result, in its own numbers: nothing is typed in by hand.
"""

import json
import pathlib
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from benchmarks.figures.gradient_table import gradient_table
from benchmarks.figures.trained_tables import README_ROWS, all_results, trained_table
from benchmarks.harness.folders import RESULTS
from benchmarks.harness.markdown import markdown_table

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
HEADER = ("work", "jaxode", "peer", "the peer's time over ours", "errors, ours; the peer's")


class Row(NamedTuple):
    """A row of a table: its label, and the rows of a benchmark that it shows."""

    label: str
    benchmark: str
    works: tuple[str, ...]


# Without ConvODENet: its ReLU has a discontinuous derivative, so at rtol 1e-4 the gradients of both
# libraries are a seventh off (four images, float64: 0.14 and 0.13 at 1e-4, 0.02 at 1e-6; at 1e-8
# they are within 0.005 of each other): which of them is faster there says little.
MODELS = (
    "moons, FFJORD, exact trace, 256 samples",
    "spirals, latent ODE, 64 series of 100",
    "chirality, neural CDE, 64 series of 100",
)
TABLES: dict[str, tuple[Row, ...]] = {
    "single solves": (
        Row("Lorenz to t = 5, Tsit5, rtol 1e-7, end state", "lorenz", ("end state only",)),
        Row(
            "the same with 100, 1,000, 10,000 saved points",
            "lorenz",
            ("100 save points", "1,000 save points", "10,000 save points"),
        ),
        Row("compiling the end state", "lorenz", ("compile, end state",)),
        Row(
            "Lotka-Volterra, 101 points, value and gradient",
            "lotka_volterra",
            ("value and gradient",),
        ),
        Row("compiling it", "lotka_volterra", ("compile",)),
        Row(
            "neural ODE 2-64-64-2, 256 samples as one system, value and gradient",
            "neural_ode",
            ("value and gradient",),
        ),
        Row("compiling it", "neural_ode", ("compile",)),
    ),
    "neural batches": (
        Row(
            "neural ODE, 256 samples with steps of their own, value and gradient",
            "neural_batch",
            ("discrete; RecursiveCheckpointAdjoint",),
        ),
        Row(
            "by the continuous adjoint; diffrax with its default norm, with the seminorm",
            "neural_batch",
            ("adjoint; BacksolveAdjoint", "adjoint; BacksolveAdjoint, seminorm"),
        ),
        Row(
            "the samples as one system, likewise",
            "neural_batch",
            (
                "adjoint, one system; BacksolveAdjoint",
                "adjoint, one system; BacksolveAdjoint, seminorm",
            ),
        ),
    ),
    "ensembles": (
        Row("1,000 Lorenz to t = 5, rtol 1e-7", "ensembles", ("1,000 Lorenz, t = 5",)),
        Row(
            "beside vectorised C",
            "ensembles",
            ("1,000 Lorenz, t = 5; vectorised C",),
        ),
        Row(
            "2,048 Van der Pol, mu from 0.1 to 100",
            "ensembles",
            ("2,048 Van der Pol, mu 0.1 to 100",),
        ),
        Row(
            "the same two, value and gradient by each one's parameters",
            "ensembles",
            (
                "1,000 Lorenz, t = 5, value and gradient",
                "2,048 Van der Pol, mu 0.1 to 100, value and gradient",
            ),
        ),
        Row(
            "compiling the first; its gradient",
            "ensembles",
            ("compile, 1,000 Lorenz, t = 5", "compile, 1,000 Lorenz, t = 5, gradient"),
        ),
    ),
    "stiff": tuple(
        Row(
            f"{name}: beside diffrax; CVODE; SciPy's LSODA",
            "stiff",
            tuple(f"{name}; {peer}" for peer in ("diffrax", "CVODE", "SciPy LSODA")),
        )
        for name in ("ROBER", "OREGO", "Van der Pol, mu 1,000", "HIRES", "POLLU")
    ),
    "gradients": (
        Row("Lotka-Volterra, end state, value and gradient", "gradients", ("Lotka-Volterra",)),
        Row("Lorenz to t = 5, the same", "gradients", ("Lorenz to t = 5",)),
        Row(
            "compiling the two",
            "gradients",
            ("compile, Lotka-Volterra", "compile, Lorenz to t = 5"),
        ),
        Row(
            "MLP 2-64-64-2 on 256 samples as one system; compiling it",
            "gradients",
            ("MLP 2-64-64-2 on 256 samples", "compile, MLP 2-64-64-2 on 256 samples"),
        ),
    ),
    "models": (
        *(Row(name, "models", (name,)) for name in MODELS),
        Row("compiling the three", "models", tuple(f"compile, {name}" for name in MODELS)),
    ),
    "events": (
        Row(
            "1,000 balls with 1 to 24 bounces each: beside diffrax restarted in a compiled loop; "
            "from Python; SciPy, estimated for 50 processors",
            "events",
            tuple(
                f"1000 balls, 1 to 24 bounces; {peer}"
                for peer in (
                    "diffrax restarted in a compiled loop",
                    "diffrax restarted from Python",
                    "SciPy on 50 processors",
                )
            ),
        ),
        Row("20 infusions", "events", ("20 infusions",)),
    ),
}


def results(benchmark: str) -> dict[str, dict[str, Any]]:
    """The rows of a benchmark's page, by their names."""
    data = json.loads((RESULTS / f"{benchmark}.json").read_text())
    return {row["work"]: row for row in data["rows"]}


def table(rows: tuple[Row, ...]) -> str:
    """A table in Markdown."""
    cells = []
    for label, benchmark, works in rows:
        found = [results(benchmark)[work] for work in works]
        link = f"[{label}](benchmarks/results/{benchmark}.md)"
        times = (_joined([_time(row[name]) for row in found]) for name in ("ours", "peer"))
        ratios = _joined([_ratio(row["ratio"]) for row in found])
        errors = _joined([_errors(row) for row in found])
        cells.append((link, *times, ratios, errors))
    return "\n".join(markdown_table(HEADER, cells))


# The pages, and for each the functions that make its tables.
PAGES: dict[pathlib.Path, dict[str, Callable[[], str]]] = {
    README: {
        **{name: partial(table, rows) for name, rows in TABLES.items()},
        "trained models": partial(trained_table, README_ROWS, "docs/results/"),
    },
    ROOT / "docs" / "results.md": {"all results": all_results},
    ROOT / "docs" / "gradients.md": {"gradient modes": gradient_table},
}


def with_tables(page: pathlib.Path) -> str:
    """The text of a page with its tables as the results have them."""
    text = page.read_text()
    for name, make in PAGES[page].items():
        mark = re.escape(f"<!-- {name} -->")
        new = f"<!-- {name} -->\n\n{make()}\n\n<!-- end -->"
        text, count = re.subn(rf"{mark}\n.*?<!-- end -->", lambda _: new, text, flags=re.DOTALL)  # noqa: B023
        assert count == 1, f"{page.name} has {count} tables called {name}"
    return text


def _time(ms: float) -> str:
    return f"{ms:.2g} ms" if ms < 100 else f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2g}x" if ratio < 100 else f"{ratio:.0f}x"


def _errors(row: dict[str, Any]) -> str:
    errors = row["our_error"], row["peer_error"]
    return "" if None in errors else "{:.0e}, {:.0e}".format(*errors)


def _joined(parts: list[str]) -> str:
    """The parts, each but once where all are the same."""
    return parts[0] if len(set(parts)) == 1 else "; ".join(parts)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page))
