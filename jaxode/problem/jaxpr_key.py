"""Keys of traced programs: equal where two programs compute the same from the same arrays.

A key has the primitives, their parameters (nested programs too), literals by their bits, and the
types of inputs and constants. It has no values of constants, which are arguments of a program.
"""

import enum
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.core import AbstractValue
from jax.extend.core import ClosedJaxpr, Effect, Jaxpr, Literal, Primitive
from jax.sharding import AbstractMesh, Mesh, PartitionSpec, Sharding

from .object_key import ByIdentity, object_key

# Programs nested in others whose object JAX keeps from trace to trace: those of inner `jit`s.
_KEPT: dict[int, tuple[Any, Hashable]] = {}
_MOST_KEPT = 1024
_BY_VALUE = (
    AbstractValue, AbstractMesh, Mesh, PartitionSpec, Sharding, Primitive, Effect, enum.Enum,
    np.dtype, type, jax.tree_util.PyTreeDef,
)  # fmt: skip


def jaxpr_key(jaxpr: Jaxpr) -> Hashable:
    """The key of a program."""
    inputs = (*jaxpr.constvars, *jaxpr.invars)
    numbers: dict[Any, int] = {v: i for i, v in enumerate(inputs)}

    def operand(v: Any) -> Hashable:
        return _literal_key(v) if type(v) is Literal else numbers[v]

    equations = []
    for equation in jaxpr.eqns:
        operands = tuple([operand(v) for v in equation.invars])
        key_of = _jit_param_key if equation.primitive.name == "jit" else param_key
        params = tuple([key_of(p) for p in equation.params.values()])
        equations.append((equation.primitive, operands, params))
        for v in equation.outvars:
            numbers[v] = len(numbers)
    types = tuple([v.aval for v in inputs])
    outputs = tuple([operand(v) for v in jaxpr.outvars])
    return len(jaxpr.constvars), types, tuple(equations), outputs


def _literal_key(literal: Literal) -> Hashable:
    value = np.asarray(literal.val)
    return literal.aval, value.tobytes()


def param_key(value: Any) -> Hashable:
    """The key of one parameter of a primitive."""
    return _KEYS.get(type(value), _other_key)(value)


def _other_key(value: Any) -> Hashable:
    if isinstance(value, tuple | list):
        return type(value), *map(param_key, value)
    if isinstance(value, _BY_VALUE):
        return value
    return object_key(value, param_key)


def _jit_param_key(value: Any) -> Hashable:
    if isinstance(value, ClosedJaxpr):
        return _kept_key(value.jaxpr), *map(ByIdentity, value.consts)
    return _kept_key(value) if isinstance(value, Jaxpr) else param_key(value)


def _kept_key(jaxpr: Jaxpr) -> Hashable:
    """The key of a nested program, looked up if the object was seen before."""
    known = _KEPT.get(id(jaxpr))
    if known is not None:
        return known[1]
    if len(_KEPT) >= _MOST_KEPT:
        _KEPT.clear()
    key = jaxpr_key(jaxpr)
    _KEPT[id(jaxpr)] = jaxpr, key
    return key


def _closed_key(closed: ClosedJaxpr) -> Hashable:
    return jaxpr_key(closed.jaxpr), *map(ByIdentity, closed.consts)


def _same(value: Any) -> Any:
    return value


_KEYS: dict[type, Callable[[Any], Hashable]] = {
    type(None): _same,
    bool: lambda value: (bool, value),
    int: _same,
    str: _same,
    float: lambda value: (float, value.hex()),
    tuple: lambda value: tuple([param_key(v) for v in value]),
    Jaxpr: jaxpr_key,
    ClosedJaxpr: _closed_key,
}
