"""Floating-point operations of a step: counted in a field's program, estimated around it."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

# Those that compute, one operation per number of the result; a sine or an exponential counts once.
ARITHMETIC = frozenset(
    [
        *("add", "sub", "mul", "div", "neg", "max", "min", "abs", "sqrt", "rsqrt", "square"),
        *("integer_pow", "pow", "exp", "exp2", "log", "sin", "cos", "tan", "tanh", "logistic"),
        "add_any",
    ]
)
SAID = (
    "GFLOP/s are useful ones: the operations of the field, counted in its jaxpr (a tanh counts as "
    "one), times its evaluations in a step (7 stages of Tsit5, the last one shared), and two for "
    "each component and entry of the tableau; Rodas5P has a Jacobian, its LU and 8 solves "
    "besides; a gradient counts as four solves."
)
# Of a gradient: the solve, its replay, and two for the derivative of each operation.
GRADIENT = 4


def of_step(field: Callable[..., Any], args: Any, y0: Any, solver: str) -> float:
    """Operations of a step of one trajectory; `args` and `y0` are arrays or their shapes."""
    once = of_field(field, jax.ShapeDtypeStruct((), y0.dtype), y0, args)
    return {"tsit5": of_tsit5, "rodas5p": of_rodas5p}[solver](once, int(np.prod(y0.shape)))


def of_field(field: Callable[..., Any], *arguments: Any) -> float:
    """Operations of one evaluation."""
    return float(sum(map(_operations, _equations(jax.make_jaxpr(field)(*arguments).jaxpr))))


def of_tsit5(field: float, size: int) -> float:
    """A step with six new slopes: 21 entries of the tableau, 7 of the error, and its norm."""
    return 6 * field + size * (2 * (21 + 7) + 6)


def of_rodas5p(field: float, size: int) -> float:
    """A step of eight stages: Jacobian by tangents, LU, solves, and 28 pairs of entries."""
    jacobian, lu, solves = 2 * size * field, 2 / 3 * size**3, 8 * 2 * size**2
    return 8 * field + jacobian + lu + solves + size * (4 * 28 + 6)


def _operations(equation: Any) -> int:
    out = int(np.prod(equation.outvars[0].aval.shape))
    name = str(equation.primitive)
    if name == "dot_general":
        ((contracted, _), _) = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * out * int(np.prod([shape[axis] for axis in contracted]))
    if name == "reduce_sum":
        return int(np.prod(equation.invars[0].aval.shape))
    return out if name in ARITHMETIC else 0


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Those of inner programs in the place of what calls them."""
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        for program in inner:
            yield from _equations(getattr(program, "jaxpr", program))
        if not inner:
            yield equation
