"""The state of an initial value problem: validated, and packed into one array."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import PyTree

from .errors import StateError

_FLOAT32 = np.dtype(np.float32)
# Dtypes of NumPy that JAX does not have.
_WITHOUT_JAX = (np.dtype(np.longdouble), np.dtype(np.clongdouble))


@dataclasses.dataclass(frozen=True)
class Packing:
    """The bijection between a pytree of arrays and one packed array.

    A single array keeps its shape; several are concatenated in one vector of their common dtype.
    `unpack` accepts any leading axes. `times`: the dtype in which a solve keeps its times.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]
    times: np.dtype = _FLOAT32

    @classmethod
    def of(cls, tree: PyTree) -> "Packing":
        """Make the packing of pytrees with the structure, shapes and dtypes of `tree`."""
        leaves, treedef = jax.tree.flatten(tree)
        return _packing(
            treedef,
            tuple([x.shape for x in leaves]),
            tuple([np.dtype(x.dtype) for x in leaves]),
            _FLOAT32,
        )

    def with_times(self, dtype: np.dtype) -> "Packing":
        """The packing of the states of a solve whose times have this dtype."""
        return _packing(self.treedef, self.shapes, self.dtypes, dtype)

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """The dtype of the packed array."""
        return np.dtype(jnp.result_type(*self.dtypes))

    @functools.cached_property
    def size(self) -> int:
        """The number of components of the packed array."""
        return sum(int(np.prod(shape, dtype=int)) for shape in self.shapes)

    @functools.cached_property
    def number_dtype(self) -> np.dtype:
        """The real dtype of the state's precision, and of at least float32's."""
        return np.dtype(jnp.promote_types(self.real_dtype, jnp.float32))

    @functools.cached_property
    def time_dtype(self) -> np.dtype:
        """The dtype of times: `number_dtype`, or that in which they were given if it is finer."""
        return np.dtype(jnp.promote_types(self.number_dtype, self.times))

    @functools.cached_property
    def real_dtype(self) -> np.dtype:
        """The real dtype of the state's precision, in which the field receives `t`."""
        return np.dtype(jnp.finfo(self.dtype).dtype)

    @functools.cached_property
    def finest_tolerance(self) -> float:
        """The smallest relative tolerance that the state's precision resolves."""
        return 10 * float(jnp.finfo(self.real_dtype).eps)

    def pack(self, tree: PyTree, half: int | None = None) -> Array:
        """Pack a pytree into one array; with `half` 0 or 1, only that half along the first axis."""
        leaves = jax.tree.leaves(tree)
        if len(leaves) == 1:
            return leaves[0] if half is None else jnp.split(leaves[0], 2)[half]
        if half is not None:
            middle = len(leaves) // 2
            leaves = leaves[half * middle : (half + 1) * middle]
        return jnp.concatenate([x.astype(self.dtype).reshape(-1) for x in leaves])

    def unpack(self, array: Array) -> PyTree:
        """Unpack an array into the pytree; leading axes of the array go to every leaf."""
        if len(self.shapes) == 1:
            return jax.tree.unflatten(self.treedef, [array])
        sizes = [int(np.prod(shape, dtype=int)) for shape in self.shapes]
        components = jnp.split(array, np.cumsum(sizes)[:-1], axis=-1)
        leaves = [
            _cast(component.reshape(array.shape[:-1] + shape), dtype)
            for component, shape, dtype in zip(components, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)


@functools.lru_cache(maxsize=256)
def _packing(
    treedef: Any,
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[np.dtype, ...],
    times: np.dtype,
) -> Packing:
    return Packing(treedef, shapes, dtypes, times)


def _cast(x: Array, dtype: np.dtype) -> Array:
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        x = x.real
    return x.astype(dtype)


def check_state(y0: PyTree) -> PyTree:
    """Validate the initial state and make every leaf an array.

    **Raises:** `StateError` for an empty state and for leaves that are not inexact arrays.
    """
    leaves = jax.tree.leaves(y0)
    if leaves and all(map(_is_state, leaves)):
        return y0
    check_state_leaves(y0)
    if not sum(map(np.size, leaves)):
        raise StateError(f"y0 has no components: expected a pytree of arrays, got {y0!r}")
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), y0)


def check_state_leaves(y0: PyTree) -> None:
    """Check that every leaf of a state is an inexact array. **Raises:** `StateError`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(y0):
        where = f"y0{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, (float, complex, int, np.ndarray, np.generic, jax.Array)):
            raise StateError(f"{where} is a {type(leaf).__name__}: expected an array of floats")
        dtype = getattr(leaf, "dtype", np.dtype(type(leaf)))
        known = any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_))
        if not known or dtype in _WITHOUT_JAX:
            raise StateError(f"{where} has dtype {dtype}: expected an array of floats")
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise StateError(
                f"{where} has dtype {dtype}: expected floating-point or complex, "
                "for a solve cannot move through integers; write 1.0 for 1"
            )


def _is_state(x: Any) -> bool:
    """True if a leaf of a state needs no conversion."""
    if not isinstance(x, jax.Array) or (x.dtype != np.float64 and x.dtype != np.float32):
        return False
    return not x.weak_type and x.size > 0


def is_traced(tree: PyTree) -> bool:
    """True if any leaf is a tracer, whose value is unknown while tracing."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def arrays_of_args(args: PyTree) -> PyTree:
    """Make the Python floats in `args` arrays, so that changing one never recompiles."""
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, (float, complex)) else x, args)
