"""Numbers at places: known ones are moved, others chosen among all that could be meant."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from .arithmetic import apply_primitive
from .lane_scalars import (
    Element,
    LaneScalars,
    evaluate_now,
    is_constant,
    output_aval,
    select_element,
)
from .shape_ops import pool_elements, rearrange_by
from .unsupported import NoKernelError

# How many numbers one is chosen among: each costs a comparison and a selection.
MAX_CANDIDATES = 256


def dynamic_slice(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """A slice whose start may differ between lanes."""
    x, *starts = inputs
    sizes = equation.params["slice_sizes"]
    most = [n - size for n, size in zip(x.shape, sizes, strict=True)]

    def at(start: tuple[int, ...]) -> list[LaneScalars]:
        return rearrange_by(lambda x: lax.dynamic_slice(x, start, sizes), [x])

    return _select_start(interpreter, equation, starts, most, at)


def dynamic_update_slice(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """The same, written to."""
    x, update, *starts = inputs
    most = [n - size for n, size in zip(x.shape, update.shape, strict=True)]

    def at(start: tuple[int, ...]) -> list[LaneScalars]:
        return rearrange_by(lambda x, u: lax.dynamic_update_slice(x, u, start), [x, update])

    return _select_start(interpreter, equation, starts, most, at)


def _select_start(
    interpreter: Any, equation: JaxprEqn, starts: list[LaneScalars], most: list[int], at: Callable
) -> list[LaneScalars]:
    """What `at(start)` makes of the start that is meant, of all from zero to `most`."""
    elements = [x.flat()[0] for x in starts]
    ranges = [
        [min(max(int(c), 0), last)] if is_constant(c) else range(last + 1)
        for c, last in zip(elements, most, strict=True)
    ]
    return [
        _select_candidate(
            interpreter, equation, elements, list(itertools.product(*ranges)), at, most
        )
    ]


def _select_candidate(
    interpreter: Any,
    equation: JaxprEqn,
    elements: list[Element],
    candidates: list[tuple[int, ...]],
    at: Callable[[tuple[int, ...]], list[LaneScalars]],
    most: list[int],
) -> LaneScalars:
    if len(candidates) > MAX_CANDIDATES:
        raise NoKernelError(
            f"an index into {len(candidates)} places{interpreter.location(equation)}"
        )
    (found,) = at(candidates[0])
    values = found.flat()
    interpreter.count_operations(len(candidates) * len(values), equation)
    for candidate in candidates[1:]:
        here = _index_equals(interpreter, elements, candidate, most)
        values = [
            select_element(here, a, b) for a, b in zip(at(candidate)[0].flat(), values, strict=True)
        ]
    return LaneScalars.of(values, found.shape, found.dtype)


def _index_equals(
    interpreter: Any, elements: list[Element], candidate: tuple[int, ...], most: list[int]
) -> Element:
    """Whether the index, drawn into the array, is `candidate`, which is not its first."""
    mask: Element = np.bool_(True)
    for element, place, last in zip(elements, candidate, most, strict=True):
        if is_constant(element) or not last:
            continue
        inner = element <= place if place == 0 else element == place
        here = element >= place if place == last else inner
        mask = here if is_constant(mask) else mask & here
    return mask


def gather(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Numbers at places that may differ between lanes."""
    x, indices = inputs
    if indices.is_constant:
        pool, (places,) = pool_elements([x])
        params = {**equation.params, "fill_value": -1}
        found = evaluate_now(
            lambda *x: equation.primitive.bind(*x, **params), places, indices.elements
        )
        out, nothing = output_aval(equation), _fill_value(equation)
        elements = [nothing if place < 0 else pool[place] for place in found.flat]
        return [LaneScalars.of(elements, out.shape, out.dtype)]
    rows = indices.elements.reshape(-1, indices.shape[-1])
    return [_gather_variable(interpreter, equation, x, indices, rows)]


def _fill_value(equation: JaxprEqn) -> Any:
    """What stands for a number outside of the array."""
    dtype, given = output_aval(equation).dtype, equation.params["fill_value"]
    if given is not None:
        return dtype.type(given)
    if np.issubdtype(dtype, np.bool_) or np.issubdtype(dtype, np.inexact):
        return dtype.type(np.nan)  # as a boolean: True
    limits = np.iinfo(dtype)
    return dtype.type(limits.max if np.issubdtype(dtype, np.unsignedinteger) else limits.min)


