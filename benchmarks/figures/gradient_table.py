"""The table of all sensitivity modes for `docs/gradients.md`, from the page `gradient_modes`."""

import json
import re
from typing import Any, NamedTuple

from benchmarks.harness.folders import RESULTS
from benchmarks.harness.markdown import markdown_table

PROBLEMS = ("Lotka-Volterra", "MLP, 256 samples")
EVERY_SAVE = "every solver, every `save`"
HEADER = (
    "`sensitivity=`", "error", "time, ms", "memory, KiB", "Hessian product, ms", "works with",
)  # fmt: skip


class Mode(NamedTuple):
    """A mode by its name on the page and in the table, whether it is exact, and its domain."""

    name: str
    label: str
    exact: str
    works_with: str


MODES = (
    Mode("Discrete()", '`"discrete"`, `jo.Discrete()`', "exact", EVERY_SAVE),
    Mode("Discrete(memory=16)", "`jo.Discrete(memory=16)`", "exact", "the same"),
    Mode(
        'Discrete(memory="stages")',
        '`jo.Discrete(memory="stages")`',
        "exact",
        "the same, but no batches",
    ),
    Mode(
        "Reversible()",
        '`"reversible"`, `jo.Reversible()`',
        "exact, of a reversible solver",
        "explicit Runge-Kutta (adaptive steps), symplectic and reversible solvers; every `save`",
    ),
    Mode("Forward()", '`"forward"`, `jo.Forward()`', "exact", f"{EVERY_SAVE}; `jvp`, `jacfwd`"),
    Mode(
        'Continuous("quadrature")',
        '`"adjoint"`, `jo.Continuous()`',
        "",
        'every solver, `save="ts"` or a function',
    ),
    Mode('Continuous("backsolve")', '`jo.Continuous("backsolve")`', "", "the same"),
    Mode('Continuous("interpolate")', '`jo.Continuous("interpolate")`', "", "the same"),
)
# diffrax's adjoints, each with the mode in whose row it stands on the page.
PEERS = {
    "RecursiveCheckpointAdjoint": ("Discrete()", "exact"),
    "BacksolveAdjoint": ('Continuous("backsolve")', ""),
    "ForwardMode": ("Forward()", "exact"),
}


def gradient_table() -> str:
    """The table in Markdown: every mode of jaxode, then diffrax's."""
    data = json.loads((RESULTS / "gradient_modes.json").read_text())
    rows = {row["work"]: row for row in data["rows"]}
    cells = [
        (mode.label, *_figures(rows, mode.name, "ours", mode.exact), mode.works_with)
        for mode in MODES
    ]
    for peer, (mode, exact) in PEERS.items():
        error, time, memory, _ = _figures(rows, mode, "peer", exact)
        cells.append((f"diffrax `{peer}`", error, time, memory, "", ""))
    return "\n".join(markdown_table(HEADER, cells))


def _figures(rows: dict[str, Any], mode: str, side: str, exact: str) -> tuple[str, ...]:
    """Errors, times, memory and Hessian products of one side on both problems."""
    names = (f"{problem}, {mode}" for problem in PROBLEMS)
    found = [rows[name] for name in names if name in rows]
    error = "; ".join(
        f"{row['our_error' if side == 'ours' else 'peer_error']:.1e}" for row in found
    )
    memory = [re.findall(r"(\d+) KiB", row["note"])[side == "peer"] for row in found]
    products = [re.findall(r"Hessian product ([\d.]+) ms", row["note"])[0] for row in found]
    return (
        f"{error} ({exact})" if exact else error,
        "; ".join(f"{row[side]:.2g}" for row in found),
        "; ".join(f"{int(kib):,}" for kib in memory),
        "; ".join(products),
    )
