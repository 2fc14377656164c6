"""Rules for elementwise operations, reductions and matrix products on scalarised arrays."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Primitive

from .lane_scalars import (
    Element,
    LaneScalars,
    broadcast_to_lanes,
    evaluate_now,
    is_constant,
    output_aval,
    select_element,
)
from .unsupported import NoKernelError

# Primitives for which kernels have an instruction or a library function.
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
# Primitives that a kernel replaces by equivalent ones, which have a lowering there.
EQUIVALENT_PRIMITIVES = {
    "add_any": lax.add_p,
    "lt_to": lax.lt_p,
    "le_to": lax.le_p,
    "eq_to": lax.eq_p,
}


def elementwise(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """Apply an operation element by element."""
    out = output_aval(equation)
    interpreter.count_operations(out.size, equation)
    if any(np.issubdtype(x.dtype, np.complexfloating) for x in (out, *inputs)):
        raise NoKernelError(f"complex numbers{interpreter.location(equation)}")
    if equation.primitive.name == "bitcast_convert_type" and out.shape != inputs[0].shape:
        raise NoKernelError(f"a bit cast that changes the shape{interpreter.location(equation)}")
    broadcast = [np.broadcast_to(x.elements, out.shape) for x in inputs]
    dtypes = [x.dtype for x in inputs]

    def apply(*elements: Element) -> Element:
        typed = [d.type(c) if is_constant(c) else c for c, d in zip(elements, dtypes, strict=True)]
        return apply_primitive(equation.primitive, equation.params, typed, interpreter.lanes)

    values = [apply(*elements) for elements in zip(*(x.flat for x in broadcast), strict=True)]
    return [LaneScalars.of(values, out.shape, out.dtype)]


def apply_primitive(
    primitive: Primitive, params: dict[str, Any], elements: Sequence[Element], lanes: int
) -> Element:
    """Apply a primitive to elements; products with 0 or 1 and sums with 0 are simplified."""
    name = primitive.name
    if all(is_constant(c) for c in elements):
        return _evaluate_constants(primitive, params, elements)
    if name in ("mul", "add", "sub", "add_any"):
        a, b = elements
        if name == "mul" and (_equals_constant(a, 0) or _equals_constant(b, 0)):
            return a if _equals_constant(a, 0) else b
        unit = 1 if name == "mul" else 0
        if _equals_constant(b, unit):
            return a
        if _equals_constant(a, unit) and name != "sub":
            return b
    if any(not is_constant(c) and c.ndim for c in elements):
        elements = [broadcast_to_lanes(c, c.dtype, lanes) for c in elements]
    if name in EQUIVALENT_PRIMITIVES:
        primitive, params = EQUIVALENT_PRIMITIVES[name], {}
    return primitive.bind(*elements, **params)


# NumPy evaluates these at once, where JAX would dispatch an operation.
_NUMPY_FUNCTIONS: dict[str, Callable[..., Any]] = {
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


def _evaluate_constants(
    primitive: Primitive, params: dict[str, Any], numbers: Sequence[Element]
) -> Element:
    """Evaluate a primitive on constants."""
    if primitive.name in _NUMPY_FUNCTIONS:
        with np.errstate(all="ignore"):
            return _NUMPY_FUNCTIONS[primitive.name](*numbers)
    from_float = np.issubdtype(np.asarray(numbers[0]).dtype, np.inexact)
    if primitive.name == "convert_element_type" and not from_float:
        return np.asarray(numbers[0]).astype(params["new_dtype"])[()]
    return evaluate_now(lambda *x: primitive.bind(*x, **params), *numbers)[()]


def _equals_constant(element: Element, number: int) -> bool:
    return is_constant(element) and not isinstance(element, np.bool_) and bool(element == number)


def select(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Apply `select_n`: for each element, that of the selected case."""
    which, *cases = inputs
    out = cases[0]
    interpreter.count_operations(out.elements.size * (len(cases) - 1), equation)
    selectors = list(np.broadcast_to(which.elements, out.shape).flat)
    values = out.flat()
    for k, case in enumerate(cases[1:], 1):
        masks = selectors if which.dtype == bool else [element >= k for element in selectors]
        values = [
            select_element(*mask_new_old)
            for mask_new_old in zip(masks, case.flat(), values, strict=True)
        ]
    return [LaneScalars.of(values, out.shape, out.dtype)]


def _fold(interpreter: Any, primitive: Primitive, elements: Sequence[Element]) -> Element:
    return functools.reduce(
        lambda a, b: apply_primitive(primitive, {}, [a, b], interpreter.lanes), elements
    )


def _clip_to_dtype(number: Any, dtype: Any) -> Any:
    """Return the number; an infinite one becomes the extreme of an integer dtype."""
    if not np.issubdtype(dtype, np.integer) or np.isfinite(number):
        return number
    return np.iinfo(dtype).max if number > 0 else np.iinfo(dtype).min


