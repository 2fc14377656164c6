"""Compilation keyed by the values that a function captures, so that replacing one recompiles."""

import functools
import inspect
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import PyTree

# Functions of these libraries capture nothing that a user changes.
_LIBRARIES = ("jax", "jaxlib", "equinox", "numpy", "optax", "lineax", "jaxode")


def jit_with_captures(function: Callable, f: Callable, *rest: Any) -> Any:
    """Call `function(f, *rest)` under `jit`, unless the caller is being traced already.

    A captured value that was replaced since the last call leads to a new compilation.
    """
    if isinstance(jnp.zeros(()), Tracer):
        return function(f, *rest)
    captured = captured_values((f, rest))
    if not isinstance(f, Hashable):
        f = HashableCallable(f)
    return _jitted(captured, function, f, *rest)


@eqx.filter_jit
def _jitted(captured: tuple["CacheKey", ...], function: Callable, f: Callable, *rest: Any) -> Any:
    return function(f, *rest)


class CacheKey:
    """A value in a cache key: numbers and strings compare by value, other objects by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheKey) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or (
            _equal_by_value(self.value) and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash(self.value) if _equal_by_value(self.value) else id(self.value)


class HashableCallable(CacheKey):
    """A hashable wrapper of a callable that is not hashable itself."""

    def __call__(self, *args: Any) -> Any:
        """Call the wrapped function."""
        return self.value(*args)


def captured_values(tree: PyTree) -> tuple[CacheKey, ...]:
    """Collect the values that functions in `tree` capture: closed over, globals or attributes.

    `jit` keys a plain function by its identity and keeps the values that it captured at the first
    trace. With these values as a static argument, replacing one leads to a new compilation. A NumPy
    array that was changed in place is not noticed.
    """
    seen: set[int] = set()
    return tuple(
        CacheKey(value) for leaf in jax.tree.leaves(tree) for value in _values_read_by(leaf, seen)
    )


def _values_read_by(f: Any, seen: set[int]) -> Iterator[Any]:
    if id(f) in seen or (getattr(f, "__module__", None) or "").split(".")[0] in _LIBRARIES:
        return
    seen.add(id(f))
    if isinstance(f, functools.partial):
        yield from (*f.args, *f.keywords.values())
        yield from _values_read_by(f.func, seen)
    elif isinstance(f, types.MethodType):
        yield from vars(f.__self__).values() if hasattr(f.__self__, "__dict__") else ()
        yield from _values_read_by(f.__func__, seen)
    elif isinstance(f, types.FunctionType):
        captured = inspect.getclosurevars(f)
        for value in (*captured.nonlocals.values(), *captured.globals.values()):
            if callable(value):
                yield from _values_read_by(value, seen)
            elif not isinstance(value, types.ModuleType):
                yield value
    elif hasattr(f, "__wrapped__"):
        yield from _values_read_by(f.__wrapped__, seen)
    elif callable(f) and not isinstance(f, type) and hasattr(f, "__dict__"):
        yield from vars(f).values()


def _equal_by_value(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | complex | str)
