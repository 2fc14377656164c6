"""How XLA is kept from taking a solve apart, and from computing the same thing twice."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, DebugInfo, DropVar, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

State = TypeVar("State")


# What costs more to compute again than to keep.
_COSTLY = {
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma"),
    *("erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "lgamma", "log", "log1p", "logistic"),
    *("pow", "sin", "sinh", "tan", "tanh"),
}


def cse(function: Callable[[State], State]) -> Callable[[State], State]:
    """`function`, with nothing in it computed twice; for the step of a backward pass.

    XLA on a CPU computes a sine again in each term of a derivative that it enters, which doubles
    the time to compile and to run: so what is costly stands behind a barrier. And what is computed
    from the same values by the same operation, is computed once.
    """

    def rewritten(state: State) -> State:
        if jax.default_backend() != "cpu":
            return function(state)
        program, shapes = jax.make_jaxpr(function, return_shape=True)(state)
        outputs = _run(program, jax.tree.leaves(state), {})
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return rewritten


def _run(closed: ClosedJaxpr, inputs: Sequence[Any], seen: dict[Any, Any]) -> list[Any]:
    """The outputs of a program; `seen` holds what has been computed already."""
    program = closed.jaxpr
    known = dict(zip(program.constvars, closed.consts, strict=True))
    known.update(zip(program.invars, inputs, strict=True))

    def read(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else known[x]

    for equation in program.eqns:
        values, name = [read(x) for x in equation.invars], equation.primitive.name
        if name in ("jit", "pjit"):
            found = _run(equation.params["jaxpr"], values, seen)
        else:
            key = _key(equation, values)
            found, _ = seen.get(key, (None, None))
            if found is None:
                found = _evaluate(equation, values)
                found = lax.optimization_barrier(found) if name in _COSTLY else found
                if key is not None:
                    seen[key] = found, values  # the values live on, so their ids stay theirs
        known.update(zip(equation.outvars, found, strict=True))
    return [read(x) for x in program.outvars]


def _key(equation: JaxprEqn, values: list[Any]) -> Any:
    """What tells an operation on these values from others; None where nothing does."""
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


def _evaluate(equation: JaxprEqn, values: list[Any]) -> list[Any]:
    """The values of one equation."""
    if "call" not in equation.primitive.name:
        found = equation.primitive.bind(*values, **equation.params)
        return list(found) if equation.primitive.multiple_results else [found]
    # A call binds by rules of its own, which a program of it alone follows.
    given = {
        x: v for x, v in zip(equation.invars, values, strict=True) if not isinstance(x, Literal)
    }
    kept = [x for x in equation.outvars if not isinstance(x, DropVar)]
    names = ("",) * len(given), ("",) * len(kept)
    told = DebugInfo("call", equation.primitive.name, *names)
    alone = Jaxpr([], list(given), kept, [equation], equation.effects, told)
    outputs = iter(jaxpr_as_fun(ClosedJaxpr(alone, []))(*given.values()))
    return [None if isinstance(x, DropVar) else next(outputs) for x in equation.outvars]
