"""JAX's rules of promotion: those of the user for the user's functions, the standard ones for ours.

With `jax_numpy_dtype_promotion="strict"` or `jax_numpy_rank_promotion="raise"` JAX refuses to mix
dtypes or to broadcast. That is for the code that asks for it.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_STANDARD = "standard", "allow"


class _Settings(threading.local):
    """The settings of the user, while those of the library hold; of nested solves the last."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []


_settings = _Settings()


def _current() -> tuple[str, str]:
    config: Any = jax.config
    return config.jax_numpy_dtype_promotion, config.jax_numpy_rank_promotion


@contextlib.contextmanager
def _promoting(dtypes: str, ranks: str) -> Iterator[None]:
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


def with_own_promotion(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, with the standard rules while it runs."""

    @functools.wraps(function)
    def promoting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        given = _current()
        if given == _STANDARD:
            return function(*args, **kwargs)
        _settings.given.append(given)
        try:
            with _promoting(*_STANDARD):
                return function(*args, **kwargs)
        finally:
            _settings.given.pop()

    return promoting


@contextlib.contextmanager
def users_promotion() -> Iterator[None]:
    """Run with the rules that held where the user called the library."""
    if not _settings.given or _current() != _STANDARD:
        yield
        return
    with _promoting(*_settings.given[-1]):
        yield
