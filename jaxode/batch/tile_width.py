"""Choice of the tile width from the size of the state, the cost of its field and the backend."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from ..integrate.ensemble import Ensemble
from ..integrate.ivp import packed_field
from ..problem.errors import OptionError
from ..problem.validation import is_count
from ..solvers.linear import MAX_INLINE_LANES
from .queue import LaneTile

# Primitives that keep XLA from fusing a small loop into one native function on a CPU.
_NOT_FUSED = ("dot_general", "conv_general", "scatter", "callback", "custom_call", "lu", "cholesky")

# Largest state of a tile, in bytes, for which XLA fuses the loop; the same where each lane has a
# matrix; and the number of lanes that fills the SIMD registers.
_FUSED_BYTES, _FUSED_MATRIX_BYTES, _FUSED_LANES = 2**15, 2**18, 64
# Bytes of a field's intermediate values that fit a CPU core's cache.
_CACHE_BYTES = 2**18
_ACCELERATOR_LANES = 2**14


def check_lanes(lanes: Any) -> int | None:
    """Return `lanes`. **Raises:** `OptionError` unless it is None or a positive integer."""
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
    """Choose the tile for `count` trajectories of `field`, whose packed state is like `y`.

    `lanes`: the number that the user gives, or None. `implicit`: each lane holds a matrix.
    """
    backend = jax.default_backend()
    equations = list(_innermost_equations(jax.make_jaxpr(field)(t, y).jaxpr))
    lane_bytes = max(y.size * (y.size if implicit else 1) * y.dtype.itemsize, 1)
    tile_bytes = _FUSED_MATRIX_BYTES if implicit else _FUSED_BYTES
    fused = (
        backend == "cpu"
        and jax.__version_info__ >= (0, 12)
        and tile_bytes // lane_bytes >= 8
        and not (implicit and y.size > MAX_INLINE_LANES)
        and not any(str(e.primitive).startswith(_NOT_FUSED) for e in equations)
    )
    if lanes is not None:
        max_lanes = lanes
    elif fused:
        max_lanes = min(_FUSED_LANES, _power_of_two_at_most(tile_bytes // lane_bytes))
    elif backend == "cpu":
        working_set = lane_bytes + sum(_nbytes(v.aval) for e in equations for v in e.outvars)
        max_lanes = min(max(_power_of_two_at_most(_CACHE_BYTES // working_set), 64), 1024)
    else:
        max_lanes = _ACCELERATOR_LANES
    return LaneTile(_balanced_width(count, max_lanes), not fused)


def tile_of(ensemble: Ensemble, lanes: int | None) -> LaneTile:
    """Choose the tile of an ensemble; `lanes` as in `choose_tile`."""
    first, config = ensemble.problem_of(jax.tree.map(lambda x: x[0], ensemble.per_trajectory))
    field, implicit = packed_field(first, config), config.method.solver.implicit
    return choose_tile(field, first.ts[0], first.y0, ensemble.count, lanes, implicit)


def _balanced_width(count: int, max_lanes: int) -> int:
    """Return the width, at most `max_lanes`, that divides the trajectories evenly over fills."""
    num_fills = -(-count // max_lanes)
    even = -(-count // num_fills)
    return min(count, max_lanes, -(-even // 8) * 8)


def _power_of_two_at_most(number: int) -> int:
    return 1 << max(number, 1).bit_length() - 1


def _innermost_equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a jaxpr that hold no jaxpr, and those of its nested jaxprs."""
    for equation in jaxpr.eqns:
        nested = list(_nested_jaxprs(equation.params.values()))
        for program in nested:
            yield from _innermost_equations(program)
        if not nested:
            yield equation


def _nested_jaxprs(values: Any) -> Iterator[Any]:
    for value in values:
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif isinstance(value, tuple | list):
            yield from _nested_jaxprs(value)


def _nbytes(aval: Any) -> int:
    return int(np.prod(aval.shape)) * aval.dtype.itemsize  # keys have no dtype of NumPy
