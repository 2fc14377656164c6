"""Validation of batch axes: which arrays are mapped, and over how many trajectories."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..problem.errors import BatchError, TimesError
from ..problem.state import is_traced
from ..problem.times import Ends, check_times, times_with_ends, weak_or_dtype
from ..problem.validation import real_array

_SHARED = object()  # None as a leaf: jax.tree takes None for an empty tree
_MAPPED_SHAPE = "mapped ts must have shape (trajectories, times)"
NAMES = ("y0", "ts", "args", "rtol", "atol")


def axes_by_name(in_axes: Any) -> dict[str, Any]:
    """Return the batch axes of `y0`, `ts`, `args`, `rtol` and `atol` by name.

    **Raises:** `BatchError` unless `in_axes` is an integer or has three or five entries.
    """
    if isinstance(in_axes, int) and not isinstance(in_axes, bool):
        in_axes = (in_axes,) * 3
    if not isinstance(in_axes, tuple | list) or len(in_axes) not in (3, 5):
        raise BatchError(
            "in_axes must be an integer, or have three entries for (y0, ts, args), or five for "
            f"(y0, ts, args, rtol, atol); got {in_axes!r}"
        )
    return dict(zip(NAMES, (*in_axes, None, None), strict=False))


def move_axes(name: str, tree: PyTree, axes: Any) -> tuple[PyTree, PyTree]:
    """Move the mapped axes of `tree` to the front, and mark which of its leaves are mapped.

    `axes` is an axis, None, or a pytree of them whose structure is a prefix of `tree`.

    **Raises:** `BatchError` where `axes` does not fit `tree`.
    """
    try:
        marked = jax.tree.map(lambda a: _SHARED if a is None else a, axes, is_leaf=_is_none)
        flat = jax.tree.leaves(jax.tree.broadcast(marked, tree))
    except ValueError as error:
        structure = str(jax.tree.structure(tree)).removeprefix("PyTreeDef")
        raise BatchError(
            f"in_axes for {name} is {axes!r}, which does not fit its structure {structure}"
        ) from error
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = []
    for (path, leaf), axis in zip(paths, flat, strict=True):
        where = f"{name}{jax.tree_util.keystr(path)}"
        if axis is _SHARED:
            leaves.append(leaf)
            continue
        if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
            raise BatchError(f"in_axes for {where} must be an integer or None, got {axis!r}")
        shape = np.shape(leaf)
        if not -len(shape) <= axis < len(shape):
            raise BatchError(f"in_axes maps axis {axis} of {where}, which has shape {shape}")
        # NumPy keeps concrete values concrete: under jit, jnp would turn them into tracers.
        move = jnp.moveaxis if isinstance(leaf, jax.Array) else np.moveaxis
        leaves.append(leaf if axis == 0 else move(leaf, int(axis), 0))  # pyright: ignore[reportArgumentType]
    mapped = [axis is not _SHARED for axis in flat]
    return jax.tree.unflatten(treedef, leaves), jax.tree.unflatten(treedef, mapped)


def batch_size(trees: dict[str, PyTree], mapped: dict[str, PyTree]) -> int:
    """Return the number of trajectories: the common first size of the mapped arrays.

    **Raises:** `BatchError` where nothing is mapped, sizes differ, or that size is zero.
    """
    sizes = {}
    for name, tree in trees.items():
        flags = jax.tree.leaves(mapped[name])
        for (path, leaf), flag in zip(
            jax.tree_util.tree_leaves_with_path(tree), flags, strict=True
        ):
            if flag:
                sizes[f"{name}{jax.tree_util.keystr(path)}"] = np.shape(leaf)[0]
    if not sizes:
        raise BatchError("in_axes maps nothing: give an axis for y0, ts or args, or call jo.solve")
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise BatchError(f"mapped axes differ in their number of trajectories: {shown}")
    size = next(iter(sizes.values()))
    if size == 0:
        raise BatchError("the batch is empty: its mapped axes have no entries")
    return size


def move_batch_axes_first(
    inputs: dict[str, PyTree], axes: dict[str, Any]
) -> tuple[dict[str, PyTree], dict[str, PyTree], int]:
    """Return `inputs` with mapped axes first, which leaves are mapped, and the batch size.

    **Raises:** `BatchError` where the axes do not fit, nothing is mapped or sizes differ.
    """
    trees, mapped = {}, {}
    for name, tree in inputs.items():
        shared_times = name == "ts" and axes[name] is None  # a pair of times is no pytree of axes
        moved = (tree, False) if shared_times else move_axes(name, tree, axes[name])
        trees[name], mapped[name] = moved
    sizes = {name: tree for name, tree in trees.items() if name != "ts" or mapped["ts"]}
    return trees, mapped, batch_size(sizes, mapped)


def check_not_empty(y0: PyTree, axes: Any) -> None:
    """Check that no mapped axis of `y0` is empty. **Raises:** `BatchError` if one is."""
    moved, mapped = move_axes("y0", y0, axes)
    flags = jax.tree.leaves(mapped)
    leaves = jax.tree_util.tree_leaves_with_path(moved)
    for (path, leaf), flag in zip(leaves, flags, strict=True):
        if flag and np.shape(leaf)[0] == 0:
            raise BatchError(
                f"the batch is empty: y0{jax.tree_util.keystr(path)} has no trajectories on its "
                "mapped axis"
            )


def trajectory_shape(x: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of one trajectory's row of an array."""
    return jax.ShapeDtypeStruct(np.shape(x)[1:], jnp.result_type(x))


