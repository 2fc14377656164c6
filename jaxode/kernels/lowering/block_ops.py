"""Rules for operations on block arrays: those of a network and of its derivative."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import JaxprEqn

from . import loops
from .arithmetic import ELEMENTWISE, EQUIVALENT_PRIMITIVES
from .block_arrays import (
    MIN_BLOCK,
    LaneReduction,
    LaneVector,
    OuterSum,
    SharedMatrix,
    as_block,
    column,
    matmul,
    padded_size,
)
from .lane_scalars import LaneScalars, LaneValue, broadcast_to_lanes, output_aval
from .unsupported import NoKernelError

# Largest size of a block array that is scalarised where an operation has no rule for blocks.
MAX_SCALARISED = 256


def apply_block_rule(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneValue]
) -> list[LaneValue]:
    """Return the outputs of an equation, some of whose inputs are block arrays."""
    name = equation.primitive.name
    if name == "scan":
        return loops.scan(interpreter, equation, inputs)
    output = RULES[name](interpreter, equation, inputs) if name in RULES else None
    if output is not None:
        return [output]
    scalars = [scalarised(interpreter, equation, x) for x in inputs]
    return interpreter.evaluate_equation(equation, scalars)


def scalarised(interpreter: Any, equation: JaxprEqn, x: LaneValue) -> LaneScalars:
    """Return the array as scalars. **Raises:** `NoKernelError` where these are too many."""
    if isinstance(x, LaneScalars):
        return x
    size = int(np.prod(x.shape))
    if not isinstance(x, LaneReduction) and size <= MAX_SCALARISED:
        interpreter.count_operations(size, equation)
        return x.scalarise()
    what = f"{equation.primitive.name!r} of {size} numbers in a block array"
    raise NoKernelError(f"{what} has no rule there{interpreter.location(equation)}")


def elementwise(interpreter: Any, equation: JaxprEqn, inputs: list[Any]) -> LaneValue | None:
    """Apply an elementwise operation to vectors, or add matrices."""
    out, primitive, params = output_aval(equation), equation.primitive, equation.params
    if (
        primitive.name in ("add", "add_any")
        and (summed := _add_matrices(interpreter, equation, inputs)) is not None
    ):
        return summed
    if len(out.shape) != 1 or any(isinstance(x, OuterSum | LaneReduction) for x in inputs):
        return None
    if primitive.name in ("mul", "add", "add_any"):
        for x, other in (inputs, inputs[::-1]):
            if isinstance(x, LaneScalars) and x.is_constant and not x.elements.any():
                return x if primitive.name == "mul" else other
    interpreter.count_operations(out.size, equation)
    blocks = [_broadcast_to_block(interpreter, x, out.shape[0]) for x in inputs]
    if primitive.name in EQUIVALENT_PRIMITIVES:
        primitive, params = EQUIVALENT_PRIMITIVES[primitive.name], {}
    return LaneVector(primitive.bind(*blocks, **params), out.shape, out.dtype)


def _broadcast_to_block(interpreter: Any, x: Any, size: int) -> Array:
    """Return a vector as a block, or a scalar broadcast to the block of a vector."""
    if isinstance(x, LaneScalars) and x.elements.size == 1:
        return jnp.broadcast_to(column(x.item(), x.dtype), (interpreter.lanes, padded_size(size)))
    return as_block(x, interpreter.lanes)


def _add_matrices(interpreter: Any, equation: JaxprEqn, inputs: list[Any]) -> LaneValue | None:
    """Add matrices of each lane, or add to a sum over lanes; None where neither applies."""
    a, b = inputs
    if isinstance(b, LaneReduction):
        a, b = b, a
    if isinstance(a, OuterSum) and isinstance(b, OuterSum):
        return OuterSum((*a.pairs, *b.pairs), a.shape, a.dtype)
    if (
        isinstance(a, OuterSum | LaneReduction)
        and isinstance(b, LaneScalars)
        and b.is_constant
        and not b.elements.any()
    ):
        return a
    if (
        isinstance(b, OuterSum)
        and isinstance(a, LaneScalars)
        and a.is_constant
        and not a.elements.any()
    ):
        return b
    if not isinstance(a, LaneReduction):
        return None
    if isinstance(b, LaneReduction):
        return LaneReduction(a.block + b.block, a.shape, a.dtype)
    block = a.block
    if isinstance(b, OuterSum):
        for left, right in b.pairs:
            block = block + _sum_outer_products(interpreter, left, right).astype(a.dtype)
        return LaneReduction(block, a.shape, a.dtype)
    if len(b.shape) == 1:
        return LaneReduction(
            block + jnp.sum(_mask_inactive(interpreter, b), axis=0), a.shape, a.dtype
        )
    elements = scalarised(interpreter, equation, b)
    interpreter.count_operations(3 * elements.elements.size, equation)
    return a.with_elements(
        elements, lambda element: _mask_inactive_element(interpreter, element, a.dtype)
    )


def _mask_inactive(interpreter: Any, x: Any) -> Array:
    """Return the block of a vector, zero in inactive lanes and in the padding."""
    block = x.masked() if isinstance(x, LaneVector) else as_block(x, interpreter.lanes)
    return block if interpreter.mask is None else jnp.where(interpreter.mask[:, None], block, 0)


def _mask_inactive_element(interpreter: Any, element: Any, dtype: Any) -> Array:
    """Return an element, zero in inactive lanes."""
    vector = broadcast_to_lanes(element, dtype, interpreter.lanes)
    return vector if interpreter.mask is None else jnp.where(interpreter.mask, vector, 0)


def _sum_outer_products(interpreter: Any, left: Any, right: Any) -> Array:
    """Return the outer product of two vectors, summed over the active lanes."""
    return matmul(
        _mask_inactive(interpreter, left), _mask_inactive(interpreter, right), over=(0, 0)
    )


def dot(interpreter: Any, equation: JaxprEqn, inputs: list[Any]) -> LaneValue | None:
    """Multiply a shared matrix and a vector, or two vectors (inner or outer product)."""
    ((over_a, over_b), batch), (a, b) = equation.params["dimension_numbers"], inputs
    out, ndims = output_aval(equation), (len(a.shape), len(b.shape))
    if any(batch) or ndims not in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1)):
        return None
    if ndims in ((0, 1), (1, 0)):
        interpreter.count_operations(out.size, equation)
        blocks = [_broadcast_to_block(interpreter, x, out.shape[0]) for x in inputs]
        return LaneVector(blocks[0] * blocks[1], out.shape, out.dtype)
    if ndims == (1, 1) and not over_a:
        return OuterSum(((a, b),), out.shape, out.dtype)
    if ndims == (1, 1):
        interpreter.count_operations(a.shape[0], equation)
        product = _zero_padded(interpreter, a) * _zero_padded(interpreter, b)
        return LaneScalars.of([jnp.sum(product, axis=1)], (), out.dtype)
    if ndims == (2, 1):
        matrix, vector, (axis,) = a, b, over_a
    else:
        matrix, vector, (axis,) = b, a, over_b
    if (
        not isinstance(matrix, SharedMatrix)
        or len(vector.shape) != 1
        or isinstance(vector, SharedMatrix)
    ):
        return None
    interpreter.count_operations(int(np.prod(matrix.shape)) // MIN_BLOCK, equation)
    return _matrix_vector(interpreter, matrix, axis, vector, out)


def _zero_padded(interpreter: Any, x: Any) -> Array:
    """Return the block of a vector, padded with zeros."""
    return x.masked() if isinstance(x, LaneVector) else as_block(x, interpreter.lanes)


def _matrix_vector(
    interpreter: Any, matrix: SharedMatrix, axis: int, vector: Any, out: Any
) -> LaneValue:
    """Return the product of a shared matrix and a vector over the matrix' `axis`."""
    inner, outer = matrix.shape[axis], matrix.shape[1 - axis]
    if outer < MIN_BLOCK:
        block = _zero_padded(interpreter, vector)
        sums = [jnp.sum(block * matrix.row(j, 1 - axis)[None], axis=1) for j in range(outer)]
        return LaneScalars.of(sums, out.shape, out.dtype)
    if inner < MIN_BLOCK and isinstance(vector, LaneScalars):
        elements = enumerate(vector.flat())
        terms = [
            column(element, vector.dtype) * matrix.row(k, axis)[None] for k, element in elements
        ]
        block = sum(terms[1:], terms[0])
        block = jnp.broadcast_to(block, (interpreter.lanes, block.shape[1]))
        return LaneVector(block, out.shape, out.dtype)
    block = _zero_padded(interpreter, vector)
    return LaneVector(matmul(block, matrix.matrix(axis)), out.shape, out.dtype)


def transpose(interpreter: Any, equation: JaxprEqn, inputs: list[Any]) -> LaneValue | None:
    """Transpose a sum of outer products."""
    (x,) = inputs
    if not isinstance(x, OuterSum):
        return None
    pairs = tuple((right, left) for left, right in x.pairs)
    return OuterSum(pairs, x.shape[::-1], x.dtype)


def reduce_sum(interpreter: Any, equation: JaxprEqn, inputs: list[Any]) -> LaneValue | None:
    """Sum a vector over its elements."""
    (x,) = inputs
    if len(x.shape) != 1 or isinstance(x, OuterSum | LaneReduction):
        return None
    return LaneScalars.of([jnp.sum(_zero_padded(interpreter, x), axis=1)], (), x.dtype)


RULES: dict[str, Callable[..., LaneValue | None]] = {
    **dict.fromkeys([*ELEMENTWISE, "select_n"], elementwise),
    "dot_general": dot,
    "transpose": transpose,
    "reduce_sum": reduce_sum,
}
