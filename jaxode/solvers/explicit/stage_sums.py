"""Weighted sums of stage slopes, without zero coefficients."""

import functools
import operator
from typing import Any

from jax import Array


def add_stage_sum(y: Array, scale: Array, row: tuple[float, ...], slopes: list[Array]) -> Array:
    """`y + scale * sum(row * slopes)`, with one multiply-add after the newest slope."""
    newest = max(i for i, a in enumerate(row) if a)
    if any(row[:newest]):
        y = y + scale * stage_sum(row[:newest], slopes)
    return y + (scale * row[newest]) * slopes[newest]


def stage_sum(row: Any, slopes: list[Array]) -> Array:
    """The sum of `row * slopes`, without terms whose coefficient is a zero float."""
    pairs = zip(row, slopes, strict=False)
    terms = [a * k for a, k in pairs if not isinstance(a, float) or a]
    return functools.reduce(operator.add, terms)