def stack_batch_times(ts: Any, axes: Any) -> tuple[Any, Any]:
    """Return `ts` as one array, and its axis; of a pair `(t0, t1)` each may have its own axis."""
    if not isinstance(axes, tuple | list):
        if axes is None or not isinstance(ts, tuple | list):
            return ts, axes
        if not any(isinstance(t, jax.Array | np.ndarray) for t in ts):
            return np.asarray(ts), axes
        axes = (axes,) * len(ts)
    try:
        columns = [move_axes("ts", t, axis)[0] for t, axis in zip(ts, axes, strict=True)]
    except (TypeError, ValueError) as error:
        raise BatchError(f"in_axes for ts is {axes!r}, which does not fit {ts!r}") from error
    if all(axis is None for axis in axes):
        return ts, None
    space = jnp if is_traced(columns) else np
    return space.stack(space.broadcast_arrays(*columns), axis=-1), 0


def batch_times_with_ends(ts: Any, axes: Any, t0: Any, t1: Any) -> tuple[Any, Any, Ends]:
    """Return the times from `t0` through `ts` to `t1`, their axis, and the ends not saved.

    An end is a scalar, or a vector of that of each trajectory.

    **Raises:** as `times_with_ends`; `BatchError` where the numbers of trajectories differ.
    """
    ts, axis = (ts, None) if ts is None else stack_batch_times(ts, axes)
    own = [_is_of_each(name, t) for name, t in (("t0", t0), ("t1", t1)) if t is not None]
    if not own or (axis is None and not any(own)):
        times, unsaved = times_with_ends(ts, t0, t1)
        return times, axis, unsaved
    scalars = [None if t is None else 0.0 for t in (t0, t1)]
    _, unsaved = times_with_ends(None if ts is None else (), *scalars)
    ts = None if ts is None else real_array("ts", ts, TimesError)
    if ts is not None and ts.ndim != 1 + (axis is not None):
        raise TimesError(
            f"{_MAPPED_SHAPE if axis is not None else 'ts must be one-dimensional'}, got {ts.shape}"
        )
    given = [t for t in (t0, ts, t1) if t is not None]
    space = jnp if is_traced(given) else np
    dtype = space.result_type(*map(weak_or_dtype, given))
    rows = [] if ts is None else [move_axes("ts", space.asarray(ts, dtype), axis)[0]]
    first, last = ([] if t is None else [space.asarray(t, dtype).reshape(-1, 1)] for t in (t0, t1))
    columns = [*first, *[space.atleast_2d(x) for x in rows], *last]
    counts = {x.shape[0] for x in columns} - {1}
    if len(counts) > 1:
        raise BatchError(f"t0, ts and t1 differ in their number of trajectories: {sorted(counts)}")
    count = counts.pop() if counts else 1
    columns = [space.broadcast_to(x, (count, x.shape[1])) for x in columns]
    return space.concatenate(columns, axis=1), 0, unsaved


def _is_of_each(name: str, end: Any) -> bool:
    """True if an end of a batch is a vector. **Raises:** `TimesError` if it is no scalar either."""
    shape = real_array(name, end, TimesError).shape
    if len(shape) > 1:
        raise TimesError(
            f"{name} must be one time, or a vector of that of each trajectory, got shape {shape}"
        )
    return bool(shape)


def moved_times(ts: Any, axis: Any, unsaved: Ends, events_end: bool) -> jax.Array | np.ndarray:
    """The times of a batch with their mapped axis first, if there is one, validated.

    **Raises:** `BatchError` and `TimesError`, as `move_axes` and `check_batch_times`.
    """
    moved = ts if axis is None else move_axes("ts", ts, axis)[0]
    return check_batch_times(moved, axis is not None, unsaved, events_end)


def check_batch_times(
    ts: Any, mapped: bool, unsaved: Ends = (False, False), events_end: bool = False
) -> jax.Array | np.ndarray:
    """Validate shared times, shape `(times,)`, or those of each, shape `(trajectories, times)`.

    They keep their dtype. Known values are an array of NumPy. `unsaved`, `events_end`: as for
    `check_times`.

    **Raises:** `TimesError`, naming the trajectory whose times are invalid.
    """
    if not mapped:
        return check_times(ts, unsaved, events_end)
    values = real_array("ts", ts, TimesError)
    if values.ndim != 2 or values.shape[1] < 2:
        raise TimesError(f"{_MAPPED_SHAPE}, at least two times, got {values.shape}")
    if is_traced(ts):
        return values
    with np.errstate(invalid="ignore"):  # of infinite times
        steps = np.diff(values, axis=1) * np.sign(values[:, -1:] - values[:, :1])
    bad = ~np.all(np.isfinite(values), axis=1) | ~np.all(steps >= 0, axis=1)
    for number in np.flatnonzero(bad | (values[:, 0] == values[:, -1])):
        try:
            check_times(values[number], unsaved, events_end)
        except TimesError as error:
            raise TimesError(f"of trajectory {number}: {error}") from error
    return values


def _is_none(x: Any) -> bool:
    return x is None
