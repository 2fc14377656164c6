"""Scalarised arrays: each element of an array holds that element's values in all lanes.

An element is a vector of one number per lane, a scalar that all lanes share, or a NumPy scalar
where the number is constant while the program is traced. Every vector in a kernel thus has the
shape of a register, whatever the shape of the array, and constants cost nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import JaxprEqn

Element = Any  # np.generic, or an Array of shape () or (lanes,)


class LaneValue:
    """An array of `shape` and `dtype` per lane, in one of the forms that kernels compute with."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def struct(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of one lane's array."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def scalarise(self) -> "LaneScalars":
        """Return the array as scalars. **Raises:** `NoKernelError` if it has no such form."""
        raise NotImplementedError

    def flat(self) -> list[Element]:
        """Return the elements, row by row."""
        return self.scalarise().flat()

    def item(self) -> Element:
        """Return the element of an array of size 1."""
        (element,) = self.flat()
        return element

    def vector(self, lanes: int) -> Array:
        """Return the element of an array of size 1 as a vector over the lanes."""
        return broadcast_to_lanes(self.item(), self.dtype, lanes)


@dataclasses.dataclass(frozen=True, eq=False)
class LaneScalars(LaneValue):
    """A scalarised array: `elements` is a NumPy array of objects, or of `dtype` if constant."""

    elements: np.ndarray
    dtype: np.dtype

    @classmethod
    def of(
        cls, values: Sequence[Element] | np.ndarray, shape: tuple[int, ...], dtype: Any
    ) -> "LaneScalars":
        """Return the array of `shape` whose elements, row by row, are `values`."""
        return cls(object_array(values).reshape(shape), np.dtype(dtype)).normalised()

    @classmethod
    def constant(cls, values: Any, dtype: Any = None) -> "LaneScalars":
        """Return a constant array."""
        values = np.asarray(values, dtype)
        return cls(values, values.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one lane's array."""
        return self.elements.shape

    @property
    def is_constant(self) -> bool:
        """True where every element is constant while the program is traced."""
        return self.elements.dtype != object

    def normalised(self) -> "LaneScalars":
        """Return the array with elements of `dtype` where all of them are constant."""
        if self.elements.dtype == object and all(is_constant(c) for c in self.elements.flat):
            return LaneScalars(self.elements.astype(self.dtype), self.dtype)
        return self

    def flat(self) -> list[Element]:
        """Return the elements, row by row."""
        return [self.dtype.type(c) if is_constant(c) else c for c in self.elements.flat]

    def scalarise(self) -> "LaneScalars":
        """Return the array itself."""
        return self

    def row(self, index: int) -> "LaneScalars":
        """Return one row."""
        elements = self.elements[index : index + 1].reshape(
            self.shape[1:]
        )  # an array even of one number
        return LaneScalars(elements, self.dtype).normalised()


def object_array(values: Sequence[Element] | np.ndarray) -> np.ndarray:
    """Return a NumPy array of the objects, which `np.array` would convert to numbers."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def evaluate_now(function: Callable, *arrays: Any) -> Any:
    """Return `function` of constant arrays as NumPy arrays, while a kernel is being traced."""
    # It is evaluated on the CPU, whatever device the kernel is for, and outside of every mesh.
    outside = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with jax.ensure_compile_time_eval(), jax.default_device(_cpu()), outside:
        return jax.tree.map(np.asarray, function(*arrays))


def _cpu() -> Any:
    return jax.local_devices(backend="cpu")[0]


def aval_of(variable: Any) -> Any:
    """Return the shape and dtype of a variable of a jaxpr."""
    return variable.aval


def output_aval(equation: JaxprEqn) -> Any:
    """Return the shape and dtype of an equation's only output."""
    return aval_of(equation.outvars[0])


def is_lane_value(x: Any) -> bool:
    """Tell whether `x` is an array per lane."""
    return isinstance(x, LaneValue)


def is_constant(element: Element) -> bool:
    """Tell whether the element is a constant."""
    return isinstance(element, np.generic | bool | int | float)


def broadcast_to_lanes(element: Element, dtype: Any, lanes: int) -> Array:
    """Return the element as a vector over the lanes."""
    if is_constant(element) or not element.ndim:
        return jnp.full((lanes,), element, dtype)
    return element


def zeros_like(like: Any) -> LaneScalars:
    """Return constant zeros of the shape and dtype of an array or lane value."""
    return LaneScalars.constant(np.zeros(like.shape, like.dtype))


def select_element(mask: Element, new: Element, old: Element) -> Element:
    """Return the element `new` where `mask` holds, else `old`."""
    if new is old:
        return new
    if is_constant(mask):
        return new if mask else old
    return jnp.where(mask, new, old)


def select_array(mask: Element, new: LaneScalars, old: LaneScalars) -> LaneScalars:
    """Return the array `new` where `mask` holds, else `old`."""
    pairs = zip(new.flat(), old.flat(), strict=True)
    return LaneScalars.of([select_element(mask, a, b) for a, b in pairs], new.shape, new.dtype)
