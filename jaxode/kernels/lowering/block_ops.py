"""Operations on arrays that are kept whole: what a network is made of, and its derivative."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import JaxprEqn

from . import loops
from .arithmetic import ELEMENTWISE, SAME
from .block_arrays import (
    LEAST,
    LaneReduction,
    LaneVector,
    OuterSum,
    SharedMatrix,
    blocked,
    column,
    padded,
    product,
)
from .lane_scalars import LaneScalars, Value, result_of, spread
from .unsupported import NoKernelError

# Numbers of an array that is kept whole, up to which it is taken apart where it has to be.
MOST_APART = 256


def applied(walk: Any, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """The outputs of an equation, some of whose inputs are kept whole."""
    name = equation.primitive.name
    if name == "scan":
        return loops.scan(walk, equation, inputs)
    found = RULES[name](walk, equation, inputs) if name in RULES else None
    if found is not None:
        return [found]
    apart = [taken_apart(walk, equation, x) for x in inputs]
    return walk.equation(equation, apart)


def taken_apart(walk: Any, equation: JaxprEqn, x: Value) -> LaneScalars:
    """The numbers one by one. **Raises:** `NoKernelError` where they are too many."""
    if isinstance(x, LaneScalars):
        return x
    size = int(np.prod(x.shape))
    if not isinstance(x, LaneReduction) and size <= MOST_APART:
        walk.spend(size, equation)
        return x.apart()
    what = f"{equation.primitive.name!r} of {size} numbers that are kept whole"
    raise NoKernelError(f"{what} has no rule there{walk.place(equation)}")


def elementwise(walk: Any, equation: JaxprEqn, inputs: list[Any]) -> Value | None:
    """An operation on each number of vectors."""
    out, primitive, params = result_of(equation), equation.primitive, equation.params
    if (
        primitive.name in ("add", "add_any")
        and (summed := _summed(walk, equation, inputs)) is not None
    ):
        return summed
    if len(out.shape) != 1 or any(isinstance(x, OuterSum | LaneReduction) for x in inputs):
        return None
    if primitive.name in ("mul", "add", "add_any"):
        for x, other in (inputs, inputs[::-1]):
            if isinstance(x, LaneScalars) and x.is_known and not x.cells.any():
                return x if primitive.name == "mul" else other
    walk.spend(out.size, equation)
    blocks = [_beside(walk, x, out.shape[0]) for x in inputs]
    if primitive.name in SAME:
        primitive, params = SAME[primitive.name], {}
    return LaneVector(primitive.bind(*blocks, **params), out.shape, out.dtype)


def _beside(walk: Any, x: Any, size: int) -> Array:
    """A vector as a block, or one number for all of a vector's."""
    if isinstance(x, LaneScalars) and x.cells.size == 1:
        return jnp.broadcast_to(column(x.one(), x.dtype), (walk.lanes, padded(size)))
    return blocked(x, walk.lanes)


def _summed(walk: Any, equation: JaxprEqn, inputs: list[Any]) -> Value | None:
    """The sum of matrices of each lane, or of what was summed over lanes and more."""
    a, b = inputs
    if isinstance(b, LaneReduction):
        a, b = b, a
    if isinstance(a, OuterSum) and isinstance(b, OuterSum):
        return OuterSum((*a.pairs, *b.pairs), a.shape, a.dtype)
    if (
        isinstance(a, OuterSum | LaneReduction)
        and isinstance(b, LaneScalars)
        and b.is_known
        and not b.cells.any()
    ):
        return a
    if isinstance(b, OuterSum) and isinstance(a, LaneScalars) and a.is_known and not a.cells.any():
        return b
    if not isinstance(a, LaneReduction):
        return None
    if isinstance(b, LaneReduction):
        return LaneReduction(a.block + b.block, a.shape, a.dtype)
    block = a.block
    if isinstance(b, OuterSum):
        for left, right in b.pairs:
            block = block + _over_lanes(walk, left, right).astype(a.dtype)
        return LaneReduction(block, a.shape, a.dtype)
    if len(b.shape) == 1:
        return LaneReduction(block + jnp.sum(_active(walk, b), axis=0), a.shape, a.dtype)
    cells = taken_apart(walk, equation, b)
    walk.spend(3 * cells.cells.size, equation)
    return a.with_cells(cells, lambda cell: _active_cell(walk, cell, a.dtype))


