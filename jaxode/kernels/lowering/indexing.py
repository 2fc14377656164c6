"""Numbers at places: known ones are moved, others chosen among all that could be meant."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from .arithmetic import operation
from .lane_scalars import Cell, LaneScalars, at_once, chosen, is_known, result_of
from .shape_ops import moved, pooled
from .unsupported import NoKernelError

# How many numbers one is chosen among: each costs a comparison and a selection.
MOST = 256


def dynamic_slice(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """A slice whose start may differ between lanes."""
    x, *starts = inputs
    sizes = equation.params["slice_sizes"]
    most = [n - size for n, size in zip(x.shape, sizes, strict=True)]

    def at(start: tuple[int, ...]) -> list[LaneScalars]:
        return moved(lambda x: lax.dynamic_slice(x, start, sizes), [x])

    return _at_starts(walk, equation, starts, most, at)


def dynamic_update_slice(
    walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """The same, written to."""
    x, update, *starts = inputs
    most = [n - size for n, size in zip(x.shape, update.shape, strict=True)]

    def at(start: tuple[int, ...]) -> list[LaneScalars]:
        return moved(lambda x, u: lax.dynamic_update_slice(x, u, start), [x, update])

    return _at_starts(walk, equation, starts, most, at)


def _at_starts(
    walk: Any, equation: JaxprEqn, starts: list[LaneScalars], most: list[int], at: Callable
) -> list[LaneScalars]:
    """What `at(start)` makes of the start that is meant, of all from zero to `most`."""
    cells = [x.flat()[0] for x in starts]
    ranges = [
        [min(max(int(c), 0), last)] if is_known(c) else range(last + 1)
        for c, last in zip(cells, most, strict=True)
    ]
    return [_chosen(walk, equation, cells, list(itertools.product(*ranges)), at, most)]


def _chosen(
    walk: Any,
    equation: JaxprEqn,
    cells: list[Cell],
    candidates: list[tuple[int, ...]],
    at: Callable[[tuple[int, ...]], list[LaneScalars]],
    most: list[int],
) -> LaneScalars:
    if len(candidates) > MOST:
        raise NoKernelError(f"an index into {len(candidates)} places{walk.place(equation)}")
    (found,) = at(candidates[0])
    values = found.flat()
    walk.spend(len(candidates) * len(values), equation)
    for candidate in candidates[1:]:
        here = _meant(walk, cells, candidate, most)
        values = [chosen(here, a, b) for a, b in zip(at(candidate)[0].flat(), values, strict=True)]
    return LaneScalars.of(values, found.shape, found.dtype)


def _meant(walk: Any, cells: list[Cell], candidate: tuple[int, ...], most: list[int]) -> Cell:
    """Whether the index, drawn into the array, is `candidate`, which is not its first."""
    mask: Cell = np.bool_(True)
    for cell, place, last in zip(cells, candidate, most, strict=True):
        if is_known(cell) or not last:
            continue
        inner = cell <= place if place == 0 else cell == place
        here = cell >= place if place == last else inner
        mask = here if is_known(mask) else mask & here
    return mask


def gather(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Numbers at places that may differ between lanes."""
    x, indices = inputs
    if indices.is_known:
        pool, (places,) = pooled([x])
        params = {**equation.params, "fill_value": -1}
        found = at_once(lambda *x: equation.primitive.bind(*x, **params), places, indices.cells)
        out, nothing = result_of(equation), _missing(equation)
        cells = [nothing if place < 0 else pool[place] for place in found.flat]
        return [LaneScalars.of(cells, out.shape, out.dtype)]
    rows = indices.cells.reshape(-1, indices.shape[-1])
    return [_gathered(walk, equation, x, indices, rows)]


def _missing(equation: JaxprEqn) -> Any:
    """What stands for a number outside of the array."""
    dtype, given = result_of(equation).dtype, equation.params["fill_value"]
    if given is not None:
        return dtype.type(given)
    if np.issubdtype(dtype, np.bool_) or np.issubdtype(dtype, np.inexact):
        return dtype.type(np.nan)  # as a boolean: True
    limits = np.iinfo(dtype)
    return dtype.type(limits.max if np.issubdtype(dtype, np.unsignedinteger) else limits.min)


