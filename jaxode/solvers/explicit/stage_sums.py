"""Weighted sums of the slopes of stages."""

import functools
import operator
from typing import Any

from jax import Array


def add_stage_sum(y: Array, scale: Array, row: tuple[float, ...], slopes: list[Array]) -> Array:
    """`y + scale * sum(row * slopes)`, one multiply-add away from the newest slope."""
    newest = max(i for i, a in enumerate(row) if a)
    if any(row[:newest]):
        y = y + scale * stage_sum(row[:newest], slopes)
    return y + (scale * row[newest]) * slopes[newest]


def stage_sum(row: Any, slopes: list[Array]) -> Array:
    """The sum of `row * slopes`, without those whose figure is known to be zero."""
    pairs = zip(row, slopes, strict=False)
    terms = [a * k for a, k in pairs if not isinstance(a, float) or a]
    return functools.reduce(operator.add, terms)
