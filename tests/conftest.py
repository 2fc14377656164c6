"""Set up the whole suite: float64, and figures that open no window."""

import os
from importlib.metadata import version

os.environ.setdefault("MPLBACKEND", "Agg")

# Compiling is most of the time of a test. XLA's older code generator, which JAX 0.11 no longer has,
# takes a third less for it, and LLVM without its dear passes another tenth.
if version("jax").startswith("0.10."):
    quick = "--xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
    os.environ.setdefault("XLA_FLAGS", quick)

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

jax.config.update("jax_enable_x64", True)

# Every compiled program maps memory, and Linux allows a process 65,530 maps by default.
MOST_MAPS = 25_000


@pytest.fixture(scope="module", autouse=True)
def _forget_programs_before_maps_run_out() -> Iterator[None]:
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
