"""Several batch axes: made one before a solve, and several again in its results."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ..integrate.solution import Solution
from ..problem.errors import DataError
from ..problem.field import call_field
from ..problem.state import is_traced
from .call_arguments import check_call_arguments
from .per_solve_random import draw, materialise_weights

Method = TypeVar("Method", bound=Callable[..., Any])

# The axes that arguments of models of series have after those of the batch.
_OWN_AXES = {
    "xs": (2,), "ts": (1,), "times": (1,), "mask": (1, 2), "lengths": (0,),
    "z0": (1,), "z1": (1,), "z": (1,), "t": (0,), "t0": (0,),
}  # fmt: skip


def num_axes(x: Any) -> int:
    """The number of axes of an array, or of a list or tuple of numbers, also of traced ones."""
    if isinstance(x, tuple | list) and is_traced(x):
        return 1 + max(np.ndim(entry) for entry in x)
    return np.ndim(x)


def merge(x: Any, count: int) -> Any:
    """An array with its first `count` axes made one."""
    array = x if isinstance(x, Array) else np.asarray(x)
    return array.reshape(-1, *array.shape[count:])


def part(tree: PyTree, batch: tuple[int, ...]) -> Any:
    """Arrays with the axes `batch` in place of their first one; scalars as they are."""
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]) if np.ndim(x) else x, tree)


def part_solution(solution: Solution, batch: tuple[int, ...], own_times: bool) -> Solution:
    """The solution of a batch with the axes `batch`; `own_times`: each sample has its times."""
    shared: Any = {"origin": solution.origin}
    if not own_times:
        shared["ts"] = solution.ts
    parts = part(dataclasses.replace(solution, **dict.fromkeys(shared)), batch)
    return dataclasses.replace(parts, **shared)


def merge_args(args: PyTree, args_axes: Any, batch: tuple[int, ...]) -> Any:
    """Arguments whose axes of the batch, of which `args_axes` has the first, are made one.

    **Raises:** `DataError` for arrays that do not have the axes of the batch there.
    """

    def merge_at(axis: int | None, tree: PyTree) -> Any:
        return tree if axis is None else jax.tree.map(lambda x: merge_leaf(axis, x), tree)

    def merge_leaf(axis: int, x: Any) -> Any:
        array = jnp.asarray(x)
        before, after = array.shape[:axis], array.shape[axis + len(batch) :]
        if array.shape != (*before, *batch, *after):
            raise DataError(
                f"args that args_axes maps must have the axes {batch} of the batch from axis "
                f"{axis} on, got shape {array.shape}"
            )
        return array.reshape(*before, -1, *after)

    return jax.tree.map(merge_at, args_axes, args, is_leaf=lambda axis: axis is None)


def count_batch_axes(field: Callable, x: Array, args: PyTree, args_axes: Any, augment: int) -> int:
    """How many of the first axes of `x` count samples: one, or more if the field needs them.

    The field is traced for a sample of all other axes, of which the first is `augment` longer.
    """
    if x.ndim <= 2 or isinstance(field, eqx.nn.MLP | eqx.nn.Linear):
        return x.ndim - 1
    for count in range(1, x.ndim):
        sample = (x.shape[count] + augment, *x.shape[count + 1 :])
        if _keeps_shape(field, jax.ShapeDtypeStruct(sample, x.dtype), args, args_axes, count):
            return count
    return 1


def _keeps_shape(field: Callable, y: Any, args: PyTree, args_axes: Any, count: int) -> bool:
    """True if the field takes a sample like `y`, and returns its shape."""

    def of_one_sample(axis: int | None, tree: PyTree) -> Any:
        if axis is None:
            return tree
        first = (slice(None),) * axis + (0,) * count
        return jax.tree.map(lambda x: jnp.asarray(x)[first], tree)

    def slope(y: Array, args: PyTree) -> Any:
        args = jax.tree.map(of_one_sample, args_axes, args, is_leaf=lambda axis: axis is None)
        drawn = draw(materialise_weights(field), jax.random.key(0))
        return call_field(drawn, jnp.zeros((), y.dtype), y, args)

    try:
        found = jax.eval_shape(lambda y: slope(y, args), y)
    except Exception:  # of any kind: the field is the user's
        return False
    return getattr(found, "shape", None) == y.shape


def over_batch_axes(leading: str) -> Callable[[Method], Method]:
    """Decorate a method so that it takes several batch axes and returns results with these.

    `leading`: the argument by whose shape the axes are counted. Arguments without the axes of the
    batch are shared by all samples.
    """

    def decorate(method: Method) -> Any:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def over_one_axis(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options)
            given = bound.arguments
            check_call_arguments(given)
            count = num_axes(given[leading]) - _OWN_AXES[leading][0]
            if count < 2:
                return method(*args, **options)
            batch = np.shape(given[leading])[:count]
            for name, own in _OWN_AXES.items():
                value = given.get(name)
                if value is not None and num_axes(value) - count in own:
                    given[name] = merge(value, count)
            return part(method(*bound.args, **bound.kwargs), batch)

        return over_one_axis

    return decorate
