"""The head of a results page: device, date, versions and conditions of the measurement."""

import datetime
import pathlib
import platform
import re

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


def page_header() -> str:
    """The head of the page in Markdown."""
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (jaxode, jax, equinox, diffrax))
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"# {device_name()}\n\n{today}, Python {platform.python_version()}, {versions}, float64."
        "\n\nThe peer is diffrax unless a row names another: one outer jit, `EQX_ON_ERROR=nan`, "
        "PIDController at its defaults (for stiff problems PI, 0.3 and 0.4). JAX's asynchronous "
        "dispatch is off, for both. Medians of interleaved runs; the ratio is the peer's time "
        "over jaxode's.\n"
    )
