"""The head of a results page: device, date, versions and conditions of the measurement."""

import datetime
import pathlib
import platform
import re
import subprocess

import diffrax
import equinox
import jax

import jaxode


def device_name() -> str:
    """The accelerator's name, or the model of the processor."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    info = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return f"{model.group(1).strip() if model else platform.processor()}, one core"


def page_header(name: str) -> str:
    """The head of the page of the benchmark called `name`, in Markdown."""
    about = provenance()
    return (
        f"`python -m benchmarks {name}`, {about['date']}, commit {about['commit']}, on "
        f"{about['machine']}; {about['versions']}."
        "\n\nThe peer is diffrax unless a row names another: one outer jit, `EQX_ON_ERROR=nan`, "
        "other settings as the table of settings has them. One process on one processor; JAX's "
        "asynchronous dispatch is off, for both. Times are medians of interleaved runs, as many as "
        "the column \"runs\" says (if two: jaxode's, the peer's); the ratio is the peer's time "
        "over jaxode's.\n"
    )


def provenance() -> dict[str, str]:
    """Where and when a measurement is made: date, commit, machine, versions."""
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (jaxode, jax, equinox, diffrax))
    return {
        "date": str(datetime.datetime.now(datetime.UTC).date()),
        "commit": _commit(),
        "machine": device_name(),
        "versions": f"Python {platform.python_version()}, {versions}",
    }


def _commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    folder = pathlib.Path(__file__).parents[2]

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
        return run.stdout.strip()

    # The pages that a run has written so far are no difference.
    changed = git(
        "status",
        "--porcelain",
        "--untracked-files=no",
        ":!benchmarks/results",
        ":!docs/results",
        ":!*.md",
    )
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")
