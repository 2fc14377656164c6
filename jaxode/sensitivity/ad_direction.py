"""Marks on arrays that JAX may differentiate in one direction alone, with errors of their own.

Without them JAX says of the wrong direction that it does not work for a `while_loop`, or for a
`custom_vjp` function: true, and no help to whoever called `solve`.
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
    "a solve is differentiated backwards once alone: for second derivatives use jax.hessian or "
    'jax.jacfwd(jax.grad(...)), or jax.jacfwd twice with sensitivity="forward"'
)
BACKWARD = (
    "{} is differentiated backwards (jax.grad, jax.vjp, jax.jacrev), and forwards only after "
    'that: for jax.jvp or jax.jacfwd of a solve use sensitivity="forward"'
)


def forwards_only(tree: PyTree, message: str) -> PyTree:
    """The same; differentiating it backwards **raises** a `DifferentiationError`."""
    return _through(_forwards, tree, message)


def backwards_only(tree: PyTree, message: str) -> PyTree:
    """The same; differentiating it forwards first **raises** a `DifferentiationError`.

    What is differentiated backwards may be differentiated forwards after that.
    """
    return _through(_backwards, tree, message)


def _through(mark: Primitive, tree: PyTree, message: str) -> PyTree:
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(arrays)
    if not leaves:
        return tree
    return eqx.combine(jax.tree.unflatten(treedef, mark.bind(*leaves, message=message)), rest)


def _mark(name: str) -> Primitive:
    """An operation that hands on its arrays as they are."""
    mark = Primitive(name)
    mark.multiple_results = True
    mark.def_impl(lambda *arrays, message: list(arrays))
    mark.def_abstract_eval(lambda *avals, message: list(avals))
    mlir.register_lowering(mark, lambda ctx, *values, message: list(values))

    def mapped(arrays: Any, axes: Any, *, message: str) -> tuple[Any, Any]:
        return mark.bind(*arrays, message=message), axes

    batching.primitive_batchers[mark] = mapped
    return mark


def _bound(mark: Primitive, tangents: Any, message: str) -> list[Any]:
    """The tangents behind the mark; those that are known to be zero stay so."""
    known = [x for x in tangents if type(x) is not ad.Zero]
    marked = iter(mark.bind(*known, message=message) if known else ())
    return [x if type(x) is ad.Zero else next(marked) for x in tangents]


_forwards, _backwards, _pulled = map(
    _mark, ("solved_forwards", "solved_backwards", "pulled_backwards")
)


def _pushed_forwards(arrays: Any, tangents: Any, *, message: str) -> tuple[Any, Any]:
    return _forwards.bind(*arrays, message=message), _bound(_forwards, tangents, message)


def _pushed_backwards(arrays: Any, tangents: Any, *, message: str) -> tuple[Any, Any]:
    # The arrays lose their mark: the derivative that comes first is the one that counts.
    return list(arrays), _bound(_pulled, tangents, message)


def _pushed_again(arrays: Any, tangents: Any, *, message: str) -> tuple[Any, Any]:
    return _pulled.bind(*arrays, message=message), _bound(_pulled, tangents, message)


def _refused(*_: Any, message: str) -> Any:
    raise DifferentiationError(message)


# Tangents that a backward derivative pulls back are never computed, nor mapped.
_pulled.def_impl(_refused)
mlir.register_lowering(_pulled, _refused)
batching.primitive_batchers[_pulled] = _refused
ad.primitive_jvps[_forwards] = _pushed_forwards
ad.primitive_jvps[_backwards] = _pushed_backwards
ad.primitive_jvps[_pulled] = _pushed_again
ad.primitive_transposes[_forwards] = _refused
ad.primitive_transposes[_pulled] = lambda cotangents, *_, message: list(cotangents)
