"""Primitives that mark arrays as differentiable in one mode only, with errors of their own.

Without them, JAX reports of the wrong mode that a `while_loop` or a `custom_vjp` function does not
support it, which does not tell a user of `solve` what to do.
"""

from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import PyTree

from ..problem.errors import DifferentiationError

FORWARD = (
    'sensitivity="forward" is differentiated forwards alone (jax.jvp, jax.jacfwd): for jax.grad, '
    'jax.vjp or jax.jacrev use sensitivity="discrete"'
)
TWICE = (
    "this solve is differentiated backwards once alone, as it has effects such as printing, is "
    "inside shard_map, or has events: for second derivatives use jax.hessian or "
    'jax.jacfwd(jax.grad(...)), or jax.jacfwd twice with sensitivity="forward"'
)
BACKWARD = (
    "can't apply forward-mode differentiation (jax.jvp, jax.jacfwd) to {}, which is differentiated "
    "backwards (jax.grad, jax.vjp, jax.jacrev), and forwards only after that: for that of a solve "
    'use sensitivity="forward"'
)


def forward_mode_only(tree: PyTree, message: str) -> PyTree:
    """Mark arrays whose reverse-mode derivative **raises** a `DifferentiationError`."""
    return _mark(_forward_only, tree, message)


def reverse_mode_first(tree: PyTree, message: str) -> PyTree:
    """Mark arrays whose forward-mode derivative **raises** a `DifferentiationError`.

    Forward mode over reverse mode, as in `jax.hessian`, is possible.
    """
    return _mark(_reverse_first, tree, message)


def _mark(primitive: Primitive, tree: PyTree, message: str) -> PyTree:
    """Apply an identity primitive to all floating-point and complex arrays at once."""
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(arrays)
    if not leaves:
        return tree
    marked = primitive.bind(*leaves, message=message)
    return eqx.combine(jax.tree.unflatten(treedef, marked), rest)


def _identity_primitive(name: str) -> Primitive:
    """A primitive that returns its arrays unchanged; its derivatives are defined below."""
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(lambda *arrays, message: list(arrays))
    primitive.def_abstract_eval(lambda *avals, message: list(avals))
    mlir.register_lowering(primitive, lambda ctx, *values, message: list(values))

    def batch_rule(arrays: Any, axes: Any, *, message: str) -> tuple[Any, Any]:
        return primitive.bind(*arrays, message=message), axes

    batching.primitive_batchers[primitive] = batch_rule
    return primitive


# The tangents of arrays marked `_reverse_first` are marked `_reverse_tangent`: they may be
# transposed, but not evaluated.
_forward_only, _reverse_first, _reverse_tangent = map(
    _identity_primitive, ("solved_forwards", "solved_backwards", "pulled_backwards")
)


def _mark_tangents(primitive: Primitive, tangents: Any, message: str) -> list[Any]:
    """Apply an identity primitive to tangents; symbolic zeros stay as they are."""
    nonzero = [x for x in tangents if type(x) is not ad.Zero]
    marked = iter(primitive.bind(*nonzero, message=message) if nonzero else ())
    return [x if type(x) is ad.Zero else next(marked) for x in tangents]


def _jvp_forward_only(arrays: Any, tangents: Any, *, message: str) -> tuple[Any, Any]:
    return (
        _forward_only.bind(*arrays, message=message),
        _mark_tangents(_forward_only, tangents, message),
    )


def _jvp_reverse_first(arrays: Any, tangents: Any, *, message: str) -> tuple[Any, Any]:
    # The arrays lose their mark: the innermost derivative decides the mode.
    return list(arrays), _mark_tangents(_reverse_tangent, tangents, message)


def _jvp_reverse_tangent(arrays: Any, tangents: Any, *, message: str) -> tuple[Any, Any]:
    return (
        _reverse_tangent.bind(*arrays, message=message),
        _mark_tangents(_reverse_tangent, tangents, message),
    )


def _raise_wrong_mode(*_: Any, message: str) -> Any:
    raise DifferentiationError(message)


# Reverse mode only transposes tangents; forward mode evaluates or batches them.
_reverse_tangent.def_impl(_raise_wrong_mode)
mlir.register_lowering(_reverse_tangent, _raise_wrong_mode)
batching.primitive_batchers[_reverse_tangent] = _raise_wrong_mode
ad.primitive_jvps[_forward_only] = _jvp_forward_only
ad.primitive_jvps[_reverse_first] = _jvp_reverse_first
ad.primitive_jvps[_reverse_tangent] = _jvp_reverse_tangent
ad.primitive_transposes[_forward_only] = _raise_wrong_mode
ad.primitive_transposes[_reverse_tangent] = lambda cotangents, *_, message: list(cotangents)
