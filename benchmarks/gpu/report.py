"""The report in Markdown: a summary, a table for each section, and the meaning of the columns."""

import datetime
import math
import pathlib
from collections.abc import Mapping, Sequence

from benchmarks.figures.ensemble_size import draw_ensemble_size
from benchmarks.gpu import kernel_speedup
from benchmarks.gpu.device import Device
from benchmarks.gpu.flops import EXPLANATION
from benchmarks.gpu.jobs import PROCESSOR, JobKey, Measurement, SectionPlan
from benchmarks.gpu.sections import thresholds
from benchmarks.harness.markdown import markdown_table

COLUMNS = (
    "work", "N", "by", "ms", "rounds", "times as fast", "compiled, s", "steps", "error",
    "ns per trajectory-step", "GFLOP/s", "of peak", "idle", "reads per step", "",
)  # fmt: skip
HEAD = """The peer is diffrax under `vmap`: one outer jit, `EQX_ON_ERROR=nan`, `throw=False`, its
PIDController at its defaults (for stiff problems PI, 0.3 and 0.4). Times are medians over rounds of
interleaved runs, after a warm-up and without compilation; a round has as many runs as fit into two
milliseconds, and a run of more than two seconds is not repeated. Compile times include tracing;
several programs compile at once, without a compilation cache. "Times as fast" is the time of
diffrax over that of the row. "Steps" are those attempted, averaged over trajectories. Errors are
norms over a sample of trajectories relative to float64 solves with a tight tolerance, for the
worst component. A row without numbers says why it has none.
"""
SMOKE = "**A smoke test with tiny sizes on a processor: its times say nothing about a GPU.**\n"


def write_report(
    folder: pathlib.Path,
    device: Device,
    sections: Sequence[SectionPlan],
    measurements: Mapping[JobKey, Measurement],
    problems: Sequence[str],
    seconds: float,
    last: bool,
) -> list[pathlib.Path]:
    """Write the report into `folder`, if it is the last time with its figure; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{device.slug}.md"
    figure = draw_figure(folder, device, measurements) if last else None
    name = figure.name if figure else ""
    path.write_text(report_page(device, sections, measurements, problems, seconds, name))
    return [path, figure] if figure else [path]


def draw_figure(
    folder: pathlib.Path, device: Device, measurements: Mapping[JobKey, Measurement]
) -> pathlib.Path | None:
    """Draw the times of the Lorenz ensembles; None without measurements or matplotlib."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for key, found in measurements.items():
        if key.section == "lorenz" and not found.failure:
            lines = panels.setdefault(key.work, {})
            lines.setdefault(key.method, []).append((key.count, found.ms))
    title = f"Lorenz to t = 1, Tsit5, float32, on {device.name}"
    return draw_ensemble_size(folder, device.slug, title, panels)


def not_run_page(reason: str, versions: str) -> str:
    """The report of a machine on which nothing was measured."""
    instruction = "`make bench-gpu` on a machine with an NVIDIA GPU runs it."
    return f"# Without a GPU\n\n**Not run: {reason}.** {instruction} Here: {versions}.\n"


def report_page(
    device: Device,
    sections: Sequence[SectionPlan],
    measurements: Mapping[JobKey, Measurement],
    problems: Sequence[str],
    seconds: float,
    figure: str,
) -> str:
    """The whole report in Markdown."""
    today = datetime.datetime.now(datetime.UTC).date()
    made = f"Made by `make bench-gpu` in {seconds:.0f} s."
    speedups = kernel_speedup.speedup_lines(measurements, thresholds.WORKS)
    lines = [
        f"# {device.name}\n",
        f"{today}, {device.versions}; {device.driver}. {made}\n",
        *([] if device.is_gpu else [SMOKE]),
        *markdown_table(kernel_speedup.COLUMNS, speedups),
        "",
        *(f"- {problem}" for problem in problems),
        f"\n{HEAD}\n{EXPLANATION} {_peak_sentence(device)}\n",
    ]
    if figure:
        lines.append(f"![Time against ensemble size]({figure})\n")
    for section in sections:
        lines += [f"### {section.title}\n", f"{section.text}\n"]
        rows = [
            table_row(measurements[key], _base_time(section, key, measurements), device)
            for key in section.keys
        ]
        lines += [*markdown_table(COLUMNS, rows), ""]
    return "\n".join(lines)


def _peak_sentence(device: Device) -> str:
    single, double = device.peak(x64=False), device.peak(x64=True)
    if single is None or double is None:
        return "The peak of this device is not known here."
    return (
        f"The peak of this device is {1e-3 * single:.4g} TFLOP/s in float32 and "
        f"{1e-3 * double:.4g} in float64, without tensor cores."
    )


def _base_time(
    section: SectionPlan, key: JobKey, measurements: Mapping[JobKey, Measurement]
) -> float:
    """The time of the method with which the section's other methods are compared."""
    base = measurements.get(key._replace(method=section.base))
    return math.nan if base is None or base.failure else base.ms


def table_row(found: Measurement, base_ms: float, device: Device) -> list[str]:
    """The cells of one measurement."""
    key = found.key
    seconds = format_number(found.compile_seconds, ".1f")
    if found.failure:
        name = [key.work, f"{key.count:,}", key.method]
        return [*name, *["-"] * 3, seconds, *["-"] * 7, found.failure]
    peak = device.peak(found.x64) if key.section != PROCESSOR else None
    share = format_number(found.gflops / peak, ".2%") if peak else "-"
    return [
        key.work, f"{key.count:,}", key.method, format_number(found.ms, ".4g"),
        str(found.rounds), format_number(base_ms / found.ms, ".3g"), seconds,
        format_number(found.mean_steps, ".5g"), format_number(found.error, ".1e"),
        format_number(found.ns_per_step, ".3g"), format_number(found.gflops, ".4g"), share,
        format_number(found.idle_share, ".0%"), format_number(found.reads_per_step, ".2f"),
        found.note,
    ]  # fmt: skip


def format_number(value: float, form: str) -> str:
    """A number, or a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:{form}}"


def progress_line(found: Measurement) -> str:
    """A measurement as a line of progress."""
    key = found.key
    name = ", ".join([key.section, key.work, f"{key.count:,}", key.method])
    if found.failure:
        return f"{name}: {found.failure}"
    note = f", {found.note}" if found.note else ""
    return (
        f"{name}: {found.ms:.4g} ms ({found.rounds} rounds), "
        f"{format_number(found.mean_steps, '.5g')} steps, "
        f"error {format_number(found.error, '.1e')}{note}"
    )
