"""Sweeps over many cases, few of which the fast tests run."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """`cases` of a parametrised test; all but the `fast` ones are marked slow.

    A tuple gives the values of several parameters.
    """

    def marked(case: Any) -> Any:
        values = case if isinstance(case, tuple) else (case,)
        return case if case in fast else pytest.param(*values, marks=pytest.mark.slow)

    return [marked(case) for case in cases]