def reduction(primitive: Primitive, empty: Any) -> Callable[..., list[LaneScalars]]:
    """Return the rule of a reduction over axes by `primitive`; an empty one gives `empty`."""

    def rule(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
        (x,), axes, out = inputs, tuple(equation.params["axes"]), output_aval(equation)
        rest = [i for i in range(len(x.shape)) if i not in axes]
        size = int(np.prod([x.shape[i] for i in axes], dtype=int))
        interpreter.count_operations(x.elements.size, equation)
        if not x.elements.size:
            return [
                LaneScalars.constant(
                    np.full(out.shape, _clip_to_dtype(empty, out.dtype)), out.dtype
                )
            ]
        rows = x.elements.transpose(*rest, *axes).reshape(-1, size)
        return [
            LaneScalars.of(
                [_fold(interpreter, primitive, list(row)) for row in rows], out.shape, out.dtype
            )
        ]

    return rule


def dot(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Apply `dot_general`, unrolled to products and sums of elements."""
    (over_a, over_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    out = output_aval(equation)
    a, b = (
        _matrices(x.elements.astype(object), over, batch, first)
        for x, over, batch, first in zip(
            inputs, (over_a, over_b), (batch_a, batch_b), (True, False), strict=True
        )
    )
    interpreter.count_operations(a.size * b.shape[2], equation)
    values = []
    for k, i, j in itertools.product(range(a.shape[0]), range(a.shape[1]), range(b.shape[2])):
        terms = [
            apply_primitive(lax.mul_p, {}, [_cast(p, out), _cast(q, out)], interpreter.lanes)
            for p, q in zip(a[k, i], b[k, :, j], strict=True)
        ]
        values.append(_fold(interpreter, lax.add_p, terms) if terms else out.dtype.type(0))
    return [LaneScalars.of(values, out.shape, out.dtype)]


def _cast(element: Element, out: Any) -> Element:
    return out.dtype.type(element) if is_constant(element) else element.astype(out.dtype)


def _matrices(x: np.ndarray, over: Any, batch: Any, first: bool) -> np.ndarray:
    """Arrange as `(batch, rows, inner)`, or as `(batch, inner, columns)` unless `first`."""
    rest = [i for i in range(x.ndim) if i not in (*over, *batch)]
    sizes = [int(np.prod([x.shape[i] for i in axes], dtype=int)) for axes in (batch, rest, over)]
    if first:
        return x.transpose(*batch, *rest, *over).reshape(sizes)
    return x.transpose(*batch, *over, *rest).reshape(sizes[0], sizes[2], sizes[1])


def arg_extreme(sign: int) -> Callable[..., list[LaneScalars]]:
    """Return the rule of `argmax` (`sign` 1) or `argmin`: the first index of equal extremes."""

    def rule(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
        (x,), (axis,) = inputs, equation.params["axes"]
        out, better = output_aval(equation), lax.gt_p if sign > 0 else lax.lt_p
        rows = np.moveaxis(x.elements, axis, -1).reshape(-1, x.shape[axis])
        interpreter.count_operations(3 * x.elements.size, equation)
        values, inexact = [], np.issubdtype(x.dtype, np.inexact)
        for row in rows:
            best, index = row[0], out.dtype.type(0)
            for k, element in enumerate(row[1:], 1):
                better_here = apply_primitive(better, {}, [element, best], interpreter.lanes)
                if inexact:  # NaN counts as the extreme
                    better_here = better_here | ((element != element) & (best == best))
                best = select_element(better_here, element, best)
                index = select_element(better_here, jnp.asarray(k, out.dtype), index)
            values.append(index)
        return [LaneScalars.of(values, out.shape, out.dtype)]

    return rule


def cumulative(primitive: Primitive) -> Callable[..., list[LaneScalars]]:
    """Return the rule of a cumulative reduction along an axis."""

    def rule(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
        (x,), axis, back = inputs, equation.params["axis"], equation.params["reverse"]
        interpreter.count_operations(x.elements.size, equation)
        elements = np.moveaxis(x.elements.astype(object), axis, 0)
        elements = elements[::-1].copy() if back else elements.copy()
        for k in range(1, elements.shape[0]):
            for place in np.ndindex(*elements.shape[1:]):
                pair = [elements[(k - 1, *place)], elements[(k, *place)]]
                elements[(k, *place)] = apply_primitive(primitive, {}, pair, interpreter.lanes)
        elements = np.moveaxis(elements[::-1] if back else elements, 0, axis)
        return [LaneScalars.of(list(elements.flat), x.shape, x.dtype)]

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
    "argmax": arg_extreme(1),
    "argmin": arg_extreme(-1),
    "cumsum": cumulative(lax.add_p),
    "cumprod": cumulative(lax.mul_p),
    "cummax": cumulative(lax.max_p),
    "cummin": cumulative(lax.min_p),
    "dot_general": dot,
}
