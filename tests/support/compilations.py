"""Counting compilations."""

from collections.abc import Callable
from typing import Any

import jax

_LOWERING = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_lowered = [0]


def _count(event: str, duration_secs: float, **kwargs: Any) -> None:
    _lowered[0] += event == _LOWERING


jax.monitoring.register_event_duration_secs_listener(_count)


def compilations_of(call: Callable[..., Any], *args: Any) -> int:
    """The number of programs that were compiled in a call."""
    before = _lowered[0]
    call(*args)
    return _lowered[0] - before
