"""Which integers of `args` are traced, so that changing one does not recompile.

Python's integers in `args` are traced, but for those whose value a function needs while it is
traced, for a `range` or a shape, and those that it computes with as integers of Python: their
products and powers have no bounds, and a loop up to a traced integer has no gradient.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend.core import Jaxpr, jaxprs_in_params

from .closure import ClosedFunction
from .partition import ARRAYS

Traced = TypeVar("Traced")
_INTEGER_ARITHMETIC = ("mul", "pow", "integer_pow", "shift_left", "dot_general", "reduce_prod")
SCALARS = (int, float, complex)
_LARGEST = 2**30  # whose sums do not overflow in 32 bits
# The integers that each function needs, by the shape of its arguments.
_needed_by: weakref.WeakKeyDictionary[Any, dict[Any, frozenset[int]]] = weakref.WeakKeyDictionary()


def trace_integers(
    owner: Any,
    leaves: list[Any],
    trace: Callable[[frozenset[int]], Traced],
    closed: Callable[[Traced], Iterable[ClosedFunction]],
) -> tuple[Traced, frozenset[int]]:
    """Trace with the integers among `leaves` as arrays, but for those whose value is needed.

    `trace(needed)` traces the functions with the leaves at these positions as they are; `closed`
    are those of what it returns. `owner` is the function that may need them.

    **Raises:** what `trace` raises with all integers as they are.
    """
    integers = [i for i, leaf in enumerate(leaves) if type(leaf) is int]
    if not integers:
        return trace(frozenset()), frozenset()
    known = _needed_by.setdefault(owner, {})
    shape = len(leaves), tuple(integers)
    large = frozenset(i for i in integers if abs(leaves[i]) >= _LARGEST)
    needed = known.get(shape, frozenset()) | large
    try:
        traced = trace(needed)
        if shape in known or not _integer_arithmetic(closed(traced)):
            return traced, needed
    except Exception:  # of any kind: the user's code meets a tracer where it needs a number
        if len(needed) == len(integers):
            raise
    known[shape] = _needed(integers, large, trace, closed)
    return trace(known[shape]), known[shape]


def _needed(
    integers: list[int],
    large: frozenset[int],
    trace: Callable[[frozenset[int]], Traced],
    closed: Callable[[Traced], Iterable[ClosedFunction]],
) -> frozenset[int]:
    """The smallest set of integers that is found by leaving one out after the other."""
    needed = frozenset(integers)
    fewest = _integer_arithmetic(closed(trace(needed)))
    for i in sorted(needed - large):
        try:
            found = _integer_arithmetic(closed(trace(needed - {i})))
        except Exception:
            continue
        if found <= fewest:
            needed -= {i}
    return needed


def _integer_arithmetic(functions: Iterable[ClosedFunction]) -> int:
    return sum(_count(function.program.jaxpr) for function in functions)


def _count(jaxpr: Jaxpr) -> int:
    """The number of operations of a program that a value known to Python would spare."""
    count = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        dtypes = [getattr(v.aval, "dtype", np.bool_) for v in equation.outvars]
        integer = any(jax.numpy.issubdtype(dtype, np.integer) for dtype in dtypes)
        count += name == "while" or (integer and name in _INTEGER_ARITHMETIC)
        count += sum(map(_count, jaxprs_in_params(equation.params)))
    return count


def is_example(leaf: Any) -> bool:
    """True if a leaf is traced, unless it is an integer whose value is needed."""
    return isinstance(leaf, ARRAYS) or type(leaf) in SCALARS


def example(leaf: Any) -> Any:
    """What a leaf is traced as: a scalar of Python as an array of its type, weakly typed."""
    if type(leaf) not in SCALARS:
        return leaf
    dtype = jax.dtypes.canonicalize_dtype(type(leaf))
    return jax.ShapeDtypeStruct((), dtype, weak_type=True)
