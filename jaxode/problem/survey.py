"""A trace in which every solve is one operation: what a function that solves depends on, quickly.

To trace a solve takes much longer than to trace the functions that it is given. So the programs of
a model outside of `jit` are found by a trace without the loops of its solves.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jaxtyping import PyTree

from .programs import Compiled, ProgramKey

_active: ContextVar[bool] = ContextVar("survey", default=False)
_solve = Primitive("surveyed_solve")
_solve.multiple_results = True
_solve.def_abstract_eval(lambda *inputs, key, outputs: list(outputs))
_MOST_SHAPES = 256
_shapes: dict[Any, Any] = {}


@contextlib.contextmanager
def surveying(active: bool = True) -> Iterator[None]:
    """Within it, solves under a trace are operations; with `active=False` no longer."""
    token = _active.set(active)
    try:
        yield
    finally:
        _active.reset(token)


def is_surveying() -> bool:
    """True within `surveying`."""
    return _active.get()


def surveyed(key: ProgramKey, make: Callable[[], Compiled], arrays: PyTree) -> PyTree:
    """The operation for the program of this key: an output of the shapes of what `make` makes."""
    leaves, treedef = jax.tree.flatten(arrays)
    inputs = tuple([jax.typeof(x) for x in leaves])
    known = key, treedef, inputs
    if known not in _shapes:
        if len(_shapes) >= _MOST_SHAPES:
            _shapes.clear()
        with surveying(False):
            _shapes[known] = make().shapes(arrays)
    shapes, join = _shapes[known]
    outputs = tuple([ShapedArray(x.shape, x.dtype, weak_type=x.weak_type) for x in shapes])
    return join(_solve.bind(*leaves, key=key, outputs=outputs))
