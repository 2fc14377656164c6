"""The problem at the door: state, times and field checked, the state packed into one array."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import PyTree

from .closure import close
from .errors import FieldError, StateError, TimesError, ToleranceError, ToleranceWarning
from .split import Split, by_parts

VectorField = Callable[[Array, PyTree, PyTree], PyTree]


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a pytree of arrays becomes one array and comes back.

    A single array keeps its shape; several are laid end to end in one vector of their common
    dtype. `unpack` accepts any leading axes.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @classmethod
    def of(cls, tree: PyTree) -> "Packing":
        """The packing of pytrees like `tree`."""
        leaves, treedef = jax.tree.flatten(tree)
        return cls(
            treedef, tuple(x.shape for x in leaves), tuple(np.dtype(x.dtype) for x in leaves)
        )

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the packed array."""
        return np.dtype(jnp.result_type(*self.dtypes))

    @property
    def size(self) -> int:
        """How many components the packed array has."""
        return sum(int(np.prod(shape, dtype=int)) for shape in self.shapes)

    @property
    def time_dtype(self) -> np.dtype:
        """The dtype of times: real, at least float32, as fine as the state."""
        return np.dtype(jnp.promote_types(jnp.finfo(self.dtype).dtype, jnp.float32))

    @property
    def real_dtype(self) -> np.dtype:
        """The real dtype of the state, in which the field is handed `t`."""
        return np.dtype(jnp.finfo(self.dtype).dtype)

    def pack(self, tree: PyTree, half: int | None = None) -> Array:
        """One array from a pytree of this structure; of its first axis `half` 0 or 1, or all."""
        leaves = jax.tree.leaves(tree)
        if len(leaves) == 1:
            return leaves[0] if half is None else jnp.split(leaves[0], 2)[half]
        if half is not None:
            middle = len(leaves) // 2
            leaves = leaves[half * middle : (half + 1) * middle]
        return jnp.concatenate([x.astype(self.dtype).reshape(-1) for x in leaves])

    def unpack(self, array: Array) -> PyTree:
        """The pytree from its packed array, whose leading axes go to every leaf."""
        if len(self.shapes) == 1:
            return jax.tree.unflatten(self.treedef, [array])
        sizes = [int(np.prod(shape, dtype=int)) for shape in self.shapes]
        parts = jnp.split(array, np.cumsum(sizes)[:-1], axis=-1)
        leaves = [
            _cast(part.reshape(array.shape[:-1] + shape), dtype)
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)


def _cast(x: Array, dtype: np.dtype) -> Array:
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        x = x.real
    return x.astype(dtype)


def check_state(y0: PyTree) -> PyTree:
    """`y0` with every leaf an array.

    **Raises:** `StateError` for an empty state and for leaves that are not inexact arrays.
    """
    paths = jax.tree_util.tree_leaves_with_path(y0)
    if not paths or sum(np.size(leaf) for _, leaf in paths) == 0:
        raise StateError(f"y0 has no components: expected a pytree of arrays, got {y0!r}")
    for path, leaf in paths:
        where = f"y0{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, (float, complex, int, np.ndarray, np.generic, jax.Array)):
            raise StateError(f"{where} is a {type(leaf).__name__}: expected an array of floats")
        dtype = getattr(leaf, "dtype", np.dtype(type(leaf)))
        if dtype.kind in "OUSMm":
            raise StateError(f"{where} has dtype {dtype}: expected an array of floats")
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise StateError(
                f"{where} has dtype {jnp.result_type(leaf)}: expected floating-point or complex, "
                "for a solve cannot move through integers; write 1.0 for 1"
            )
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), y0)


def check_times(ts: Any, dtype: np.dtype) -> Array:
    """`ts` as a one-dimensional array of `dtype`, at least two times, monotone where known.

    **Raises:** `TimesError`. Times traced under `jit` are judged by `Status.BAD_TIMES` instead.
    """
    if ts is None:
        raise TimesError("ts is None: expected times such as (t0, t1)")
    traced = is_traced(ts)
    try:
        # numpy, where it will do: under jit jnp would make tracers of values that are known here
        times = jnp.asarray(ts) if traced else np.asarray(ts)
    except (TypeError, ValueError) as error:
        raise TimesError(f"ts must be a sequence of numbers, got {ts!r}") from error
    if times.ndim != 1:
        raise TimesError(f"ts must be one-dimensional, (t0, t1) or longer; got shape {times.shape}")
    if times.shape[0] < 2:
        raise TimesError(f"ts must hold at least two times, got {times.shape[0]}")
    if times.dtype.kind not in "iu" and not jnp.issubdtype(times.dtype, jnp.floating):
        raise TimesError(f"ts must hold real numbers, got dtype {times.dtype}")
    if not traced:
        _check_time_values(np.asarray(times, np.float64))
    return jnp.asarray(times, dtype)