def _active(walk: Any, x: Any) -> Array:
    """The block of a vector, with zeros in the lanes that are over and where it is filled up."""
    block = x.masked() if isinstance(x, LaneVector) else blocked(x, walk.lanes)
    return block if walk.mask is None else jnp.where(walk.mask[:, None], block, 0)


def _active_cell(walk: Any, cell: Any, dtype: Any) -> Array:
    """A cell, with zeros in the lanes that are over."""
    vector = spread(cell, dtype, walk.lanes)
    return vector if walk.mask is None else jnp.where(walk.mask, vector, 0)


def _over_lanes(walk: Any, left: Any, right: Any) -> Array:
    """The outer products of vectors, summed over the lanes."""
    return product(_active(walk, left), _active(walk, right), over=(0, 0))


def dot(walk: Any, equation: JaxprEqn, inputs: list[Any]) -> Value | None:
    """A product of a shared matrix and a vector, of two vectors, or the outer one."""
    ((over_a, over_b), batch), (a, b) = equation.params["dimension_numbers"], inputs
    out, ndims = result_of(equation), (len(a.shape), len(b.shape))
    if any(batch) or ndims not in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1)):
        return None
    if ndims in ((0, 1), (1, 0)):
        walk.spend(out.size, equation)
        blocks = [_beside(walk, x, out.shape[0]) for x in inputs]
        return LaneVector(blocks[0] * blocks[1], out.shape, out.dtype)
    if ndims == (1, 1) and not over_a:
        return OuterSum(((a, b),), out.shape, out.dtype)
    if ndims == (1, 1):
        walk.spend(a.shape[0], equation)
        product = _filled(walk, a) * _filled(walk, b)
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
    walk.spend(int(np.prod(matrix.shape)) // LEAST, equation)
    return _product(walk, matrix, axis, vector, out)


def _filled(walk: Any, x: Any) -> Array:
    """The block of a vector, filled up with zeros."""
    return x.masked() if isinstance(x, LaneVector) else blocked(x, walk.lanes)


def _product(walk: Any, matrix: SharedMatrix, axis: int, vector: Any, out: Any) -> Value:
    """The matrix times the vector, over the matrix' `axis`."""
    inner, outer = matrix.shape[axis], matrix.shape[1 - axis]
    if outer < LEAST:
        block = _filled(walk, vector)
        sums = [jnp.sum(block * matrix.row(j, 1 - axis)[None], axis=1) for j in range(outer)]
        return LaneScalars.of(sums, out.shape, out.dtype)
    if inner < LEAST and isinstance(vector, LaneScalars):
        cells = enumerate(vector.flat())
        terms = [column(cell, vector.dtype) * matrix.row(k, axis)[None] for k, cell in cells]
        block = sum(terms[1:], terms[0])
        block = jnp.broadcast_to(block, (walk.lanes, block.shape[1]))
        return LaneVector(block, out.shape, out.dtype)
    block = _filled(walk, vector)
    return LaneVector(product(block, matrix.matrix(axis)), out.shape, out.dtype)


def transpose(walk: Any, equation: JaxprEqn, inputs: list[Any]) -> Value | None:
    """That of an outer product."""
    (x,) = inputs
    if not isinstance(x, OuterSum):
        return None
    pairs = tuple((right, left) for left, right in x.pairs)
    return OuterSum(pairs, x.shape[::-1], x.dtype)


def reduce_sum(walk: Any, equation: JaxprEqn, inputs: list[Any]) -> Value | None:
    """The sum of a vector."""
    (x,) = inputs
    if len(x.shape) != 1 or isinstance(x, OuterSum | LaneReduction):
        return None
    return LaneScalars.of([jnp.sum(_filled(walk, x), axis=1)], (), x.dtype)


RULES: dict[str, Callable[..., Value | None]] = {
    **dict.fromkeys([*ELEMENTWISE, "select_n"], elementwise),
    "dot_general": dot,
    "transpose": transpose,
    "reduce_sum": reduce_sum,
}
