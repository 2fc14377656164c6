"""Set up the whole suite: float64, and figures that open no window."""

import gc
import os
from importlib.metadata import version

os.environ.setdefault("MPLBACKEND", "Agg")

# Compiling is most of the time of a test: without optimisation it takes half. XLA's older code
# generator, which JAX 0.11 no longer has, is quicker too. `XLA_FLAGS= make test` optimises.
if "XLA_FLAGS" not in os.environ:
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    quick += " --xla_cpu_parallel_codegen_split_count=1"
    older = version("jax").startswith("0.10.")
    os.environ["XLA_FLAGS"] = quick + " --xla_cpu_use_fusion_emitters=false" * older

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.extend.core.primitives import stop_gradient_p
from jax.interpreters import ad

jax.config.update("jax_enable_x64", True)

# Tracing makes many objects and no garbage: looking for that, and noting the line of every equation
# for error messages, takes a sixth of the suite's time.
gc.set_threshold(100_000, 50, 100)
jax.config.update("jax_traceback_in_locations_limit", 0)

# Every compiled program maps memory, and Linux allows a process 65,530 maps by default.
MOST_MAPS = 25_000


@pytest.fixture(scope="module", autouse=True)
def _forget_programs_before_maps_run_out() -> Iterator[None]:
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _only_the_rules_of_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    # lineax, which is loaded where it is used, gives JAX a rule: nothing else of ours may need it.
    monkeypatch.delitem(ad.primitive_transposes, stop_gradient_p, raising=False)
