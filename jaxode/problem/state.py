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
    `unpack` accepts any leading axes. `times`: the dtype in which a solve keeps its times. A pytree
    without components is packed as two zeros, one for each half: so a solve has a state to step.
    `in_parts`: the packed array is real, and holds the real and the imaginary part of each complex
    component, one after the other; of a single array along a last axis.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]
    times: np.dtype = _FLOAT32
    in_parts: bool = False

    @classmethod
    def of(cls, tree: PyTree) -> "Packing":
        """Make the packing of pytrees with the structure, shapes and dtypes of `tree`."""
        leaves, treedef = jax.tree.flatten(tree)
        return _packing(
            treedef,
            tuple([x.shape for x in leaves]),
            tuple([np.dtype(x.dtype) for x in leaves]),
        )

    def with_times(self, dtype: np.dtype) -> "Packing":
        """The packing of the states of a solve whose times have this dtype."""
        return _packing(self.treedef, self.shapes, self.dtypes, dtype, self.in_parts)

    def by_parts(self) -> "Packing":
        """The packing of complex states as real ones; this packing if the state is real."""
        if not is_complex(common_dtype(self.dtypes)):
            return self
        return _packing(self.treedef, self.shapes, self.dtypes, self.times, True)

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """The dtype of the packed array."""
        dtype = common_dtype(self.dtypes)
        return np.dtype(jnp.finfo(dtype).dtype) if self.in_parts else dtype

    @functools.cached_property
    def size(self) -> int:
        """The number of components of the packed array."""
        return _count(self.part_shapes) or 2

    @functools.cached_property
    def is_empty(self) -> bool:
        """True if the pytree has no components."""
        return self.num_components == 0

    @functools.cached_property
    def packed_shape(self) -> tuple[int, ...]:
        """The shape of the packed array."""
        single = len(self.shapes) == 1 and not self.is_empty
        return self.part_shapes[0] if single else (self.size,)

    @functools.cached_property
    def part_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the leaves as they are packed: in parts a complex one has an axis more."""
        if not self.in_parts:
            return self.shapes
        leaves = zip(self.shapes, self.dtypes, strict=True)
        return tuple([(*shape, 2) if is_complex(dtype) else shape for shape, dtype in leaves])

    @functools.cached_property
    def num_components(self) -> int:
        """The number of components of the pytree, each complex one counted once."""
        return _count(self.shapes)

    @functools.cached_property
    def number_dtype(self) -> np.dtype:
        """The real dtype of the state's precision, and of at least float32's."""
        return common_dtype((self.real_dtype, _FLOAT32))

    @functools.cached_property
    def time_dtype(self) -> np.dtype:
        """The dtype of times: `number_dtype`, or that in which they were given if it is finer."""
        return common_dtype((self.number_dtype, self.times))

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
        if self.in_parts:
            kinds = map(is_complex, self.dtypes)
            leaves = [_parts(x) if split else x for x, split in zip(leaves, kinds, strict=True)]
        if self.is_empty:
            return jnp.zeros(2 if half is None else 1, self.dtype)
        if len(leaves) == 1:
            return leaves[0] if half is None else jnp.split(leaves[0], 2)[half]
        if half is not None:
            middle = len(leaves) // 2
            leaves = leaves[half * middle : (half + 1) * middle]
        return jnp.concatenate([x.astype(self.dtype).reshape(-1) for x in leaves])

    def unpack(self, array: Array) -> PyTree:
        """Unpack an array into the pytree; leading axes of the array go to every leaf."""
        if self.is_empty:
            lead, parts = array.shape[:-1], zip(self.shapes, self.dtypes, strict=True)
            return jax.tree.unflatten(self.treedef, [jnp.zeros(lead + s, d) for s, d in parts])
        if len(self.shapes) == 1:
            leaf = _from_parts(array, self.dtypes[0]) if self.in_parts else array
            return jax.tree.unflatten(self.treedef, [leaf])
        sizes = [int(np.prod(shape, dtype=int)) for shape in self.part_shapes]
        components = jnp.split(array, np.cumsum(sizes)[:-1], axis=-1)
        leaves = [
            component.reshape(array.shape[:-1] + shape)
            for component, shape in zip(components, self.part_shapes, strict=True)
        ]
        convert = _from_parts if self.in_parts else _cast
        leaves = [convert(x, dtype) for x, dtype in zip(leaves, self.dtypes, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)


@functools.lru_cache(maxsize=256)
def _packing(
    treedef: Any,
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[np.dtype, ...],
    times: np.dtype = _FLOAT32,
    in_parts: bool = False,
) -> Packing:
    return Packing(treedef, shapes, dtypes, times, in_parts)


def _count(shapes: tuple[tuple[int, ...], ...]) -> int:
    return sum(int(np.prod(shape, dtype=int)) for shape in shapes)


def is_complex(dtype: Any) -> bool:
    """True for a complex dtype."""
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


def _parts(x: Array) -> Array:
    """The real and the imaginary part of an array, along a last axis."""
    return jnp.stack([jnp.real(x), jnp.imag(x)], -1)


def _from_parts(x: Array, dtype: np.dtype) -> Array:
    """A leaf of this dtype, from its real and imaginary parts if it is complex."""
    if not is_complex(dtype):
        return x.astype(dtype)
    real = jnp.finfo(dtype).dtype
    return jax.lax.complex(x[..., 0].astype(real), x[..., 1].astype(real))


def _cast(x: Array, dtype: np.dtype) -> Array:
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        x = x.real
    return x.astype(dtype)


def check_state(y0: PyTree) -> PyTree:
    """Validate the initial state and make every leaf an array of floating-point or complex numbers.

    Integers become floating-point numbers: of the precision of the other leaves, if there are any.

    **Raises:** `StateError` for None and for leaves that are no arrays of numbers.
    """
    leaves = jax.tree.leaves(y0)
    if leaves and all(map(_is_state, leaves)):
        return y0
    check_state_leaves(y0)
    dtypes = [np.dtype(jnp.result_type(leaf)) for leaf in leaves]
    floats = tuple([d for d in dtypes if jnp.issubdtype(d, jnp.inexact)])
    real = jnp.finfo(common_dtype(floats)).dtype

    def as_state(x: Any) -> Array:
        dtype = jnp.result_type(x)
        return jnp.asarray(x, dtype if jnp.issubdtype(dtype, jnp.inexact) else real)

    return jax.tree.map(as_state, y0)


def check_state_leaves(y0: PyTree) -> None:
    """Check that every leaf of a state is an array of numbers. **Raises:** `StateError`."""
    if y0 is None:
        raise StateError("y0 is None: expected a pytree of arrays")
    for path, leaf in jax.tree_util.tree_leaves_with_path(y0):
        where = f"y0{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, (float, complex, int, np.ndarray, np.generic, jax.Array)):
            raise StateError(f"{where} is a {type(leaf).__name__}: expected an array of floats")
        dtype = getattr(leaf, "dtype", np.dtype(type(leaf)))
        if not is_numeric(dtype):
            raise StateError(f"{where} has dtype {dtype}: expected an array of floats")
        if not jnp.issubdtype(dtype, jnp.number):
            raise StateError(f"{where} has dtype {dtype}: expected floating-point or complex")


def common_dtype(dtypes: tuple[np.dtype, ...]) -> np.dtype:
    """The dtype to which these are promoted; of none, that of a float of Python."""
    # The state has its rules, also where JAX is told to promote nothing by itself.
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(jnp.result_type(*(dtypes or (float,))))


def is_numeric(dtype: Any) -> bool:
    """True for a dtype of numbers or booleans that JAX has."""
    number = any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_))
    return number and dtype not in _WITHOUT_JAX


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
