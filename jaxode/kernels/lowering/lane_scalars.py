"""Arrays taken apart: each number of an array is a cell, and a cell holds that number of all lanes.

A cell is a vector of one number per lane, a scalar that all lanes share, or a NumPy scalar where
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

Cell = Any  # np.generic, or an Array of shape () or (lanes,)


class Value:
    """What stands for an array of one lane, of some `shape` and `dtype`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def struct(self) -> jax.ShapeDtypeStruct:
        """The shape and dtype of one lane's array."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def apart(self) -> "LaneScalars":
        """The same, taken apart. **Raises:** `NoKernelError` if it cannot be."""
        raise NotImplementedError

    def flat(self) -> list[Cell]:
        """The cells, row by row."""
        return self.apart().flat()

    def one(self) -> Cell:
        """The cell of an array that is one number."""
        (cell,) = self.flat()
        return cell

    def vector(self, lanes: int) -> Array:
        """That number of all lanes."""
        return spread(self.one(), self.dtype, lanes)


@dataclasses.dataclass(frozen=True, eq=False)
class LaneScalars(Value):
    """An array of `cells`, a NumPy array of objects or, where all of it is known, of `dtype`."""

    cells: np.ndarray
    dtype: np.dtype

    @classmethod
    def of(
        cls, values: Sequence[Cell] | np.ndarray, shape: tuple[int, ...], dtype: Any
    ) -> "LaneScalars":
        """From the cells of an array of `shape`, row by row."""
        return cls(objects(values).reshape(shape), np.dtype(dtype)).settled()

    @classmethod
    def known(cls, values: Any, dtype: Any = None) -> "LaneScalars":
        """From numbers."""
        values = np.asarray(values, dtype)
        return cls(values, values.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one lane's array."""
        return self.cells.shape

    @property
    def is_known(self) -> bool:
        """Whether every number is known while the program is traced."""
        return self.cells.dtype != object

    def settled(self) -> "LaneScalars":
        """The same, as an array of numbers where all of them are known."""
        if self.cells.dtype == object and all(is_known(c) for c in self.cells.flat):
            return LaneScalars(self.cells.astype(self.dtype), self.dtype)
        return self

    def flat(self) -> list[Cell]:
        """The cells, row by row."""
        return [self.dtype.type(c) if is_known(c) else c for c in self.cells.flat]

    def apart(self) -> "LaneScalars":
        """The same."""
        return self

    def row(self, index: int) -> "LaneScalars":
        """One of the rows."""
        cells = self.cells[index : index + 1].reshape(self.shape[1:])  # an array even of one number
        return LaneScalars(cells, self.dtype).settled()


def objects(values: Sequence[Cell] | np.ndarray) -> np.ndarray:
    """The values in an array, which NumPy would look into if it were to make one."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def at_once(function: Callable, *arrays: Any) -> Any:
    """`function` of known arrays as NumPy arrays, now, while a kernel is being traced."""
    # On the processor, whatever device the kernel is for, and outside of every mesh.
    outside = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with jax.ensure_compile_time_eval(), jax.default_device(_processor()), outside:
        return jax.tree.map(np.asarray, function(*arrays))


def _processor() -> Any:
    return jax.local_devices(backend="cpu")[0]


def aval_of(variable: Any) -> Any:
    """The shape and dtype of a variable of a program."""
    return variable.aval


def result_of(equation: JaxprEqn) -> Any:
    """Those of the one thing that an equation computes."""
    return aval_of(equation.outvars[0])


def is_cells(x: Any) -> bool:
    """Whether `x` stands for an array."""
    return isinstance(x, Value)


def is_known(cell: Cell) -> bool:
    """Whether the cell is a number."""
    return isinstance(cell, np.generic | bool | int | float)


def spread(cell: Cell, dtype: Any, lanes: int) -> Array:
    """The cell as a vector of one number per lane."""
    if is_known(cell) or not cell.ndim:
        return jnp.full((lanes,), cell, dtype)
    return cell


def zeros(like: Any) -> LaneScalars:
    """Zeros of the shape and dtype of an array, or of arrays that are taken apart."""
    return LaneScalars.known(np.zeros(like.shape, like.dtype))


def chosen(mask: Cell, new: Cell, old: Cell) -> Cell:
    """`new` where `mask` holds, else `old`."""
    if new is old:
        return new
    if is_known(mask):
        return new if mask else old
    return jnp.where(mask, new, old)


def chosen_each(mask: Cell, new: LaneScalars, old: LaneScalars) -> LaneScalars:
    """The same, cell by cell."""
    pairs = zip(new.flat(), old.flat(), strict=True)
    return LaneScalars.of([chosen(mask, a, b) for a, b in pairs], new.shape, new.dtype)
