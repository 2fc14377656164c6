"""Rules for branches and loops, and for operations that are composed of others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import JaxprEqn

from .lane_loops import lane_fori_loop, lane_while_loop
from .lane_scalars import Element, LaneScalars, aval_of, is_constant, select_array
from .unsupported import NoKernelError

# Most iterations of a scan that are unrolled.
MAX_UNROLLED = 64


def cond(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Evaluate all branches, and select each lane's."""
    index, *operands = inputs
    branches = equation.params["branches"]
    (element,) = index.flat()
    if is_constant(element):
        return interpreter.evaluate_closed(
            branches[min(max(int(element), 0), len(branches) - 1)], operands
        )
    outputs = interpreter.evaluate_closed(branches[0], operands)
    for k, branch in enumerate(branches[1:], 1):
        here = element >= k if index.dtype != bool else element
        pairs = zip(interpreter.evaluate_closed(branch, operands), outputs, strict=True)
        outputs = [select_array(here, a, b) for a, b in pairs]
    return outputs


def while_loop(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """Loop until all lanes have finished; finished lanes keep their state."""
    params = equation.params
    split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_cond, of_body, state = inputs[: split[0]], inputs[split[0] : split[1]], inputs[split[1] :]

    def unfinished(state: list[LaneScalars]) -> Any:
        return interpreter.evaluate_closed(params["cond_jaxpr"], [*of_cond, *state])[0].flat()[0]

    def advance(_: Any, state: list[LaneScalars]) -> list[LaneScalars]:
        return interpreter.evaluate_closed(params["body_jaxpr"], [*of_body, *state])

    return lane_while_loop(unfinished, advance, state, interpreter.lanes)


def scan(interpreter: Any, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """Evaluate a scan: unrolled, or as a loop where there are block arrays."""
    params = equation.params
    length, inner = params["length"], params["jaxpr"]
    # Carried arrays have the same rank inside and outside, stacked ones one axis more outside.
    carried = _count_same_rank(inner.out_avals, equation.outvars)
    fixed = _count_same_rank(inner.in_avals, equation.invars) - carried
    consts, carry = inputs[:fixed], inputs[fixed : fixed + carried]
    rows, outputs = inputs[fixed + carried :], [None] * length
    interpreter.count_operations(
        sum(int(np.prod(x.shape)) for x in rows if not isinstance(x, LaneScalars)), equation
    )
    rows = [x.scalarise() for x in rows]
    # A network is too large to unroll; it has to be where outputs are stacked.
    if length > 1 and carried == len(equation.outvars) and not _all_scalarised(inputs):

        def advance(iteration: Any, carry: list[Any]) -> list[Any]:
            k = length - 1 - iteration if params["reverse"] else iteration
            return interpreter.evaluate_closed(
                inner, [*consts, *carry, *(_select_row(x, k) for x in rows)]
            )

        return lane_fori_loop(length, advance, carry, interpreter.lanes)
    if length > MAX_UNROLLED:
        raise NoKernelError(
            f"a loop of {length} iterations, over {MAX_UNROLLED}{interpreter.location(equation)}"
        )
    order = range(length - 1, -1, -1) if params["reverse"] else range(length)
    for k in order:
        here = [x.row(k) for x in rows]
        values = interpreter.evaluate_closed(inner, [*consts, *carry, *here])
        carry, outputs[k] = values[:carried], values[carried:]
    stacked = []
    for i, variable in enumerate(equation.outvars[carried:]):
        aval = aval_of(variable)
        elements = [c for row in outputs for c in row[i].flat()]  # pyright: ignore[reportOptionalIterable]
        stacked.append(LaneScalars.of(elements, aval.shape, aval.dtype))
    return [*carry, *stacked]


def _all_scalarised(inputs: list[Any]) -> bool:
    """Tell whether all arrays are scalarised."""
    return all(isinstance(x, LaneScalars) for x in inputs)


def _select_row(x: LaneScalars, index: Array) -> LaneScalars:
    """Return the row at an index that all lanes share."""
    first, *others = (x.row(k) for k in range(x.shape[0]))
    elements = first.flat()
    for k, row in enumerate(others, 1):
        elements = [_select_from(index, k, a, b) for a, b in zip(row.flat(), elements, strict=True)]
    return LaneScalars.of(elements, first.shape, x.dtype)


def _select_from(index: Array, k: int, new: Element, old: Element) -> Element:
    same = is_constant(new) and is_constant(old) and new == old
    return new if same else jnp.where(index >= k, new, old)


def _count_same_rank(inside: list[Any], outside: list[Any]) -> int:
    """Count the leading variables that have the same rank inside a loop as outside."""
    pairs = zip(inside, outside, strict=True)
    return sum(a.ndim == aval_of(x).ndim for a, x in pairs)


def linear_solve(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """Evaluate `custom_linear_solve` by its `solve`."""
    counts, programs = equation.params["const_lengths"], equation.params["jaxprs"]
    ends = np.cumsum([0, *counts])
    first, last = ends[2], ends[3]  # after the constants of `matvec` and `vecmat`
    return interpreter.evaluate_closed(programs.solve, [*inputs[first:last], *inputs[ends[-1] :]])


def expand_primitive(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """Evaluate a high-level primitive by its expansion."""
    primitive = equation.params["_prim"]

    def expansion(arrays: list[Any]) -> list[Any]:
        return jax.tree.leaves(primitive.expand(*jax.tree.unflatten(primitive.in_tree, arrays)))

    return interpreter.evaluate_closed(
        jax.make_jaxpr(expansion)([x.struct() for x in inputs]), inputs
    )


def round_(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Round to the nearest integer by operations that kernels have."""
    to_even = equation.params["rounding_method"] == lax.RoundingMethod.TO_NEAREST_EVEN

    def nearest(x: Array) -> Array:
        if not to_even:
            size = jnp.abs(x)
            return jnp.sign(x) * (jnp.floor(size) + (size - jnp.floor(size) >= 0.5))
        below = jnp.floor(x)
        odd = below - 2 * jnp.floor(below / 2)
        up = jnp.where(x - below == 0.5, odd, jnp.where(x - below > 0.5, 1, 0))
        return below + up

    return interpreter.evaluate_closed(jax.make_jaxpr(nearest)(inputs[0].struct()), inputs)


def horner(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Evaluate a polynomial by Horner's rule."""

    def evaluate(x: Array, *coefficients: Array) -> Array:
        *rest, total = coefficients
        for coefficient in reversed(rest):
            total = total * x + coefficient
        return jnp.broadcast_to(total, aval_of(equation.outvars[0]).shape)

    return interpreter.evaluate_closed(
        jax.make_jaxpr(evaluate)(*(x.struct() for x in inputs)), inputs
    )


RULES: dict[str, Callable[..., list[LaneScalars]]] = {
    "cond": cond,
    "while": while_loop,
    "scan": scan,
    "custom_linear_solve": linear_solve,
    "call_hi_primitive": expand_primitive,
    "round": round_,
    "polynomial": horner,
}
