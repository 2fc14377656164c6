"""Arrays taken apart: each number of an array is a element, and a element holds that number of all lanes.

A element is a vector of one number per lane, a scalar that all lanes share, or a NumPy scalar where
the number is known while the program is traced. Inside a kernel every vector then has the shape
that the hardware likes, however odd the shape of the array, and what is known costs nothing.
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
    """What stands for an array of one lane, of some `shape` and `dtype`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def struct(self) -> jax.ShapeDtypeStruct:
        """The shape and dtype of one lane's array."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def scalarise(self) -> "LaneScalars":
        """The same, taken apart. **Raises:** `NoKernelError` if it cannot be."""
        raise NotImplementedError

    def flat(self) -> list[Element]:
        """The elements, row by row."""
        return self.scalarise().flat()

    def item(self) -> Element:
        """The element of an array that is one number."""
        (element,) = self.flat()
        return element

    def vector(self, lanes: int) -> Array:
        """That number of all lanes."""
        return broadcast_to_lanes(self.item(), self.dtype, lanes)


@dataclasses.dataclass(frozen=True, eq=False)
class LaneScalars(LaneValue):
    """An array of `elements`, a NumPy array of objects or, where all of it is known, of `dtype`."""

    elements: np.ndarray
    dtype: np.dtype

    @classmethod
    def of(
        cls, values: Sequence[Element] | np.ndarray, shape: tuple[int, ...], dtype: Any
    ) -> "LaneScalars":
        """From the elements of an array of `shape`, row by row."""
        return cls(object_array(values).reshape(shape), np.dtype(dtype)).normalised()

    @classmethod
    def constant(cls, values: Any, dtype: Any = None) -> "LaneScalars":
        """From numbers."""
        values = np.asarray(values, dtype)
        return cls(values, values.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one lane's array."""
        return self.elements.shape

    @property
    def is_constant(self) -> bool:
        """Whether every number is known while the program is traced."""
        return self.elements.dtype != object

    def normalised(self) -> "LaneScalars":
        """The same, as an array of numbers where all of them are known."""
        if self.elements.dtype == object and all(is_constant(c) for c in self.elements.flat):
            return LaneScalars(self.elements.astype(self.dtype), self.dtype)
        return self

    def flat(self) -> list[Element]:
        """The elements, row by row."""
        return [self.dtype.type(c) if is_constant(c) else c for c in self.elements.flat]

    def scalarise(self) -> "LaneScalars":
        """The same."""
        return self

    def row(self, index: int) -> "LaneScalars":
        """One of the rows."""
        elements = self.elements[index : index + 1].reshape(
            self.shape[1:]
        )  # an array even of one number
        return LaneScalars(elements, self.dtype).normalised()


def object_array(values: Sequence[Element] | np.ndarray) -> np.ndarray:
    """The values in an array, which NumPy would look into if it were to make one."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def evaluate_now(function: Callable, *arrays: Any) -> Any:
    """`function` of known arrays as NumPy arrays, now, while a kernel is being traced."""
    # On the processor, whatever device the kernel is for, and outside of every mesh.
    outside = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with jax.ensure_compile_time_eval(), jax.default_device(_cpu()), outside:
        return jax.tree.map(np.asarray, function(*arrays))


def _cpu() -> Any:
    return jax.local_devices(backend="cpu")[0]


def aval_of(variable: Any) -> Any:
    """The shape and dtype of a variable of a program."""
    return variable.aval


def output_aval(equation: JaxprEqn) -> Any:
    """Those of the one thing that an equation computes."""
    return aval_of(equation.outvars[0])


def is_lane_value(x: Any) -> bool:
    """Whether `x` stands for an array."""
    return isinstance(x, LaneValue)


def is_constant(element: Element) -> bool:
    """Whether the element is a number."""
    return isinstance(element, np.generic | bool | int | float)


def broadcast_to_lanes(element: Element, dtype: Any, lanes: int) -> Array:
    """The element as a vector of one number per lane."""
    if is_constant(element) or not element.ndim:
        return jnp.full((lanes,), element, dtype)
    return element


def zeros_like(like: Any) -> LaneScalars:
    """Zeros of the shape and dtype of an array, or of arrays that are taken apart."""
    return LaneScalars.constant(np.zeros(like.shape, like.dtype))


def select_element(mask: Element, new: Element, old: Element) -> Element:
    """`new` where `mask` holds, else `old`."""
    if new is old:
        return new
    if is_constant(mask):
        return new if mask else old
    return jnp.where(mask, new, old)


def select_array(mask: Element, new: LaneScalars, old: LaneScalars) -> LaneScalars:
    """The same, element by element."""
    pairs = zip(new.flat(), old.flat(), strict=True)
    return LaneScalars.of([select_element(mask, a, b) for a, b in pairs], new.shape, new.dtype)
