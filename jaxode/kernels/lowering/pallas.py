"""Pallas and its Triton part, imported when a kernel is made: that takes a fifth of a second."""

from typing import Any


def pallas() -> Any:
    """The module `jax.experimental.pallas`."""
    from jax.experimental import pallas as module

    return module


def triton() -> Any:
    """The module `jax.experimental.pallas.triton`."""
    from jax.experimental.pallas import triton as module

    return module
