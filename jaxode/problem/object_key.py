"""Keys of objects without equality of their own: the functions among the parameters of primitives.

The derivative rules of `custom_jvp` and `custom_vjp` functions and host callbacks are wrapped anew
at every trace. So a function is compared by its code and by what it closes over, and the wrappers
of JAX by the functions and values that they hold.
"""

import enum
import functools
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.core import AbstractValue, Trace, Tracer
from jax.extend.core import ClosedJaxpr, DebugInfo, Jaxpr, Primitive

_LIBRARIES = ("jax", "jaxlib", "equinox", "jaxode")
# What a trace leaves in its wrappers: it follows from the operands, or serves messages alone.
_LEFT_OUT = (AbstractValue, Trace, DebugInfo, weakref.ref)
_VALUES = (type(None), bool, int, str, bytes, complex, type, Primitive, enum.Enum)
_COMPILED = type(jax.jit(lambda: None))
_TRANSFORMED = (_COMPILED, jax.custom_jvp, jax.custom_vjp)


class ByIdentity:
    """An object in a key that is equal to itself alone; the key keeps it alive."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def object_key(value: Any, program_key: Callable[[Any], Hashable]) -> Hashable:
    """The key of an object; `program_key` is that of a jaxpr which it holds."""
    walk = _Walk(program_key)
    walk.add(value, True)
    return tuple(walk.parts)


class _Walk:
    """The parts of an object in the order of a walk; a part that comes again is its number.

    `of_library` below: the part is held by a library, whose mutable containers are compared by
    what is in them; those of a user, whom a callback may tell something, by identity.
    """

    def __init__(self, program_key: Callable[[Any], Hashable]) -> None:
        self.program_key = program_key
        self.parts: list[Hashable] = []
        self.seen: dict[int, tuple[int, Any]] = {}

    def add(self, value: Any, of_library: bool) -> None:
        """Add an object and what it holds."""
        kind = type(value)
        if isinstance(value, _VALUES):
            self.parts += (kind, value)
        elif kind is object or isinstance(value, _LEFT_OUT):
            pass
        elif id(value) in self.seen:
            self.parts.append(self.seen[id(value)][0])
        else:
            self.seen[id(value)] = len(self.seen), value
            self.add_new(kind, value, of_library)

    def add_new(self, kind: type, value: Any, of_library: bool) -> None:
        """Add an object that the walk has not met."""
        self.parts.append(kind)
        if kind is types.FunctionType:
            self.add_function(value)
        elif isinstance(value, tuple) or (of_library and kind is list):
            self.add_all(value, of_library)
        elif of_library and kind is dict:
            self.add_all(value.items(), of_library)
        elif kind is functools.partial:
            self.add_all((value.func, value.args, *value.keywords.items()), of_library)
        elif kind is types.MethodType:
            self.add_all((value.__func__, value.__self__), of_library)
        elif kind is float or isinstance(value, np.generic):
            self.parts.append(np.asarray(value).tobytes())
        elif isinstance(value, np.ndarray):
            self.parts += (value.shape, value.dtype, value.tobytes())
        elif isinstance(value, jax.Array | Tracer | types.ModuleType):
            self.parts.append(ByIdentity(value))
        elif isinstance(value, Jaxpr | ClosedJaxpr):
            self.parts.append(self.program_key(value))
        elif isinstance(value, _TRANSFORMED):
            self.add_transformed(value)
        elif _is_of_library(kind):
            self.add_attributes(value)
        else:
            self.parts.append(_hashable(value))

    def add_all(self, values: Any, of_library: bool) -> None:
        """Add several objects."""
        self.parts.append(len(values))
        for value in values:
            self.add(value, of_library)

    def add_function(self, function: types.FunctionType) -> None:
        """Add a function: its code, and the values that it closes over."""
        self.parts.append(ByIdentity(function.__code__))
        of_library = _is_of_library(function)
        held = (*_contents(function.__closure__), function.__defaults__, function.__kwdefaults__)
        for value in held:
            self.add(value, of_library)

    def add_transformed(self, value: Any) -> None:
        """Add a function under `jit` or with a derivative rule; one of a module by identity."""
        if "<locals>" not in getattr(value, "__qualname__", "<locals>"):
            self.parts.append(ByIdentity(value))
        elif isinstance(value, _COMPILED):
            self.add(getattr(value, "__wrapped__", None), True)
        else:
            self.add_attributes(value)

    def add_attributes(self, value: Any) -> None:
        """Add the attributes of an object of a library; a value of its own if it shows none."""
        kind = type(value)
        held = [getattr(value, name, None) for name in _slots(kind)]
        attributes = getattr(value, "__dict__", {}).items()
        held += [part for name, part in attributes if not _is_derived(kind, name)]
        for part in held:
            self.add(part, True)
        if not held and not hasattr(value, "__dict__"):  # of a class that is written in C
            self.parts.append(_hashable(value))


def _is_derived(kind: type, name: str) -> bool:
    """True for what an object computes from its other attributes when it is first asked."""
    return isinstance(getattr(kind, name, None), functools.cached_property)


@functools.lru_cache(maxsize=256)
def _slots(kind: type) -> tuple[str, ...]:
    """The names of the slots of a class."""
    slots = [getattr(k, "__slots__", ()) for k in kind.__mro__]
    names = [name for s in slots for name in ((s,) if isinstance(s, str) else s)]
    return tuple(name for name in names if name not in ("__weakref__", "__dict__"))


def _contents(cells: tuple[types.CellType, ...] | None) -> list[Any]:
    """The values in the cells of a closure; an empty cell is left out."""
    values = []
    for cell in cells or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            continue
    return values


def _is_of_library(value: Any) -> bool:
    return (getattr(value, "__module__", None) or "").partition(".")[0] in _LIBRARIES


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return ByIdentity(value)
    return value