def _gather_variable(
    interpreter: Any, equation: JaxprEqn, x: LaneScalars, indices: LaneScalars, rows: np.ndarray
) -> LaneScalars:
    """The same with every place that an index could mean tried in turn."""
    numbers, out = equation.params["dimension_numbers"], output_aval(equation)
    extents = [x.shape[i] for i in numbers.start_index_map]
    sizes = [equation.params["slice_sizes"][i] for i in numbers.start_index_map]
    most = [n - size for n, size in zip(extents, sizes, strict=True)]
    candidates = list(itertools.product(*(range(n + 1) for n in most)))
    if len(candidates) > MAX_CANDIDATES or numbers.operand_batching_dims:
        raise NoKernelError(
            f"an index into {len(candidates)} places{interpreter.location(equation)}"
        )
    interpreter.count_operations(len(candidates) * out.size, equation)
    filling = "FILL" in str(equation.params["mode"])
    # The row of indices that each output reads: that of its axes which are no axes of a slice.
    batch = [i for i in range(len(out.shape)) if i not in numbers.offset_dims]
    numbered = np.arange(len(rows)).reshape([out.shape[i] for i in batch])
    numbered = np.expand_dims(numbered, numbers.offset_dims)
    reads = list(np.broadcast_to(numbered, out.shape).flat)

    def at(candidate: tuple[int, ...]) -> list[Element]:
        index = np.broadcast_to(np.array(candidate, indices.dtype), indices.shape)
        return gather(interpreter, equation, [x, LaneScalars.constant(index)])[0].flat()

    values = at(candidates[0])
    for candidate in candidates[1:]:
        here = [_index_equals(interpreter, list(row), candidate, most) for row in rows]
        values = [
            select_element(_unless_excluded(here[r], rows[r], candidate, most), a, b)
            for r, a, b in zip(reads, at(candidate), values, strict=True)
        ]
    if filling:
        inside = [_in_bounds(row, most) for row in rows]
        nothing = _fill_value(equation)
        values = [select_element(inside[r], a, nothing) for r, a in zip(reads, values, strict=True)]
    return LaneScalars.of(values, out.shape, out.dtype)


def _unless_excluded(
    mask: Element, row: np.ndarray, candidate: tuple[int, ...], most: list[int]
) -> Element:
    """The mask, of a candidate that agrees with the row where that is known."""
    for element, place, last in zip(row, candidate, most, strict=True):
        if is_constant(element) and min(max(int(element), 0), last) != place:
            return np.bool_(False)
    return mask


def _in_bounds(row: np.ndarray, most: list[int]) -> Element:
    mask: Element = np.bool_(True)
    for element, last in zip(row, most, strict=True):
        here = (element >= 0) & (element <= last)
        mask = here if is_constant(mask) and mask else mask & here
    return mask


def scatter(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Numbers written to known places, over or added to what is there."""
    x, indices, updates = inputs
    if not indices.is_constant:
        raise NoKernelError(
            f"writing at an index that differs between trajectories{interpreter.location(equation)}"
        )
    adds, params = equation.primitive.name != "scatter", equation.params
    values = x.flat()
    if not updates.elements.size:
        return [x]

    def targets(seed: Any) -> Any:
        empty = jnp.zeros(x.shape, jnp.int32)
        numbers, mode = params["dimension_numbers"], params["mode"]
        return lax.scatter_add(empty, indices.elements, seed, numbers, mode=mode)

    seeds = np.eye(updates.elements.size, dtype=np.int32).reshape(-1, *updates.shape)
    hits = evaluate_now(jax.vmap(targets), seeds).reshape(len(seeds), -1)
    for hit, update in zip(hits, updates.flat(), strict=True):
        for place in np.flatnonzero(hit):
            old = values[place]
            values[place] = (
                apply_primitive(lax.add_p, {}, [old, update], interpreter.lanes) if adds else update
            )
    return [LaneScalars.of(values, x.shape, x.dtype)]


RULES: dict[str, Callable[..., list[LaneScalars]]] = {
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "scatter": scatter,
    "scatter-add": scatter,
    "scatter_add": scatter,
}