def is_traced(tree: PyTree) -> bool:
    """Whether any leaf is a tracer, whose value is not known here."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _check_time_values(times: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(times))
    if bad.size:
        raise TimesError(f"ts[{bad[0]}] is {times[bad[0]]}: every time must be finite")
    steps = np.diff(times) * np.sign(times[-1] - times[0])
    if times[-1] == times[0]:
        steps = -np.abs(np.diff(times))
    back = np.flatnonzero(steps < 0)
    if back.size:
        i = int(back[0])
        raise TimesError(
            f"ts must be monotone, but goes from {times[i]:.6g} to {times[i + 1]:.6g} at index "
            f"{i + 1} while running from {times[0]:.6g} to {times[-1]:.6g}"
        )


def check_tolerance(name: str, value: Any, packing: Packing, y0: PyTree) -> Array:
    """A tolerance as a scalar, or as an array shaped like the packed state.

    `value` is a number or, per component, a pytree that broadcasts leaf by leaf against `y0`.

    **Raises:** `ToleranceError`. **Warns:** `ToleranceWarning` if it is a relative tolerance that
    is finer than the state's precision resolves.
    """
    try:
        leaves = jax.tree.leaves(value)
        if not leaves:
            raise TypeError(f"got {value!r}")
        if jax.tree_util.all_leaves([value]) and jnp.ndim(value) == 0:
            tolerance = jnp.asarray(leaves[0], packing.real_dtype)
        else:
            spread = jax.tree.map(lambda v, y: jnp.broadcast_to(v, jnp.shape(y)), value, y0)
            real = jax.tree.map(lambda v: jnp.asarray(v, packing.real_dtype), spread)
            tolerance = Packing.of(real).pack(real)
    except (TypeError, ValueError) as error:
        shapes = jax.tree.map(jnp.shape, y0)
        raise ToleranceError(
            f"{name} must be a number or broadcast against y0 of shapes {shapes}: {error}"
        ) from error
    if not is_traced(value):
        known = [np.asarray(leaf, np.float64).reshape(-1) for leaf in leaves]
        _check_tolerance_values(name, np.concatenate(known), packing)
    return tolerance


def _check_tolerance_values(name: str, values: np.ndarray, packing: Packing) -> None:
    if not np.all(values >= 0):
        raise ToleranceError(f"{name} must be a non-negative number, got {values.tolist()}")
    finest = 10 * float(jnp.finfo(packing.real_dtype).eps)
    if name == "rtol" and 0 < np.min(values) < finest:
        warnings.warn(
            f"rtol={np.min(values):.3g} is finer than {packing.real_dtype} resolves, about "
            f"{finest:.1g}: expect many steps and no gain; use float64 or loosen rtol",
            ToleranceWarning,
            stacklevel=5,
        )


def check_tolerance_of_batch(
    name: str, value: PyTree, mapped: PyTree, packing: Packing, y0: PyTree
) -> Array:
    """The same for a tolerance whose `mapped` leaves have a first axis of trajectories.

    `y0` is the state of one of them. Where any leaf is mapped, so is the result.
    """
    leaves, flags = jax.tree.leaves(value), jax.tree.leaves(mapped)
    if not any(flags):
        return check_tolerance(name, value, packing, y0)
    if not is_traced(value):
        known = [np.asarray(leaf, np.float64).reshape(-1) for leaf in leaves]
        _check_tolerance_values(name, np.concatenate(known), packing)
    axes = jax.tree.map(lambda flag: 0 if flag else None, mapped)
    pack = jax.vmap(lambda v: check_tolerance(name, v, packing, y0), in_axes=(axes,))
    return pack(jax.tree.map(jnp.asarray, value))


def check_some_tolerance(rtol: PyTree, atol: PyTree) -> None:
    """**Raises:** `ToleranceError` if both tolerances are zero everywhere."""
    leaves = jax.tree.leaves((rtol, atol))
    if leaves and not is_traced(leaves) and not any(np.any(leaf) for leaf in leaves):
        raise ToleranceError("rtol and atol are both zero: no step is that good; set one of them")


def check_field(f: Any) -> Callable:
    """The vector field; a pair of them as a `Split`. **Raises:** `FieldError`."""
    if isinstance(f, tuple | list) and not callable(f):
        if len(f) != 2:
            raise FieldError(f"a field in parts is a pair (stiff, other), got {len(f)} parts")
        f = Split(*f)
    by_parts(check_callable, f)
    return f


def check_callable(f: Any) -> None:
    """Refuse what cannot be a vector field, before anything is traced.

    **Raises:** `FieldError`.
    """
    if not callable(f):
        raise FieldError(
            f"the vector field must be callable as f(t, y, args), got {type(f).__name__}"
        )
    if inspect.isclass(f):
        raise FieldError(f"the vector field is the class {f.__name__}: pass an instance of it")
    count = positional_arguments(f)
    if count is not None and not count[0] <= 3 <= count[1]:
        raise FieldError(
            f"the vector field is called as f(t, y, args), but {_name(f)} takes {count[0]} "
            f"argument{'s' * (count[0] != 1)}; wrap it, for example lambda t, y, args: f(y)"
        )


def positional_arguments(f: Callable) -> tuple[int, float] | None:
    """The least and the most positional arguments that `f` takes, or `None` if it does not say."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return None
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    most = float("inf") if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(places)
    return sum(p.default is p.empty for p in places), most


