"""Functions with what they close over laid open."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jaxtyping import PyTree


class ClosedFunction(eqx.Module):
    """A traced function: every array that it closes over is a leaf.

    It is called with arguments like the examples of its trace. Unlike `eqx.filter_closure_convert`
    it does not compare their types, for those of one array differ in and out of `jax.shard_map`.
    """

    program: Jaxpr = eqx.field(static=True)
    consts: list[Any]
    outputs: tuple[Any, tuple[Any, ...]] = eqx.field(static=True)

    def __call__(self, *args: PyTree) -> PyTree:
        """Call it."""
        arrays = iter(jaxpr_as_fun(ClosedJaxpr(self.program, self.consts))(*_arrays(args)))
        treedef, leaves = self.outputs
        return jax.tree.unflatten(
            treedef, [next(arrays) if leaf is _ARRAY else leaf for leaf in leaves]
        )


_ARRAY = object()


def close(function: Callable[..., PyTree], *examples: PyTree) -> tuple[ClosedFunction, PyTree]:
    """`function`, traced at `examples`, and the shapes of what it returns."""
    traced, shapes, rest = eqx.filter_make_jaxpr(function)(*examples)
    marked = jax.tree.map(lambda _: _ARRAY, shapes)
    leaves, treedef = jax.tree.flatten(eqx.combine(marked, rest))
    consts = [jax.numpy.asarray(c) if eqx.is_array_like(c) else c for c in traced.consts]
    return ClosedFunction(traced.jaxpr, consts, (treedef, tuple(leaves))), eqx.combine(shapes, rest)


def _arrays(args: PyTree) -> list[Any]:
    return jax.tree.leaves(eqx.filter(args, eqx.is_array))