def _gathered(
    walk: Any, equation: JaxprEqn, x: LaneScalars, indices: LaneScalars, rows: np.ndarray
) -> LaneScalars:
    """The same with every place that an index could mean tried in turn."""
    numbers, out = equation.params["dimension_numbers"], result_of(equation)
    extents = [x.shape[i] for i in numbers.start_index_map]
    sizes = [equation.params["slice_sizes"][i] for i in numbers.start_index_map]
    most = [n - size for n, size in zip(extents, sizes, strict=True)]
    candidates = list(itertools.product(*(range(n + 1) for n in most)))
    if len(candidates) > MOST or numbers.operand_batching_dims:
        raise NoKernelError(f"an index into {len(candidates)} places{walk.place(equation)}")
    walk.spend(len(candidates) * out.size, equation)
    filling = "FILL" in str(equation.params["mode"])
    # The row of indices that each output reads: that of its axes which are no axes of a slice.
    batch = [i for i in range(len(out.shape)) if i not in numbers.offset_dims]
    numbered = np.arange(len(rows)).reshape([out.shape[i] for i in batch])
    numbered = np.expand_dims(numbered, numbers.offset_dims)
    reads = list(np.broadcast_to(numbered, out.shape).flat)

    def at(candidate: tuple[int, ...]) -> list[Cell]:
        index = np.broadcast_to(np.array(candidate, indices.dtype), indices.shape)
        return gather(walk, equation, [x, LaneScalars.known(index)])[0].flat()

    values = at(candidates[0])
    for candidate in candidates[1:]:
        here = [_meant(walk, list(row), candidate, most) for row in rows]
        values = [
            chosen(_and_known(here[r], rows[r], candidate, most), a, b)
            for r, a, b in zip(reads, at(candidate), values, strict=True)
        ]
    if filling:
        inside = [_inside(row, most) for row in rows]
        nothing = _missing(equation)
        values = [chosen(inside[r], a, nothing) for r, a in zip(reads, values, strict=True)]
    return LaneScalars.of(values, out.shape, out.dtype)


def _and_known(mask: Cell, row: np.ndarray, candidate: tuple[int, ...], most: list[int]) -> Cell:
    """The mask, of a candidate that agrees with the row where that is known."""
    for cell, place, last in zip(row, candidate, most, strict=True):
        if is_known(cell) and min(max(int(cell), 0), last) != place:
            return np.bool_(False)
    return mask


def _inside(row: np.ndarray, most: list[int]) -> Cell:
    mask: Cell = np.bool_(True)
    for cell, last in zip(row, most, strict=True):
        here = (cell >= 0) & (cell <= last)
        mask = here if is_known(mask) and mask else mask & here
    return mask


def scatter(walk: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Numbers written to known places, over or added to what is there."""
    x, indices, updates = inputs
    if not indices.is_known:
        raise NoKernelError(
            f"writing at an index that differs between trajectories{walk.place(equation)}"
        )
    adds, params = equation.primitive.name != "scatter", equation.params
    values = x.flat()
    if not updates.cells.size:
        return [x]

    def targets(seed: Any) -> Any:
        empty = jnp.zeros(x.shape, jnp.int32)
        numbers, mode = params["dimension_numbers"], params["mode"]
        return lax.scatter_add(empty, indices.cells, seed, numbers, mode=mode)

    seeds = np.eye(updates.cells.size, dtype=np.int32).reshape(-1, *updates.shape)
    hits = at_once(jax.vmap(targets), seeds).reshape(len(seeds), -1)
    for hit, update in zip(hits, updates.flat(), strict=True):
        for place in np.flatnonzero(hit):
            old = values[place]
            values[place] = operation(lax.add_p, {}, [old, update], walk.lanes) if adds else update
    return [LaneScalars.of(values, x.shape, x.dtype)]


RULES: dict[str, Callable[..., list[LaneScalars]]] = {
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "scatter": scatter,
    "scatter-add": scatter,
    "scatter_add": scatter,
}
