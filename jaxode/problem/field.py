"""The vector field of an initial value problem: validated, closure-converted, packed."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from .calling import positional_arguments, takes_three, taking_args
from .closure import ClosedFunction, closure_convert
from .errors import CALL_ERRORS, FieldError, own_error
from .state import Packing

VectorField = Callable[..., PyTree]  # of (t, y, args) or (t, y)
Field = Callable[..., Array]  # of packed states: field(t, y), or field(t, y, half)
_ONE_ARRAY = jax.tree.structure(0)


def check_field(f: Any) -> Callable:
    """Validate the vector field; a pair of fields becomes a `Split`. **Raises:** `FieldError`."""
    if isinstance(f, tuple | list) and not callable(f):
        if len(f) != 2:
            raise FieldError(f"a field in parts is a pair (stiff, other), got {len(f)} parts")
        f = Split(*f)
    return map_parts(check_callable, f)


def check_callable(f: Any) -> Callable:
    """Check, before any tracing, that `f` can be called as a vector field `(t, y, args)`.

    Returns it as one of three arguments, as `taking_args` does.

    **Raises:** `FieldError`.
    """
    if takes_three(f):
        return f
    if not callable(f):
        raise FieldError(
            f"the vector field must be callable as f(t, y, args), got {type(f).__name__}"
        )
    if inspect.isclass(f):
        raise FieldError(f"the vector field is the class {f.__name__}: pass an instance of it")
    count = positional_arguments(f)
    if count is None or count[0] <= 3 <= count[1] or count[0] <= 2 == count[1]:
        return taking_args(f)
    wrapped = "f(y)" if count[0] < 2 else "f(t, y, *args)"
    raise FieldError(
        f"the vector field is called as f(t, y, args), but {_name(f)} takes {count[0]} "
        f"argument{'s' * (count[0] != 1)}; wrap it, for example lambda t, y, args: {wrapped}"
    )


def call_field(field: Callable, t: Array, y: PyTree, args: PyTree) -> PyTree:
    """Call a field of `(y)`, `(t, y)` or `(t, y, args)`, according to its signature.

    A default of the third argument stays where there are no `args`.
    """
    least, most = positional_arguments(field) or (3, 3)
    if most == float("inf") or (least > 1 and most >= 3):
        keeps_default = args is None and (least, most) == (2, 3)
        return field(t, y) if keeps_default else field(t, y, args)
    return field(y) if least <= 1 else field(t, y)


def trace_field(f: VectorField, y0: PyTree, args: PyTree, packing: Packing) -> Any:
    """Closure-convert `f`, after checking its output against `y0`; part by part for a `Split`.

    **Raises:** `FieldError` where structure, shape or dtype of `f(t, y, args)` differ from `y0`.
    """
    return map_parts(lambda part: _trace_field(part, y0, args, packing), f)


def _trace_field(f: VectorField, y0: PyTree, args: PyTree, packing: Packing) -> Any:
    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    try:
        closed, output = closure_convert(returning_state(f), t, y0, args)
    except CALL_ERRORS as error:
        raise own_error(error) or FieldError(
            f"calling {_name(f)}(t, y, args) on shapes y: {_shapes(y0)} failed: {error}"
        ) from error
    _check_output(f, output, y0)
    return closed


def _check_output(f: Callable, out: PyTree, y0: PyTree) -> None:
    check_like(f"{_name(f)}(t, y, args)", out, y0, FieldError)


def returning_state(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`function(t, y, ...)`, whose output has arrays and containers as `y` has, if it fits."""
    if isinstance(function, ClosedFunction):
        return function
    return lambda t, y, *rest: _like_state(function(t, y, *rest), y)


def _like_state(out: PyTree, y: PyTree) -> PyTree:
    """`out` with a list for a tuple or a tuple for a list, and arrays for numbers of Python."""
    if type(out) in (list, tuple) and type(y) in (list, tuple) and len(out) == len(y):
        return type(y)(map(_like_state, out, y))
    if type(out) is dict and type(y) is dict and out.keys() == y.keys():
        return {name: _like_state(out[name], y[name]) for name in out}
    return jnp.asarray(out) if type(out) in (int, float, complex) else out


def check_like(what: str, out: PyTree, y0: PyTree, error: type[Exception]) -> None:
    """Check that `out` has the structure, shapes and dtypes of `y0`. **Raises:** `error`."""
    expected, got = jax.tree.structure(y0), jax.tree.structure(out)
    if expected != got:
        raise error(
            f"{what} must return a pytree like y0, structure {expected}, but returned {got}"
            + " (jnp.stack makes a list one array)" * (expected == _ONE_ARRAY)
        )
    outputs = jax.tree_util.tree_leaves_with_path(out)
    for (path, leaf), y in zip(outputs, jax.tree.leaves(y0), strict=True):
        where = f"{what}{jax.tree_util.keystr(path)}"
        if not hasattr(leaf, "dtype"):
            raise error(f"{where} is a {type(leaf).__name__}: expected an array like y0")
        if leaf.shape != y.shape:
            raise error(
                f"{where} has shape {leaf.shape} where y0 has {y.shape}: it must have the shape "
                "of y (nothing is broadcast)"
            )
        if leaf.dtype != y.dtype and not _adapts(leaf, y):
            raise error(
                f"{where} has dtype {leaf.dtype} where y0 has {y.dtype}: cast y0 or the output, "
                f"for example y0.astype(jnp.{leaf.dtype})"
            )


def _adapts(leaf: Any, y: Any) -> bool:
    """True if a number, whose type is weak, becomes one of the dtype of `y`."""
    real = not jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    weak = getattr(leaf, "weak_type", False)
    return weak and (real or jnp.issubdtype(y.dtype, jnp.complexfloating))


def pack_field(field: VectorField, args: PyTree, packing: Packing) -> Callable:
    """Make the field a function of packed states: `packed(t, array)` returns an array.

    `packed(t, array, half)` returns one half of that, as `Packing.pack` does. A `Split` stays one.
    """

    def pack(part: VectorField) -> Callable[..., Array]:
        def packed(t: Array, y: Array, half: int | None = None) -> Array:
            slope = part(t.astype(packing.real_dtype), packing.unpack(y), args)
            return packing.pack(slope, half).astype(packing.dtype)

        return packed

    return map_parts(pack, field)


def _name(f: Any) -> str:
    while not hasattr(f, "__name__") and callable(getattr(f, "func", None)):
        f = f.func  # of what wraps the user's function
    return getattr(f, "__name__", type(f).__name__)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)


class Split(eqx.Module):
    """A vector field as the sum of a stiff part and another one (for IMEX methods)."""

    stiff: Callable[..., PyTree]
    other: Callable[..., PyTree]

    def __call__(self, *inputs: Any) -> PyTree:
        """Evaluate the sum of the two parts."""
        return jax.tree.map(jnp.add, self.stiff(*inputs), self.other(*inputs))


def map_parts(function: Callable[[Any], Any], field: Any) -> Any:
    """Apply `function` to the field, or to each part of a `Split`."""
    if isinstance(field, Split):
        return Split(function(field.stiff), function(field.other))
    return function(field)


class WithJacobian(NamedTuple):
    """A field with the user's Jacobian: `(t, y)` to `(n, n)`, or to `(n, n, lanes)`."""

    field: Callable[..., Array]
    jacobian: Field

    def __call__(self, *inputs: Any) -> Array:
        """Evaluate the field."""
        return self.field(*inputs)
