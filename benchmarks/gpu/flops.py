"""Floating-point operations of a step: those of the vector field counted, the rest estimated."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

# Primitives that count as one operation per element of the result, transcendental ones too.
ARITHMETIC = frozenset(
    [
        *("add", "sub", "mul", "div", "neg", "max", "min", "abs", "sqrt", "rsqrt", "square"),
        *("integer_pow", "pow", "exp", "exp2", "log", "sin", "cos", "tan", "tanh", "logistic"),
        "add_any",
    ]
)
EXPLANATION = (
    "GFLOP/s count useful operations: those of the vector field, counted in its jaxpr (a tanh is "
    "one), times its evaluations in a step (7 stages of Tsit5, the last one shared), and two for "
    "each component and entry of the tableau; Rodas5P has a Jacobian, its LU and 8 solves "
    "besides; a gradient counts as four solves."
)
# A gradient counts as the solve, its recomputation, and two operations for each operation's VJP.
SOLVES_PER_GRADIENT = 4


def step_flops(field: Callable[..., Any], args: Any, y0: Any, solver: str) -> float:
    """Operations of a step of one trajectory; `args` and `y0` are arrays or their shapes."""
    evaluation = field_flops(field, jax.ShapeDtypeStruct((), y0.dtype), y0, args)
    of_solver = {"tsit5": tsit5_flops, "rodas5p": rodas5p_flops}[solver]
    return of_solver(evaluation, int(np.prod(y0.shape)))


def field_flops(field: Callable[..., Any], *arguments: Any) -> float:
    """Operations of one evaluation of the vector field."""
    return float(sum(map(_operations, _equations(jax.make_jaxpr(field)(*arguments).jaxpr))))


def tsit5_flops(field: float, size: int) -> float:
    """Operations of a step of Tsit5.

    Six evaluations, 21 tableau coefficients, 7 of the error estimate, and the error norm.
    """
    return 6 * field + size * (2 * (21 + 7) + 6)


def rodas5p_flops(field: float, size: int) -> float:
    """Operations of a step of Rodas5P.

    Eight stages, the Jacobian by tangents, its LU factors and solves, and 28 pairs of coefficients.
    """
    jacobian, lu, solves = 2 * size * field, 2 / 3 * size**3, 8 * 2 * size**2
    return 8 * field + jacobian + lu + solves + size * (4 * 28 + 6)


def _operations(equation: Any) -> int:
    """Operations of one equation of a jaxpr."""
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
    """The equations of a jaxpr, with inner jaxprs in place of the equations that call them."""
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        for program in inner:
            yield from _equations(getattr(program, "jaxpr", program))
        if not inner:
            yield equation
