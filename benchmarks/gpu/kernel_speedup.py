"""What was asked for, what was seen, and where a kernel pays."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.gpu.ensemble_jobs import DIFFRAX, KERNEL, XLA
from benchmarks.gpu.jobs import Key, Row
from benchmarks.gpu.sections import lorenz, neural, thresholds

Rows = Mapping[Key, Row]
COLUMNS = "work", "asked", "seen", ""
NOT_RUN = "not run"


class Seen(NamedTuple):
    """What the table says, and whether it is what was asked for; None where nothing is known."""

    text: str
    met: bool | None


class Wish(NamedTuple):
    """A line of the table."""

    work: str
    asked: str
    look: Callable[[Rows], Seen]


def table_of_wishes(rows: Rows) -> list[Sequence[str]]:
    """Its lines."""
    found = [(wish, wish.look(rows)) for wish in WISHES]
    said = {None: "", True: "met", False: "missed"}
    return [(wish.work, wish.asked, seen.text, said[seen.met]) for wish, seen in found]


def compared(least: float, pairs: Mapping[str, tuple[Row, Row]]) -> Seen:
    """By how much the first of each pair is faster than the second."""
    known = {name: pair for name, pair in pairs.items() if not all(row.failure for row in pair)}
    if not known:
        return Seen(NOT_RUN, None)
    ratios = {name: _ratio(*pair) for name, pair in known.items()}
    texts = [f"{name}: {_said(ratios[name], *pair)}" for name, pair in known.items()]
    if any(ratio < least for ratio in ratios.values()):
        return Seen("; ".join(texts), False)
    return Seen("; ".join(texts), True if all(map(math.isfinite, ratios.values())) else None)


def _ratio(ours: Row, theirs: Row) -> float:
    return math.nan if ours.failure or theirs.failure else theirs.ms / ours.ms


def _said(ratio: float, ours: Row, theirs: Row) -> str:
    if math.isnan(ratio):
        return f"no {ours.key.by if ours.failure else theirs.key.by}"
    return f"{ratio:.3g}x (errors {ours.error:.0e}, {theirs.error:.0e})"


def at_least(
    least: float,
    section: str,
    work: str,
    ours: tuple[str, ...],
    theirs: tuple[str, str],
    smallest: int = 1,
) -> Callable[[Rows], Seen]:
    """By how much the fastest of ours is faster than `theirs`, a section and a name, by size."""

    def look(rows: Rows) -> Seen:
        pairs = {}
        for count in sorted({key.count for key in rows if key[:2] == (section, work)}):
            mine = [rows[key] for by in ours if (key := Key(section, work, count, by)) in rows]
            other = rows.get(Key(theirs[0], work, count, theirs[1]))
            if mine and other is not None and count >= smallest:
                pairs[f"{count:,}"] = min(mine, key=_time), other
        return compared(least, pairs)

    return look


def _time(row: Row) -> float:
    return math.inf if row.failure else row.ms


def large_states(rows: Rows) -> Seen:
    """Against diffrax, each of them."""
    ours = [row for key, row in rows.items() if key.section == "large" and key.by == XLA]
    others = [rows.get(row.key._replace(by=DIFFRAX)) for row in ours]
    pairs = {a.key.work: (a, b) for a, b in zip(ours, others, strict=True) if b is not None}
    return compared(1.0, pairs)


def read_backs(rows: Rows) -> Seen:
    """Idle shares, and read-backs of the solves forward: a gradient has two loops over steps."""
    found = [
        row
        for row in rows.values()
        if row.key.section == "large" and row.key.by == XLA and math.isfinite(row.read_backs)
    ]
    if not found:
        return Seen(NOT_RUN, None)
    text = "; ".join(
        f"{row.key.work}: idle {row.idle:.0%}, {row.read_backs:.2f} a step" for row in found
    )
    # The first and the last few are not of any step.
    forward = [row.read_backs for row in found if "gradient" not in row.key.work]
    return Seen(text, all(number <= 1.1 for number in forward))


def pays(family: str, what: str) -> Callable[[Rows], Seen]:
    """Time by XLA over that of the kernel, by number of trajectories and by size."""
    name = re.compile(rf"{re.escape(family)} (\d+), {what}")

    def look(rows: Rows) -> Seen:
        ratios: dict[int, dict[int, float]] = {}
        for key, row in rows.items():
            matched = name.fullmatch(key.work)
            if key.section == "thresholds" and key.by == KERNEL and matched and not row.failure:
                other = rows[key._replace(by=XLA)]
                ratio = math.inf if other.failure else other.ms / row.ms
                ratios.setdefault(key.count, {})[int(matched[1])] = ratio
        texts = []
        for count, by_size in sorted(ratios.items()):
            listed = ", ".join(f"{size}: {by_size[size]:.3g}x" for size in sorted(by_size))
            texts.append(f"N = {count:,}: {listed}, so {_up_to(by_size)}")
        return Seen("; ".join(texts) or NOT_RUN, None)

    return look


def _up_to(ratios: Mapping[int, float]) -> str:
    """The largest size up to which a kernel is not slower."""
    largest = None
    for size in sorted(ratios):
        if ratios[size] < 1:
            break
        largest = size
    return "it does not pay" if largest is None else f"it pays up to {largest}"


OURS = KERNEL, XLA
WISHES = (
    Wish(
        "Lorenz, adaptive steps, from 8,192 on", "30x over diffrax",
        at_least(30, "lorenz", lorenz.ADAPTIVE, (KERNEL,), ("lorenz", DIFFRAX), 8192),
    ),
    Wish(
        "Lorenz, constant steps, from 8,192 on", "50x over diffrax",
        at_least(50, "lorenz", lorenz.CONSTANT, (KERNEL,), ("lorenz", DIFFRAX), 8192),
    ),
    *(
        Wish(
            f"Lorenz, {work}, kernel", "never slower than our own XLA path",
            at_least(1, "lorenz", work, (KERNEL,), ("lorenz", XLA)),
        )
        for work in (lorenz.ADAPTIVE, lorenz.CONSTANT)
    ),
    Wish(
        "ROBER, float64, Rodas5P", "100x over diffrax's Kvaerno5",
        at_least(100, "rober", "end states", (KERNEL,), ("rober", DIFFRAX), 131_072),
    ),
    Wish(
        "gradient of a Lorenz ensemble by rho", "15x over RecursiveCheckpointAdjoint",
        at_least(15, "gradients", "by rho", (KERNEL,), ("gradients", DIFFRAX)),
    ),
    *(
        Wish(
            f"neural ODE 2-64-64-2, {work}", "5x over diffrax under vmap",
            at_least(5, "neural", work, OURS, ("neural", DIFFRAX), 1024),
        )
        for work in neural.WORKS
    ),
    Wish(
        "its training step, from 256 samples on", "faster than on the processor",
        at_least(1, "neural", neural.TRAINING, OURS, ("processor", XLA), 256),
    ),
    Wish("large states, XLA", "not slower than diffrax", large_states),
    Wish("large states, XLA", "at most one read-back a step", read_backs),
    *(
        Wish(f"{family}: XLA over kernel, {what}", "where it pays", pays(family, what))
        for family in (thresholds.STATE, thresholds.WIDTH)
        for what in thresholds.WHAT
    ),
)  # fmt: skip
