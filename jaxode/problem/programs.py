"""Compiled programs, kept by what they compute.

A program lives while it is among the last of a function that exists, or among the last of all.
"""

import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .errors import RecompilationWarning, warn_user
from .object_key import ByIdentity
from .partition import ARRAYS, Static, partition

MOST_KEPT = 64
MOST_CHANGES = 3
_LARGEST_BY_VALUE = 2**12


class ProgramKey:
    """A key whose hash is computed once."""

    __slots__ = ("hash", "parts")

    def __init__(self, *parts: Hashable) -> None:
        self.parts, self.hash = parts, hash(parts)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProgramKey) and self.parts == other.parts


class Compiled:
    """A function of a pytree of arrays under `jit`; its output may have leaves that are none."""

    def __init__(self, function: Callable[[Any], PyTree]) -> None:
        def flat(arrays: PyTree) -> tuple[list[Any], _Rest]:
            # Without `jit`, under `jax.disable_jit`, they may be scalars and arrays of NumPy.
            out, static = partition(function(jax.tree.map(jnp.asarray, arrays)))
            return out, _Rest(static)

        self._jitted = jax.jit(flat)

    def __call__(self, arrays: PyTree) -> PyTree:
        """Run the program."""
        out, rest = self._jitted(arrays)
        return rest.static.join(out)

    def shapes(self, arrays: PyTree) -> tuple[list[Any], Callable[[list[Any]], PyTree]]:
        """The shapes of the arrays of the output, and the function that makes it from them."""
        out, rest = jax.eval_shape(self._jitted, arrays)
        return out, rest.static.join


@jax.tree_util.register_static
class _Rest:
    """The part of an output that is no array; equal to itself alone."""

    def __init__(self, static: Static) -> None:
        self.static = static


class _LastUsed(OrderedDict):
    """The programs used last."""

    def touch(self, program: Compiled) -> None:
        self[program] = None
        self.move_to_end(program)
        if len(self) > MOST_KEPT:
            self.popitem(last=False)


class _Changes:
    """How often, in a row, a call of a function found another program; and the warning."""

    def __init__(self) -> None:
        self.counts: dict[Hashable, tuple[int, Hashable]] = {}
        self.warned = False

    def count(self, call: Hashable, trace: Hashable, name: str) -> None:
        """Count a program that had to be compiled, where `trace` is another than last time."""
        if len(self.counts) > MOST_KEPT:
            self.counts.clear()
        count, last = self.counts.get(call, (-1, None))
        count += trace != last
        self.counts[call] = count, trace
        if count >= MOST_CHANGES and not self.warned:
            self.warned = True
            warn_user(
                f"{name} was compiled anew for each of the last {MOST_CHANGES + 1} solves, because "
                "values that it reads have changed: pass in args what changes, and draw random "
                "numbers before the solve",
                RecompilationWarning,
            )


_programs: weakref.WeakValueDictionary[ProgramKey, Compiled] = weakref.WeakValueDictionary()
_last_used = _LastUsed()
_last_of: weakref.WeakKeyDictionary[Any, _LastUsed] = weakref.WeakKeyDictionary()
_changes_of: weakref.WeakKeyDictionary[Any, _Changes] = weakref.WeakKeyDictionary()


def kept_program(
    key: ProgramKey, owner: Any, call: Hashable, trace: Hashable, make: Callable[[], Compiled]
) -> Compiled:
    """Return the program of this key, made if it is not kept.

    `owner`: see `owner_of`. `call`: what a call of it is known by, whatever it reads; `trace`: its
    trace in this call.

    **Warns:** `RecompilationWarning`, once for a function whose trace changed three times in a row.
    """
    program = _programs.get(key)
    changes = None if isinstance(owner, type) else _changes_of.setdefault(owner, _Changes())
    if program is None:
        program = _programs[key] = make()
        if changes is not None:
            changes.count(call, trace, owner.__name__)
    elif changes is not None:
        changes.counts.pop(call, None)
    _last_used.touch(program)
    _last_of.setdefault(owner, _LastUsed()).touch(program)
    return program


def owner_of(f: Any) -> Any:
    """The function behind a callable, which exists as long as its programs are needed.

    Of an object that is called, its class.
    """
    while not isinstance(f, types.FunctionType):
        wrapped = getattr(f, "__func__", None) or getattr(f, "func", None)
        if not callable(wrapped):
            return type(f)
        f = wrapped
    return f


def value_key(const: Any) -> Hashable:
    """The key of a constant by its value; of a traced one, or a large one of JAX, by identity."""
    large = isinstance(const, jax.Array) and const.size > _LARGEST_BY_VALUE
    if large or isinstance(const, Tracer) or not isinstance(const, ARRAYS):
        return ByIdentity(const)
    if jax.dtypes.issubdtype(const.dtype, jax.dtypes.extended):
        return ByIdentity(const)
    value = np.asarray(const)
    return value.shape, value.dtype, value.tobytes()
