"""Closure conversion: functions whose captured arrays are leaves of a pytree."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import PyTree

from .jaxpr_key import jaxpr_key
from .manual_axes import varying_axes, without_axes
from .partition import ARRAYS
from .promotion import users_promotion
from .staging import under_jit


class Program:
    """A traced function without its constants; equal to another that computes the same."""

    def __init__(self, jaxpr: Jaxpr, treedef: Any, leaves: tuple[Any, ...]) -> None:
        self.num_consts, self.treedef, self.leaves = len(jaxpr.constvars), treedef, leaves
        # Since JAX 0.12 a jaxpr holds the values of its constants: here they are inputs, the first.
        self.jaxpr = jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])

    @property
    def shapes(self) -> PyTree:
        """The shapes and dtypes of the output."""
        shape = (v.aval for v in self.jaxpr.outvars)
        leaves = [next(shape) if x is _ARRAY else x for x in self.leaves]
        return jax.tree.unflatten(self.treedef, leaves)

    @property
    def input_types(self) -> tuple[Any, ...]:
        """The types of the inputs."""
        return tuple([v.aval for v in self._inputs])

    @property
    def _inputs(self) -> list[Any]:
        return self.jaxpr.invars[self.num_consts :]

    @functools.cached_property
    def reads_first_input(self) -> bool:
        """True if the output may depend on the first input: on the time, of a vector field."""
        read = {v for v in self.jaxpr.outvars if not isinstance(v, Literal)}
        for equation in reversed(self.jaxpr.eqns):
            if equation.effects or not read.isdisjoint(equation.outvars):
                read.update(v for v in equation.invars if not isinstance(v, Literal))
        return bool(self._inputs) and self._inputs[0] in read

    @functools.cached_property
    def key(self) -> Hashable:
        """What two programs that compute the same have in common."""
        kinds = tuple(map(type, self.leaves))
        return jaxpr_key(self.jaxpr), self.num_consts, self.treedef, self.leaves, kinds

    @functools.cached_property
    def key_hash(self) -> int:
        """The hash of the key."""
        return hash(self.key)

    def __hash__(self) -> int:
        return self.key_hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Program) and self.key == other.key)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["consts"], meta_fields=["program"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class ClosedFunction:
    """A traced function whose captured arrays are its leaves.

    Its arguments need the structure and shapes of the examples that it was traced at. Unlike
    `eqx.filter_closure_convert` it does not compare their types, because the type of one array
    differs inside and outside of `jax.shard_map`.
    """

    consts: list[Any]
    program: Program

    def __call__(self, *args: PyTree) -> PyTree:
        """Evaluate the traced function."""
        program = self.program
        inputs = [x for x in jax.tree.leaves(args) if isinstance(x, ARRAYS)]
        outputs = jaxpr_as_fun(ClosedJaxpr(program.jaxpr, []))(*self.consts, *inputs)
        arrays = map(_as_array, outputs, program.jaxpr.outvars)
        leaves = [next(arrays) if leaf is _ARRAY else leaf for leaf in program.leaves]
        return jax.tree.unflatten(program.treedef, leaves)


def _as_array(x: Any, variable: Any) -> Any:
    """An output as an array of JAX; one that is constant may be a number of Python."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x, variable.aval.dtype)


class _ArrayPlace:
    """The place of an array among the leaves of an output."""


_ARRAY = _ArrayPlace()


def _fixed(x: Any) -> Any:
    """An array, or its type if it varies inside of `jax.shard_map`: without the axes of that."""
    varies = isinstance(x, Tracer) and varying_axes(x)
    return without_axes(jax.typeof(x)) if varies else x


def closure_convert(
    function: Callable[..., PyTree], *examples: PyTree, users: bool = True
) -> tuple[ClosedFunction, PyTree]:
    """Trace `function` at `examples`; returns it converted, and the shapes of its output.

    `users`: it is the user's, whose rules of promotion hold in it.
    """
    if isinstance(function, ClosedFunction):
        return function, function.program.shapes
    leaves, treedef = jax.tree.flatten(examples)
    traced = [isinstance(x, (*ARRAYS, jax.ShapeDtypeStruct)) for x in leaves]
    outputs: list[Any] = []

    # JAX keeps traces by the identity of the function, so what `function` reads is read anew.
    def fresh(*arrays: Any) -> list[Any]:
        array = iter(arrays)
        inputs = [next(array) if t else x for x, t in zip(leaves, traced, strict=True)]
        values, out_treedef = jax.tree.flatten(function(*jax.tree.unflatten(treedef, inputs)))
        marked = tuple([_ARRAY if isinstance(x, ARRAYS) else x for x in values])
        outputs[:] = out_treedef, marked
        return [x for x, mark in zip(values, marked, strict=True) if mark is _ARRAY]

    arrays = [_fixed(x) for x, t in zip(leaves, traced, strict=True) if t]
    with users_promotion() if users else contextlib.nullcontext():
        closed = jax.make_jaxpr(fresh)(*arrays)
    program = Program(closed.jaxpr, *outputs)
    # Under `jit` they become tracers; outside NumPy is quicker.
    as_array = jnp.asarray if under_jit() else np.asarray
    consts = [c if isinstance(c, jax.Array) else as_array(c) for c in closed.consts]
    return ClosedFunction(consts, program), program.shapes
