"""Common subexpression elimination (CSE) for the steps of backward passes on a CPU."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, DebugInfo, DropVar, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

State = TypeVar("State")


# Primitives that cost more to compute again than their results cost to store.
_EXPENSIVE = {
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma"),
    *("erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "lgamma", "log", "log1p", "logistic"),
    *("pow", "sin", "sinh", "tan", "tanh"),
}


def cse(function: Callable[[State], State]) -> Callable[[State], State]:
    """Rewrite the step of a backward pass so that XLA on a CPU computes no value twice.

    XLA fuses a sine into each term of a derivative that reads it and computes it there again, which
    doubles the time to compile and to run. So an optimization barrier follows each expensive
    primitive, and equations with the same primitive, parameters and inputs are merged.
    """

    def rewritten(state: State) -> State:
        if jax.default_backend() != "cpu":
            return function(state)
        program, shapes = jax.make_jaxpr(function, return_shape=True)(state)
        outputs = _evaluate_jaxpr(program, jax.tree.leaves(state), {})
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return rewritten


def _evaluate_jaxpr(
    closed: ClosedJaxpr, inputs: Sequence[Any], computed: dict[Any, Any]
) -> list[Any]:
    """Evaluate a jaxpr; `computed` maps the key of an equation to its outputs and inputs."""
    jaxpr = closed.jaxpr
    environment = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    environment.update(zip(jaxpr.invars, inputs, strict=True))

    def read(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else environment[x]

    for equation in jaxpr.eqns:
        values, name = [read(x) for x in equation.invars], equation.primitive.name
        if name in ("jit", "pjit"):
            outputs = _evaluate_jaxpr(equation.params["jaxpr"], values, computed)
        else:
            key = _equation_key(equation, values)
            outputs, _ = computed.get(key, (None, None))
            if outputs is None:
                outputs = _evaluate_equation(equation, values)
                outputs = lax.optimization_barrier(outputs) if name in _EXPENSIVE else outputs
                if key is not None:
                    computed[key] = outputs, values  # a reference keeps the ids of values unique
        environment.update(zip(equation.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _equation_key(equation: JaxprEqn, values: list[Any]) -> Any:
    """Return a key that is equal for equations with equal outputs; None for one not to merge."""
    literal = [isinstance(x, Literal) for x in equation.invars]
    inputs = [
        (str(x.aval), repr(value)) if flag else id(value)
        for x, value, flag in zip(equation.invars, values, literal, strict=True)
    ]
    key = equation.primitive, tuple(inputs), tuple(sorted(equation.params.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return None if equation.effects else key


def _evaluate_equation(equation: JaxprEqn, values: list[Any]) -> list[Any]:
    """Evaluate one equation of a jaxpr."""
    if "call" not in equation.primitive.name:
        outputs = equation.primitive.bind(*values, **equation.params)
        return list(outputs) if equation.primitive.multiple_results else [outputs]
    # The parameters of a call are no arguments of its `bind`: evaluate a jaxpr of it alone.
    inputs = {
        x: v for x, v in zip(equation.invars, values, strict=True) if not isinstance(x, Literal)
    }
    outvars = [x for x in equation.outvars if not isinstance(x, DropVar)]
    names = ("",) * len(inputs), ("",) * len(outvars)
    debug_info = DebugInfo("call", equation.primitive.name, *names)
    jaxpr = Jaxpr([], list(inputs), outvars, [equation], equation.effects, debug_info)
    outputs = iter(jaxpr_as_fun(ClosedJaxpr(jaxpr, []))(*inputs.values()))
    return [None if isinstance(x, DropVar) else next(outputs) for x in equation.outvars]
