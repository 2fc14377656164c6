"""What plain functions read from around them, so that a compiled solve notices when it changes."""

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

# Their functions read nothing that a user changes.
_LIBRARIES = ("jax", "jaxlib", "equinox", "numpy", "optax", "lineax", "jaxode")


def jit_with_captures(function: Callable, f: Callable, *rest: Any) -> Any:
    """`function(f, *rest)`, compiled, unless the caller's `jit` does so already."""
    if isinstance(jnp.zeros(()), Tracer):
        return function(f, *rest)
    reads = captured_values((f, rest))
    if not isinstance(f, Hashable):
        f = WithHash(f)
    return _jitted(reads, function, f, *rest)


@eqx.filter_jit
def _jitted(reads: tuple["Same", ...], function: Callable, f: Callable, *rest: Any) -> Any:
    return function(f, *rest)


class Same:
    """A value as part of a key: numbers and strings equal by value, all else by being the same."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or (_plain(self.value) and self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value) if _plain(self.value) else id(self.value)


class WithHash(Same):
    """A callable that has no hash of its own."""

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self.value(*args)


def captured_values(tree: PyTree) -> tuple[Same, ...]:
    """The values that the functions in `tree` close over, read as globals or as attributes.

    `jit` keys a plain function by its identity and keeps what it read at the first call. With this
    as a static argument beside it, a value that was replaced since makes a new program. A numpy
    array that was changed in place is not noticed.
    """
    seen: set[int] = set()
    return tuple(Same(value) for leaf in jax.tree.leaves(tree) for value in _reads(leaf, seen))


def _reads(f: Any, seen: set[int]) -> Iterator[Any]:
    if id(f) in seen or (getattr(f, "__module__", None) or "").split(".")[0] in _LIBRARIES:
        return
    seen.add(id(f))
    if isinstance(f, functools.partial):
        yield from (*f.args, *f.keywords.values())
        yield from _reads(f.func, seen)
    elif isinstance(f, types.MethodType):
        yield from vars(f.__self__).values() if hasattr(f.__self__, "__dict__") else ()
        yield from _reads(f.__func__, seen)
    elif isinstance(f, types.FunctionType):
        read = inspect.getclosurevars(f)
        for value in (*read.nonlocals.values(), *read.globals.values()):
            if callable(value):
                yield from _reads(value, seen)
            elif not isinstance(value, types.ModuleType):
                yield value
    elif hasattr(f, "__wrapped__"):
        yield from _reads(f.__wrapped__, seen)
    elif callable(f) and not isinstance(f, type) and hasattr(f, "__dict__"):
        yield from vars(f).values()


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | complex | str)
