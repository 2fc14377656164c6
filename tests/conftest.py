"""Set up the whole suite: float64, and figures that open no window."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_file() -> Iterator[None]:
    """Forget a file's compiled programs after it: a process may map only so many."""
    yield
    jax.clear_caches()
