"""Rules for operations that rearrange elements: reshapes, slices, concatenations."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from .lane_scalars import LaneScalars, aval_of, evaluate_now, object_array, output_aval


def _slice(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(slice(*s) for s in zip(starts, limits, strides, strict=True))]


def _broadcast(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    shape, kept = params["shape"], params["broadcast_dimensions"]
    expanded = [1] * len(shape)
    for axis, size in zip(kept, x.shape, strict=True):
        expanded[axis] = size
    return np.broadcast_to(x.reshape(expanded), shape)


_REARRANGEMENTS: dict[str, Callable[[np.ndarray, dict[str, Any]], np.ndarray]] = {
    "transpose": lambda x, params: x.transpose(params["permutation"]),
    "rev": lambda x, params: np.flip(x, params["dimensions"]),
    "slice": _slice,
    "broadcast_in_dim": _broadcast,
    "tile": lambda x, params: np.tile(x, params["reps"]),
}


def reshape(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Reshape an array, after a transposition if the equation has `dimensions`."""
    (x,), order = inputs, equation.params.get("dimensions")
    # `dimensions` of squeeze and expand_dims are the axes dropped or added, not an order.
    permuted = equation.primitive.name == "reshape" and order is not None
    elements = x.elements.transpose(order) if permuted else x.elements
    return [LaneScalars(elements.reshape(output_aval(equation).shape), x.dtype)]


def rearrange(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Rearrange the elements of one array."""
    (x,) = inputs
    return [
        LaneScalars(
            _REARRANGEMENTS[equation.primitive.name](x.elements, equation.params), x.dtype
        ).normalised()
    ]


def concatenate(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """Concatenate arrays along an axis, or stack them along a new one."""
    elements = [object_array(x.flat()).reshape(x.shape) for x in inputs]
    if equation.primitive.name == "concatenate":
        joined = np.concatenate(elements, equation.params["dimension"])
    else:
        joined = np.stack(elements, equation.params["axis"])
    return [LaneScalars(joined, inputs[0].dtype).normalised()]


def split(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Split an array along an axis, which `unstack` drops."""
    (x,), axis = inputs, equation.params["axis"]
    avals = [aval_of(x) for x in equation.outvars]
    if equation.primitive.name == "split":
        ends = np.cumsum(equation.params["sizes"])[:-1]
    else:
        ends = range(1, len(avals))
    parts = np.split(x.elements, ends, axis)
    pairs = zip(parts, avals, strict=True)
    return [LaneScalars(p.reshape(a.shape), x.dtype).normalised() for p, a in pairs]


def pad(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Pad an array."""
    return rearrange_by(lambda *x: equation.primitive.bind(*x, **equation.params), inputs)


def rearrange_by(function: Callable, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Rearrange the elements as `function`, which only moves entries, rearranges arrays."""
    pool, positions = pool_elements(inputs)
    moved = evaluate_now(function, *positions)
    return [LaneScalars.of(pool[moved.reshape(-1)], moved.shape, inputs[0].dtype)]


def pool_elements(inputs: list[LaneScalars]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the elements of all arrays in one, and for each array their positions in it."""
    sizes = np.cumsum([0] + [x.elements.size for x in inputs])
    pool = object_array([element for x in inputs for element in x.flat()])
    positions = [
        np.arange(first, last, dtype=np.int32).reshape(x.shape)
        for x, first, last in zip(inputs, sizes, sizes[1:], strict=False)
    ]
    return pool, positions


RULES: dict[str, Callable[..., list[LaneScalars]]] = {
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), reshape),
    **dict.fromkeys(_REARRANGEMENTS, rearrange),
    **dict.fromkeys(("concatenate", "stack"), concatenate),
    **dict.fromkeys(("split", "unstack"), split),
    "pad": pad,
}
