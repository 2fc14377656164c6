"""Roots that are found somehow, with the derivatives of the implicit function theorem."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from .closure import ClosedFunction, closure_convert

Linear = Callable[[Array], Array]


def root_of(
    residual: Callable[[Array], Array],
    guess: Array,
    find: Callable[[], tuple[Array, Any]],
    solve_linear: Callable[[Linear, Array], Array],
) -> tuple[Array, Any]:
    """What `find()` returns: an `x`, like `guess`, with `residual(x) = 0`, and what belongs to it.

    `x` has the derivative of the exact root, of any order and in both modes, and the rest none.
    `solve_linear(linear, b)` is the `x` with `linear(x) = b`.

    As `lax.custom_root`, which gives tangents of zero to all that `residual` reads: where a partial
    derivative by a constant overflows, as of `y / unit` by a tiny unit, these make the result NaN.
    """
    found, _ = closure_convert(find, users=False)
    equation, _ = closure_convert(residual, guess, users=False)

    def solve(x: Array, b: Array) -> Array:
        return solve_linear(jax.linearize(residual, x)[1], b)

    inverse, _ = closure_convert(solve, guess, guess, users=False)
    x, rest = lax.stop_gradient(found)()
    return _differentiable(x, _of_jax(equation), _of_jax(inverse)), rest


def _of_jax(function: ClosedFunction) -> ClosedFunction:
    """The function with constants that are arrays of JAX, which alone may be differentiated."""
    return dataclasses.replace(function, consts=[jnp.asarray(c) for c in function.consts])


@eqx.filter_custom_jvp
def _differentiable(x: Array, equation: ClosedFunction, inverse: ClosedFunction) -> Array:
    return x


@_differentiable.def_jvp
def _derivative_of_root(primals: Any, tangents: Any) -> tuple[Array, Array | None]:
    (x, equation, inverse), (_, rates, _) = primals, tangents
    x, consts = _differentiable(x, equation, inverse), equation.consts
    moving = [i for i, tangent in enumerate(rates.consts) if tangent is not None]
    if not moving:
        return x, None

    def residual(*values: Array) -> Array:
        new = dict(zip(moving, values, strict=True))
        return dataclasses.replace(equation, consts=[new.get(i, c) for i, c in enumerate(consts)])(
            x
        )

    at, by = [consts[i] for i in moving], [rates.consts[i] for i in moving]
    return x, inverse(x, -jax.jvp(residual, at, by)[1])
