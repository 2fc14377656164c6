"""How wide a tile is: from the size of the state, the work of its field, and the backend."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from ..problem.errors import OptionError
from ..problem.validation import is_count
from ..solvers.linear import MAX_INLINE_LANES
from .queue import LaneTile

# What XLA will not put inside the native function that it makes of a small loop on a CPU.
_OUTSIDE = ("dot_general", "conv_general", "scatter", "callback", "custom_call", "lu", "cholesky")

# Bytes of state in a tile up to which that function is made, those of matrices where a lane has
# one, and lanes that fill its vectors.
_NATIVE_BYTES, _NATIVE_MATRICES, _NATIVE_LANES = 2**15, 2**18, 64
# Bytes of a field's intermediate values that stay in a processor's cache.
_CACHE_BYTES = 2**18
_ACCELERATOR_LANES = 2**14


def check_lanes(lanes: Any) -> int | None:
    """**Raises:** `OptionError` unless `lanes` is None or a positive integer."""
    if lanes is None:
        return None
    if not is_count(lanes):
        raise OptionError(f"lanes must be a positive integer or None, got {lanes!r}")
    return int(lanes)


def choose_tile(
    field: Callable[[Array, Array], Array],
    t: Array,
    y: Array,
    count: int,
    lanes: int | None,
    implicit: bool = False,
) -> LaneTile:
    """The tile for `count` trajectories of `field`, whose packed state is like `y`.

    `lanes`: as many as the user asks for, or None to choose. `implicit`: each lane has a matrix.
    """
    backend = jax.default_backend()
    equations = list(_equations(jax.make_jaxpr(field)(t, y).jaxpr))
    state = max(y.size * (y.size if implicit else 1) * y.dtype.itemsize, 1)
    room = _NATIVE_MATRICES if implicit else _NATIVE_BYTES
    native = (
        backend == "cpu"
        and jax.__version_info__ >= (0, 12)
        and room // state >= 8
        and not (implicit and y.size > MAX_INLINE_LANES)
        and not any(str(e.primitive).startswith(_OUTSIDE) for e in equations)
    )
    if lanes is not None:
        most = lanes
    elif native:
        most = min(_NATIVE_LANES, _floor_power(room // state))
    elif backend == "cpu":
        work = state + sum(_size(v.aval) for e in equations for v in e.outvars)
        most = min(max(_floor_power(_CACHE_BYTES // work), 64), 1024)
    else:
        most = _ACCELERATOR_LANES
    return LaneTile(_balanced(count, most), not native)


def _balanced(count: int, most: int) -> int:
    """As many lanes as share out the trajectories evenly, at most `most`."""
    rounds = -(-count // most)
    even = -(-count // rounds)
    return min(count, most, -(-even // 8) * 8)


def _floor_power(number: int) -> int:
    return 1 << max(number, 1).bit_length() - 1


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        inner = list(_programs(equation.params.values()))
        for program in inner:
            yield from _equations(program)
        if not inner:
            yield equation


def _programs(values: Any) -> Iterator[Any]:
    for value in values:
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif isinstance(value, tuple | list):
            yield from _programs(value)


def _size(aval: Any) -> int:
    return int(np.prod(aval.shape)) * np.dtype(aval.dtype).itemsize
