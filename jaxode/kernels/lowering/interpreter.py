"""A program of one trajectory, walked through with elements in the place of numbers."""

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

# What changes nothing inside a kernel.
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
# Programs called as they are, and where they keep theirs.
_CALLS = {
    **dict.fromkeys(("jit", "pjit", "checkpoint", "remat2", "core_call"), "jaxpr"),
    **dict.fromkeys(("closed_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "jaxpr",
}
# Operations of one step that are written out: with more, a kernel takes minutes to compile.
MAX_OPERATIONS = 30_000
_RULES = {**arithmetic.RULES, **shape_ops.RULES, **indexing.RULES}


def lower_to_lanes(
    function: Callable[..., PyTree], lanes: int, mask: Array | None = None
) -> Callable[..., PyTree]:
    """`function` of one trajectory, on arrays taken apart.

    It is given pytrees whose leaves are `LaneScalars` (or arrays kept whole), or are handed through; and
    returns one, all of whose arrays are such. `mask`: the lanes that have a part in sums over them.
    """

    def called(*args: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(args, is_leaf=is_lane_value)
        given = [x for x in leaves if is_lane_value(x)]

        def plain(arrays: list[Any]) -> PyTree:
            left = iter(arrays)
            whole = [next(left) if is_lane_value(x) else x for x in leaves]
            return function(*jax.tree.unflatten(treedef, whole))

        program, shapes = jax.make_jaxpr(plain, return_shape=True)([x.struct() for x in given])
        outputs = Interpreter(lanes, mask).evaluate_closed(program, given)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return called


class Interpreter:
    """Goes through programs, `lanes` beside each other."""

    def __init__(self, lanes: int, mask: Array | None = None) -> None:
        self.lanes, self.mask = lanes, mask
        self.calls: list[JaxprEqn] = []  # the calls that it is inside of
        self.operations = 0

    def location(self, equation: JaxprEqn) -> str:
        """Where in the user's code an equation is from, or the call that it is inside of."""
        return next(filter(None, map(source_location, [equation, *self.calls[::-1]])), "")

    def count_operations(self, operations: int, equation: JaxprEqn) -> None:
        """Count what is written out. **Raises:** `NoKernelError` where it is too much."""
        self.operations += operations
        if self.operations > MAX_OPERATIONS:
            raise NoKernelError(
                f"a step of over {MAX_OPERATIONS} operations{self.location(equation)}"
            )

    def evaluate_closed(self, program: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """The outputs of a program, given its inputs."""
        for c in program.consts:
            refuse_extended(getattr(c, "dtype", None))
        consts = [LaneScalars.constant(np.asarray(c)) for c in program.consts]
        return self.evaluate(program.jaxpr, consts, inputs)

    def evaluate(
        self, program: Jaxpr, consts: Sequence[LaneScalars], inputs: Sequence[Any]
    ) -> list[Any]:
        """The same, of a program whose constants are given apart."""
        found: dict[Any, Any] = dict(zip(program.constvars, consts, strict=True))
        found.update(zip(program.invars, inputs, strict=True))

        def read(x: Any) -> Any:
            return (
                LaneScalars.constant(x.val, aval_of(x).dtype)
                if isinstance(x, Literal)
                else found[x]
            )

        for equation in program.eqns:
            outputs = self.evaluate_equation(equation, [read(x) for x in equation.invars])
            found.update(zip(equation.outvars, outputs, strict=True))
        return [read(x) for x in program.outvars]

    def evaluate_equation(self, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
        """The outputs of one equation. **Raises:** `NoKernelError` if it has no rule."""
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
        """The outputs of a program that an equation calls."""
        self.calls.append(equation)
        closed = isinstance(inner, ClosedJaxpr)
        found = self.evaluate_closed(inner, inputs) if closed else self.evaluate(inner, [], inputs)
        self.calls.pop()
        return found


def evaluate_constants(equation: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of an equation all of whose inputs are numbers."""
    found = evaluate_now(
        lambda *x: equation.primitive.bind(*x, **equation.params), *(x.elements for x in inputs)
    )
    return [
        LaneScalars.constant(x) for x in (found if equation.primitive.multiple_results else [found])
    ]
