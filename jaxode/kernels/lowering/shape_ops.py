"""Operations that move numbers and change none: shapes, slices, joins."""

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
    """The same numbers in the same order, or in that of other axes."""
    (x,), order = inputs, equation.params.get("dimensions")
    # What drops or adds axes says which: that is no order.
    permuted = equation.primitive.name == "reshape" and order is not None
    elements = x.elements.transpose(order) if permuted else x.elements
    return [LaneScalars(elements.reshape(output_aval(equation).shape), x.dtype)]


def rearrange(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """A choice and order of numbers of one array."""
    (x,) = inputs
    return [
        LaneScalars(
            _REARRANGEMENTS[equation.primitive.name](x.elements, equation.params), x.dtype
        ).normalised()
    ]


def concatenate(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """Arrays in one, along an axis or a new one."""
    elements = [object_array(x.flat()).reshape(x.shape) for x in inputs]
    if equation.primitive.name == "concatenate":
        whole = np.concatenate(elements, equation.params["dimension"])
    else:
        whole = np.stack(elements, equation.params["axis"])
    return [LaneScalars(whole, inputs[0].dtype).normalised()]


def split(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """One array in many, along an axis; `unstack` drops it."""
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
    """Numbers among others of one value."""
    return rearrange_by(lambda *x: equation.primitive.bind(*x, **equation.params), inputs)


def rearrange_by(function: Callable, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """What `function` of arrays moves where, done to the elements."""
    pool, places = pool_elements(inputs)
    found = evaluate_now(function, *places)
    return [LaneScalars.of(pool[found.reshape(-1)], found.shape, inputs[0].dtype)]


def pool_elements(inputs: list[LaneScalars]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The elements of all arrays in one, and arrays of their places in it."""
    sizes = np.cumsum([0] + [x.elements.size for x in inputs])
    pool = object_array([element for x in inputs for element in x.flat()])
    places = [
        np.arange(first, last, dtype=np.int32).reshape(x.shape)
        for x, first, last in zip(inputs, sizes, sizes[1:], strict=False)
    ]
    return pool, places


RULES: dict[str, Callable[..., list[LaneScalars]]] = {
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), reshape),
    **dict.fromkeys(_REARRANGEMENTS, rearrange),
    **dict.fromkeys(("concatenate", "stack"), concatenate),
    **dict.fromkeys(("split", "unstack"), split),
    "pad": pad,
}
