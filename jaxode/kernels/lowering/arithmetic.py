"""Operations on numbers, one by one, and sums of them."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Primitive

from .lane_scalars import Cell, LaneScalars, at_once, chosen, is_known, result_of, spread
from .unsupported import NoKernelError

# What kernels have an instruction or a library function for.
ELEMENTWISE = {
    *(
        "abs",
        "neg",
        "ceil",
        "floor",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log1p",
        "sqrt",
        "square",
    ),
    *("pow", "cbrt", "rsqrt", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh"),
    *("cosh", "tanh", "asinh", "acosh", "atanh", "sign", "erf_inv", "integer_pow", "min", "max"),
    *("add", "sub", "mul", "div", "rem", "and", "or", "xor", "not", "eq", "ne", "lt", "le", "gt"),
    *("ge", "shift_left", "shift_right_arithmetic", "shift_right_logical", "add_any", "clamp"),
    *("convert_element_type", "bitcast_convert_type", "logistic", "is_finite", "nextafter"),
    *("one_minus_square", "population_count", "clz", "lt_to", "le_to", "eq_to"),
}
# What differs from these in nothing that a kernel sees, and has no rule there.
SAME = {"add_any": lax.add_p, "lt_to": lax.lt_p, "le_to": lax.le_p, "eq_to": lax.eq_p}


def elementwise(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """An operation on each number."""
    out = result_of(equation)
    walk.spend(out.size, equation)
    if any(np.issubdtype(x.dtype, np.complexfloating) for x in (out, *inputs)):
        raise NoKernelError(f"complex numbers{walk.place(equation)}")
    if equation.primitive.name == "bitcast_convert_type" and out.shape != inputs[0].shape:
        raise NoKernelError(f"the bits of a number as many{walk.place(equation)}")
    spread_out = [np.broadcast_to(x.cells, out.shape) for x in inputs]
    dtypes = [x.dtype for x in inputs]

    def one(*cells: Cell) -> Cell:
        typed = [d.type(c) if is_known(c) else c for c, d in zip(cells, dtypes, strict=True)]
        return operation(equation.primitive, equation.params, typed, walk.lanes)

    values = [one(*cells) for cells in zip(*(x.flat for x in spread_out), strict=True)]
    return [LaneScalars.of(values, out.shape, out.dtype)]


def operation(
    primitive: Primitive, params: dict[str, Any], cells: Sequence[Cell], lanes: int
) -> Cell:
    """An operation on cells; nothing is multiplied by one or zero, nor added to zero."""
    name = primitive.name
    if all(is_known(c) for c in cells):
        return _of_numbers(primitive, params, cells)
    if name in ("mul", "add", "sub", "add_any"):
        a, b = cells
        if name == "mul" and (_is(a, 0) or _is(b, 0)):
            return a if _is(a, 0) else b
        unit = 1 if name == "mul" else 0
        if _is(b, unit):
            return a
        if _is(a, unit) and name != "sub":
            return b
    if any(not is_known(c) and c.ndim for c in cells):
        cells = [spread(c, c.dtype, lanes) for c in cells]
    if name in SAME:
        primitive, params = SAME[name], {}
    return primitive.bind(*cells, **params)


# NumPy does these a thousand times as fast as JAX does one operation.
_IN_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "add_any": np.add,
    "abs": np.abs,
}


def _of_numbers(primitive: Primitive, params: dict[str, Any], numbers: Sequence[Cell]) -> Cell:
    """The operation on numbers that are known."""
    if primitive.name in _IN_NUMPY:
        with np.errstate(all="ignore"):
            return _IN_NUMPY[primitive.name](*numbers)
    from_float = np.issubdtype(np.asarray(numbers[0]).dtype, np.inexact)
    if primitive.name == "convert_element_type" and not from_float:
        return np.asarray(numbers[0]).astype(params["new_dtype"])[()]
    return at_once(lambda *x: primitive.bind(*x, **params), *numbers)[()]


def _is(cell: Cell, number: int) -> bool:
    return is_known(cell) and not isinstance(cell, np.bool_) and bool(cell == number)


def select(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """`select_n`: of each number that of the case which is asked for."""
    which, *cases = inputs
    out = cases[0]
    walk.spend(out.cells.size * (len(cases) - 1), equation)
    asked = list(np.broadcast_to(which.cells, out.shape).flat)
    values = out.flat()
    for k, case in enumerate(cases[1:], 1):
        masks = asked if which.dtype == bool else [cell >= k for cell in asked]
        values = [chosen(*three) for three in zip(masks, case.flat(), values, strict=True)]
    return [LaneScalars.of(values, out.shape, out.dtype)]


def _combined(walk: Any, primitive: Primitive, cells: Sequence[Cell]) -> Cell:
    return functools.reduce(lambda a, b: operation(primitive, {}, [a, b], walk.lanes), cells)


def _fitting(number: Any, dtype: Any) -> Any:
    """The number, or of an infinite one the furthest that integers have."""
    if not np.issubdtype(dtype, np.integer) or np.isfinite(number):
        return number
    return np.iinfo(dtype).max if number > 0 else np.iinfo(dtype).min


def reduction(primitive: Primitive, empty: Any) -> Callable[..., list[LaneScalars]]:
    """A sum over axes, by `primitive`; that of nothing is `empty`."""

    def rule(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
        (x,), axes, out = inputs, tuple(equation.params["axes"]), result_of(equation)
        rest = [i for i in range(len(x.shape)) if i not in axes]
        size = int(np.prod([x.shape[i] for i in axes], dtype=int))
        walk.spend(x.cells.size, equation)
        if not x.cells.size:
            return [LaneScalars.known(np.full(out.shape, _fitting(empty, out.dtype)), out.dtype)]
        rows = x.cells.transpose(*rest, *axes).reshape(-1, size)
        return [
            LaneScalars.of(
                [_combined(walk, primitive, list(row)) for row in rows], out.shape, out.dtype
            )
        ]

    return rule


def dot(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """A product of matrices, written out."""
    (over_a, over_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    out = result_of(equation)
    a, b = (
        _matrices(x.cells.astype(object), over, batch, first)
        for x, over, batch, first in zip(
            inputs, (over_a, over_b), (batch_a, batch_b), (True, False), strict=True
        )
    )
    walk.spend(a.size * b.shape[2], equation)
    values = []
    for k, i, j in itertools.product(range(a.shape[0]), range(a.shape[1]), range(b.shape[2])):
        terms = [
            operation(lax.mul_p, {}, [_typed(p, out), _typed(q, out)], walk.lanes)
            for p, q in zip(a[k, i], b[k, :, j], strict=True)
        ]
        values.append(_combined(walk, lax.add_p, terms) if terms else out.dtype.type(0))
    return [LaneScalars.of(values, out.shape, out.dtype)]


def _typed(cell: Cell, out: Any) -> Cell:
    return out.dtype.type(cell) if is_known(cell) else cell.astype(out.dtype)


def _matrices(x: np.ndarray, over: Any, batch: Any, first: bool) -> np.ndarray:
    """As (batch, rows, inner), or (batch, inner, columns)."""
    rest = [i for i in range(x.ndim) if i not in (*over, *batch)]
    sizes = [int(np.prod([x.shape[i] for i in axes], dtype=int)) for axes in (batch, rest, over)]
    if first:
        return x.transpose(*batch, *rest, *over).reshape(sizes)
    return x.transpose(*batch, *over, *rest).reshape(sizes[0], sizes[2], sizes[1])


def extreme_place(sign: int) -> Callable[..., list[LaneScalars]]:
    """Where along an axis the largest (`sign` 1) or smallest number is, the first of equals."""

    def rule(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
        (x,), (axis,) = inputs, equation.params["axes"]
        out, better = result_of(equation), lax.gt_p if sign > 0 else lax.lt_p
        rows = np.moveaxis(x.cells, axis, -1).reshape(-1, x.shape[axis])
        walk.spend(3 * x.cells.size, equation)
        values, numbers = [], np.issubdtype(x.dtype, np.inexact)
        for row in rows:
            best, place = row[0], out.dtype.type(0)
            for k, cell in enumerate(row[1:], 1):
                found = operation(better, {}, [cell, best], walk.lanes)
                if numbers:  # what is no number counts as the furthest
                    found = found | ((cell != cell) & (best == best))
                best = chosen(found, cell, best)
                place = chosen(found, jnp.asarray(k, out.dtype), place)
            values.append(place)
        return [LaneScalars.of(values, out.shape, out.dtype)]

    return rule


def running(primitive: Primitive) -> Callable[..., list[LaneScalars]]:
    """Sums of all numbers up to each along an axis."""

    def rule(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
        (x,), axis, back = inputs, equation.params["axis"], equation.params["reverse"]
        walk.spend(x.cells.size, equation)
        cells = np.moveaxis(x.cells.astype(object), axis, 0)
        cells = cells[::-1].copy() if back else cells.copy()
        for k in range(1, cells.shape[0]):
            for place in np.ndindex(*cells.shape[1:]):
                pair = [cells[(k - 1, *place)], cells[(k, *place)]]
                cells[(k, *place)] = operation(primitive, {}, pair, walk.lanes)
        cells = np.moveaxis(cells[::-1] if back else cells, 0, axis)
        return [LaneScalars.of(list(cells.flat), x.shape, x.dtype)]

    return rule


RULES: dict[str, Callable[..., list[LaneScalars]]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    "select_n": select,
    "reduce_sum": reduction(lax.add_p, 0),
    "reduce_prod": reduction(lax.mul_p, 1),
    "reduce_max": reduction(lax.max_p, -np.inf),
    "reduce_min": reduction(lax.min_p, np.inf),
    "reduce_and": reduction(lax.and_p, True),
    "reduce_or": reduction(lax.or_p, False),
    "argmax": extreme_place(1),
    "argmin": extreme_place(-1),
    "cumsum": running(lax.add_p),
    "cumprod": running(lax.mul_p),
    "cummax": running(lax.max_p),
    "cummin": running(lax.min_p),
    "dot_general": dot,
}