def call_field(field: Callable, t: Array, y: PyTree, args: PyTree) -> PyTree:
    """Call a field of `(y)`, `(t, y)` or `(t, y, args)`, whichever it takes."""
    least, most = positional_arguments(field) or (3, 3)
    if most == float("inf") or (least > 1 and most >= 3):
        return field(t, y, args)
    return field(y) if least <= 1 else field(t, y)


def close_field(f: VectorField, y0: PyTree, args: PyTree, packing: Packing) -> Any:
    """`f` with every array it closes over as a leaf, after comparing its output with `y0`.

    **Raises:** `FieldError` where structure, shape or dtype of `f(t, y, args)` differ from `y0`.
    """
    return by_parts(lambda part: _close_field(part, y0, args, packing), f)


def _close_field(f: VectorField, y0: PyTree, args: PyTree, packing: Packing) -> Any:
    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    try:
        closed, output = close(f, t, y0, args)
    except TypeError as error:
        raise FieldError(
            f"calling {_name(f)}(t, y, args) on shapes y: {_shapes(y0)} failed: {error}"
        ) from error
    _check_output(f, output, y0)
    return closed


def _check_output(f: Callable, out: PyTree, y0: PyTree) -> None:
    check_like(f"{_name(f)}(t, y, args)", out, y0, FieldError)


def check_like(what: str, out: PyTree, y0: PyTree, error: type[Exception]) -> None:
    """**Raises:** `error` unless `out` has the structure, shapes and dtypes of the state `y0`."""
    expected, got = jax.tree.structure(y0), jax.tree.structure(out)
    if expected != got:
        raise error(
            f"{what} must return a pytree like y0, structure {expected}, but returned {got}"
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
        if leaf.dtype != y.dtype and not getattr(leaf, "weak_type", False):
            raise error(
                f"{where} has dtype {leaf.dtype} where y0 has {y.dtype}: cast y0 or the output, "
                f"for example y0.astype(jnp.{leaf.dtype})"
            )


def pack_field(field: VectorField, args: PyTree, packing: Packing) -> Callable:
    """The field on packed states: `(t, array) -> array`, or to a half of it as `pack` says.

    A `Split` where `field` is one.
    """

    def pack(part: VectorField) -> Callable[..., Array]:
        def packed(t: Array, y: Array, half: int | None = None) -> Array:
            slope = part(t.astype(packing.real_dtype), packing.unpack(y), args)
            return packing.pack(slope, half).astype(packing.dtype)

        return packed

    return by_parts(pack, field)


def arrays_of_args(args: PyTree) -> PyTree:
    """`args` with Python floats as arrays, so that changing one never recompiles."""
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, (float, complex)) else x, args)


def _name(f: Any) -> str:
    return getattr(f, "__name__", type(f).__name__)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)
