"""The page: what was asked and seen, a table for each section, and what the columns mean."""

import datetime
import math
import pathlib
from collections.abc import Mapping, Sequence

from benchmarks.figures.ensemble_size import draw
from benchmarks.gpu import kernel_speedup as asked
from benchmarks.gpu.device import Card
from benchmarks.gpu.flops import SAID
from benchmarks.gpu.jobs import PROCESSOR, Key, Part, Row
from benchmarks.harness.results_section import table

COLUMNS = (
    "work", "N", "by", "ms", "turns", "times as fast", "compiled, s", "steps", "error",
    "ns per trajectory-step", "GFLOP/s", "of peak", "idle", "read-backs per step", "",
)  # fmt: skip
HEAD = """The peer is diffrax under `vmap`: one outer jit, `EQX_ON_ERROR=nan`, `throw=False`, its
PIDController at its defaults (for stiff problems PI, 0.3 and 0.4). Medians of runs taken in turns,
each until its arrays are there, without compilation, after a warm-up; what takes more than two
seconds is run once; a turn has as many runs as fit into two milliseconds. Compiling is tracing and
compiling, several side by side, nothing kept from earlier runs. "Times as fast" is the time of
diffrax over that of the row. "Steps" are those that a trajectory tried, the mean; errors are norms
over those of float64 solves to a tight tolerance, of the worst component, over a sample of
trajectories. Each row is guarded: where one has no numbers, it says why.
"""
SMOKE = "**A smoke test with tiny sizes on a processor: its times say nothing about a GPU.**\n"


def publish(
    folder: pathlib.Path,
    card: Card,
    parts: Sequence[Part],
    rows: Mapping[Key, Row],
    troubles: Sequence[str],
    seconds: float,
    last: bool,
) -> list[pathlib.Path]:
    """Write the page into `folder`, and the figure beside it at `last`; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.slug}.md"
    picture = draw(folder, card, rows) if last else None
    name = picture.name if picture else ""
    path.write_text(page(card, parts, rows, troubles, seconds, name))
    return [path, picture] if picture else [path]


def not_run(why: str, versions: str) -> str:
    """The page of a machine on which nothing was measured."""
    said = f"**Not run: {why}.** `make bench-gpu` on a machine with an NVIDIA GPU runs it."
    return (
        "\n".join(["# Without a GPU\n", f"{said} Here: {versions}.\n", *_asked({}, judged=False)])
        + "\n"
    )


def page(
    card: Card,
    parts: Sequence[Part],
    rows: Mapping[Key, Row],
    troubles: Sequence[str],
    seconds: float,
    picture: str,
) -> str:
    """All of it in Markdown."""
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [
        f"# {card.name}\n",
        f"{today}, {card.versions}; {card.driver}. Made by `make bench-gpu` in {seconds:.0f} s.\n",
        *([] if card.is_gpu else [SMOKE]),
        *_asked(rows, judged=card.is_gpu),
        *(f"- {trouble}" for trouble in troubles),
        f"\n{HEAD}\n{SAID} {_peaks(card)}\n",
    ]
    if picture:
        lines.append(f"![Time against ensemble size]({picture})\n")
    for part in parts:
        lines += [f"### {part.title}\n", f"{part.text}\n"]
        lines += table(
            COLUMNS, [cells(rows[key], _base(part, key, rows), card) for key in part.keys]
        )
        lines.append("")
    return "\n".join(lines)


def _asked(rows: Mapping[Key, Row], judged: bool) -> list[str]:
    lines = asked.table_of_wishes(rows)
    return table(asked.COLUMNS, lines if judged else [(*line[:3], "") for line in lines])


def _peaks(card: Card) -> str:
    single, double = card.peak(x64=False), card.peak(x64=True)
    if single is None or double is None:
        return "The peak of this device is not known here."
    return (
        f"The peak of this device is {1e-3 * single:.4g} TFLOP/s in float32 and "
        f"{1e-3 * double:.4g} in float64, without tensor cores."
    )


def _base(part: Part, key: Key, rows: Mapping[Key, Row]) -> float:
    """The time of what a row is compared with."""
    other = rows.get(key._replace(by=part.base))
    return math.nan if other is None or other.failure else other.ms


def cells(row: Row, base: float, card: Card) -> list[str]:
    """A line of the table."""
    key = row.key
    if row.failure:
        compiled = number(row.compiled, ".1f")
        return [
            key.work, f"{key.count:,}", key.by, *["-"] * 3, compiled, *["-"] * 7, row.failure
        ]  # fmt: skip
    peak = card.peak(row.x64) if key.section != PROCESSOR else None
    share = number(row.gflops / peak, ".2%") if peak else "-"
    return [
        key.work, f"{key.count:,}", key.by, number(row.ms, ".4g"), str(row.turns),
        number(base / row.ms, ".3g"), number(row.compiled, ".1f"), number(row.steps, ".5g"),
        number(row.error, ".1e"), number(row.ns_per_step, ".3g"), number(row.gflops, ".4g"), share,
        number(row.idle, ".0%"), number(row.read_backs, ".2f"), row.note,
    ]  # fmt: skip


def number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def shown(row: Row) -> str:
    """A line of progress."""
    who = ", ".join([row.key.section, row.key.work, f"{row.key.count:,}", row.key.by])
    if row.failure:
        return f"{who}: {row.failure}"
    more = f", {row.note}" if row.note else ""
    return (
        f"{who}: {row.ms:.4g} ms ({row.turns} turns), {number(row.steps, '.5g')} steps, "
        f"error {number(row.error, '.1e')}{more}"
    )
