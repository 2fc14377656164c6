"""The interpreter that evaluates a program of one trajectory on all lanes of a block."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import PyTree

from . import arithmetic, block_ops, indexing, loops, shape_ops
from .lane_scalars import LaneScalars, aval_of, evaluate_now, is_lane_value
from .unsupported import NoKernelError, refuse_extended, source_location

# Primitives that are the identity inside a kernel.
_IDENTITIES = {
    "optimization_barrier",
    "copy",
    "copy_p",
    "sharding_constraint",
    "pvary",
    "name",
    "stop_gradient",
    "reshard",
}
# Primitives that call a jaxpr, and the names of the parameters that hold it.
_CALLS = {
    **dict.fromkeys(("jit", "pjit", "checkpoint", "remat2", "core_call"), "jaxpr"),
    **dict.fromkeys(("closed_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "jaxpr",
}
# Most unrolled operations of one step: with more, a kernel takes minutes to compile.
MAX_OPERATIONS = 30_000
_RULES = {**arithmetic.RULES, **shape_ops.RULES, **indexing.RULES}


def lower_to_lanes(
    function: Callable[..., PyTree], lanes: int, mask: Array | None = None
) -> Callable[..., PyTree]:
    """Lower `function` of one trajectory to the lanes of a block.

    The arguments are pytrees whose leaves are lane values (`LaneScalars` or block arrays); other
    leaves are passed through. All arrays of the result are lane values. `mask`: the lanes that
    enter sums over lanes.
    """

    def call_in_lanes(*args: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(args, is_leaf=is_lane_value)
        values = [x for x in leaves if is_lane_value(x)]

        def with_arrays(arrays: list[Any]) -> PyTree:
            arrays_left = iter(arrays)
            merged = [next(arrays_left) if is_lane_value(x) else x for x in leaves]
            return function(*jax.tree.unflatten(treedef, merged))

        program, shapes = jax.make_jaxpr(with_arrays, return_shape=True)(
            [x.struct() for x in values]
        )
        outputs = Interpreter(lanes, mask).evaluate_closed(program, values)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return call_in_lanes


class Interpreter:
    """An interpreter of jaxprs on `lanes` lanes; `mask` are those that enter sums over lanes."""

    def __init__(self, lanes: int, mask: Array | None = None) -> None:
        self.lanes, self.mask = lanes, mask
        self.calls: list[JaxprEqn] = []  # the enclosing calls
        self.operations = 0

    def location(self, equation: JaxprEqn) -> str:
        """Return the user's source line of an equation, or else of an enclosing call."""
        return next(filter(None, map(source_location, [equation, *self.calls[::-1]])), "")

    def count_operations(self, operations: int, equation: JaxprEqn) -> None:
        """Count unrolled operations. **Raises:** `NoKernelError` where they are too many."""
        self.operations += operations
        if self.operations > MAX_OPERATIONS:
            raise NoKernelError(
                f"a step of over {MAX_OPERATIONS} operations{self.location(equation)}"
            )

    def evaluate_closed(self, program: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """Return the outputs of a closed jaxpr."""
        for c in program.consts:
            refuse_extended(getattr(c, "dtype", None))
        consts = [LaneScalars.constant(np.asarray(c)) for c in program.consts]
        return self.evaluate(program.jaxpr, consts, inputs)

    def evaluate(
        self, program: Jaxpr, consts: Sequence[LaneScalars], inputs: Sequence[Any]
    ) -> list[Any]:
        """Return the outputs of a jaxpr."""
        values: dict[Any, Any] = dict(zip(program.constvars, consts, strict=True))
        values.update(zip(program.invars, inputs, strict=True))

        def read(x: Any) -> Any:
            return (
                LaneScalars.constant(x.val, aval_of(x).dtype)
                if isinstance(x, Literal)
                else values[x]
            )

        for equation in program.eqns:
            outputs = self.evaluate_equation(equation, [read(x) for x in equation.invars])
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(x) for x in program.outvars]

    def evaluate_equation(self, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
        """Return the outputs of one equation. **Raises:** `NoKernelError` if it has no rule."""
        name = equation.primitive.name
        if name in _IDENTITIES:
            return inputs
        if name in _CALLS:
            return self.evaluate_call(equation, equation.params[_CALLS[name]], inputs)
        if equation.effects:
            raise NoKernelError(f"{name!r} does more than compute{self.location(equation)}")
        for x in equation.outvars:
            refuse_extended(aval_of(x).dtype, self.location(equation))
        if not all(isinstance(x, LaneScalars) for x in inputs):
            return block_ops.apply_block_rule(self, equation, inputs)
        if name in loops.RULES:
            return loops.RULES[name](self, equation, inputs)
        if name not in _RULES and all(x.is_constant for x in inputs):
            return evaluate_constants(equation, inputs)
        if name not in _RULES:
            raise NoKernelError(f"{name!r} has no rule there{self.location(equation)}")
        return _RULES[name](self, equation, inputs)

    def evaluate_call(self, equation: JaxprEqn, inner: Any, inputs: Sequence[Any]) -> list[Any]:
        """Return the outputs of a jaxpr that an equation calls."""
        self.calls.append(equation)
        closed = isinstance(inner, ClosedJaxpr)
        values = self.evaluate_closed(inner, inputs) if closed else self.evaluate(inner, [], inputs)
        self.calls.pop()
        return values


def evaluate_constants(equation: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    """Return the outputs of an equation whose inputs are constants."""
    values = evaluate_now(
        lambda *x: equation.primitive.bind(*x, **equation.params), *(x.elements for x in inputs)
    )
    return [
        LaneScalars.constant(x)
        for x in (values if equation.primitive.multiple_results else [values])
    ]
