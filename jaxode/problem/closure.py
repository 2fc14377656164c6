"""Closure conversion: functions whose captured arrays are leaves of a pytree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jaxtyping import PyTree


class ClosedFunction(eqx.Module):
    """A traced function whose captured arrays are its leaves.

    Its arguments need the structure and shapes of the examples that it was traced at. Unlike
    `eqx.filter_closure_convert` it does not compare their types, because the type of one array
    differs inside and outside of `jax.shard_map`.
    """

    program: Jaxpr = eqx.field(static=True)
    consts: list[Any]
    outputs: tuple[Any, tuple[Any, ...]] = eqx.field(static=True)

    def __call__(self, *args: PyTree) -> PyTree:
        """Evaluate the traced function."""
        arrays = iter(jaxpr_as_fun(ClosedJaxpr(self.program, self.consts))(*_arrays(args)))
        treedef, leaves = self.outputs
        return jax.tree.unflatten(
            treedef, [next(arrays) if leaf is _ARRAY else leaf for leaf in leaves]
        )


_ARRAY = object()


def closure_convert(
    function: Callable[..., PyTree], *examples: PyTree
) -> tuple[ClosedFunction, PyTree]:
    """Trace `function` at `examples`; returns it converted, and the shapes of its output."""
    traced, shapes, rest = eqx.filter_make_jaxpr(function)(*examples)
    marked = jax.tree.map(lambda _: _ARRAY, shapes)
    leaves, treedef = jax.tree.flatten(eqx.combine(marked, rest))
    consts = [jax.numpy.asarray(c) if eqx.is_array_like(c) else c for c in traced.consts]
    return ClosedFunction(traced.jaxpr, consts, (treedef, tuple(leaves))), eqx.combine(shapes, rest)


def _arrays(args: PyTree) -> list[Any]:
    return jax.tree.leaves(eqx.filter(args, eqx.is_array))
