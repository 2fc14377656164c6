"""Rules for indexing: constant indices rearrange elements, others select among candidates."""

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

# Most candidates of a variable index: each costs a comparison and a selection.
MAX_CANDIDATES = 256


def dynamic_slice(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """Slice an array at a start that may differ between lanes."""
    x, *starts = inputs
    sizes = equation.params["slice_sizes"]
    max_starts = [n - size for n, size in zip(x.shape, sizes, strict=True)]

    def slice_at(start: tuple[int, ...]) -> list[LaneScalars]:
        return rearrange_by(lambda x: lax.dynamic_slice(x, start, sizes), [x])

    return _select_start(interpreter, equation, starts, max_starts, slice_at)


def dynamic_update_slice(
    interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]
) -> list[LaneScalars]:
    """Update a slice of an array at a start that may differ between lanes."""
    x, update, *starts = inputs
    max_starts = [n - size for n, size in zip(x.shape, update.shape, strict=True)]

    def update_at(start: tuple[int, ...]) -> list[LaneScalars]:
        return rearrange_by(lambda x, u: lax.dynamic_update_slice(x, u, start), [x, update])

    return _select_start(interpreter, equation, starts, max_starts, update_at)


def _select_start(
    interpreter: Any,
    equation: JaxprEqn,
    starts: list[LaneScalars],
    max_starts: list[int],
    at: Callable,
) -> list[LaneScalars]:
    """Return `at(start)` for each lane's start, selected among all starts up to `max_starts`."""
    elements = [x.flat()[0] for x in starts]
    ranges = [
        [min(max(int(c), 0), last)] if is_constant(c) else range(last + 1)
        for c, last in zip(elements, max_starts, strict=True)
    ]
    return [
        _select_candidate(
            interpreter, equation, elements, list(itertools.product(*ranges)), at, max_starts
        )
    ]


def _select_candidate(
    interpreter: Any,
    equation: JaxprEqn,
    elements: list[Element],
    candidates: list[tuple[int, ...]],
    at: Callable[[tuple[int, ...]], list[LaneScalars]],
    max_starts: list[int],
) -> LaneScalars:
    if len(candidates) > MAX_CANDIDATES:
        raise NoKernelError(
            f"an index into {len(candidates)} places{interpreter.location(equation)}"
        )
    (first,) = at(candidates[0])
    values = first.flat()
    interpreter.count_operations(len(candidates) * len(values), equation)
    for candidate in candidates[1:]:
        here = _index_equals(interpreter, elements, candidate, max_starts)
        values = [
            select_element(here, a, b) for a, b in zip(at(candidate)[0].flat(), values, strict=True)
        ]
    return LaneScalars.of(values, first.shape, first.dtype)


def _index_equals(
    interpreter: Any, elements: list[Element], candidate: tuple[int, ...], max_starts: list[int]
) -> Element:
    """Return the mask of lanes whose clamped index is `candidate`, which is not the first."""
    mask: Element = np.bool_(True)
    for element, place, last in zip(elements, candidate, max_starts, strict=True):
        if is_constant(element) or not last:
            continue
        inner = element <= place if place == 0 else element == place
        here = element >= place if place == last else inner
        mask = here if is_constant(mask) else mask & here
    return mask


def gather(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Gather elements at indices that may differ between lanes."""
    x, indices = inputs
    if indices.is_constant:
        pool, (places,) = pool_elements([x])
        params = {**equation.params, "fill_value": -1}
        positions = evaluate_now(
            lambda *x: equation.primitive.bind(*x, **params), places, indices.elements
        )
        out, fill = output_aval(equation), _fill_value(equation)
        elements = [fill if place < 0 else pool[place] for place in positions.flat]
        return [LaneScalars.of(elements, out.shape, out.dtype)]
    rows = indices.elements.reshape(-1, indices.shape[-1])
    return [_gather_variable(interpreter, equation, x, indices, rows)]


def _fill_value(equation: JaxprEqn) -> Any:
    """Return the value for an index out of bounds."""
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
    """Gather at variable indices: select among the gathers at all candidate indices."""
    numbers, out = equation.params["dimension_numbers"], output_aval(equation)
    extents = [x.shape[i] for i in numbers.start_index_map]
    sizes = [equation.params["slice_sizes"][i] for i in numbers.start_index_map]
    max_starts = [n - size for n, size in zip(extents, sizes, strict=True)]
    candidates = list(itertools.product(*(range(n + 1) for n in max_starts)))
    if len(candidates) > MAX_CANDIDATES or numbers.operand_batching_dims:
        raise NoKernelError(
            f"an index into {len(candidates)} places{interpreter.location(equation)}"
        )
    interpreter.count_operations(len(candidates) * out.size, equation)
    filling = "FILL" in str(equation.params["mode"])
    # The row of indices of each output, which its axes outside of the slice determine.
    batch = [i for i in range(len(out.shape)) if i not in numbers.offset_dims]
    numbered = np.arange(len(rows)).reshape([out.shape[i] for i in batch])
    numbered = np.expand_dims(numbered, numbers.offset_dims)
    reads = list(np.broadcast_to(numbered, out.shape).flat)

    def gather_at(candidate: tuple[int, ...]) -> list[Element]:
        index = np.broadcast_to(np.array(candidate, indices.dtype), indices.shape)
        return gather(interpreter, equation, [x, LaneScalars.constant(index)])[0].flat()

    values = gather_at(candidates[0])
    for candidate in candidates[1:]:
        here = [_index_equals(interpreter, list(row), candidate, max_starts) for row in rows]
        values = [
            select_element(_unless_excluded(here[r], rows[r], candidate, max_starts), a, b)
            for r, a, b in zip(reads, gather_at(candidate), values, strict=True)
        ]
    if filling:
        inside = [_in_bounds(row, max_starts) for row in rows]
        fill = _fill_value(equation)
        values = [select_element(inside[r], a, fill) for r, a in zip(reads, values, strict=True)]
    return LaneScalars.of(values, out.shape, out.dtype)


def _unless_excluded(
    mask: Element, row: np.ndarray, candidate: tuple[int, ...], max_starts: list[int]
) -> Element:
    """Return `mask`, or False where a constant index of the row excludes the candidate."""
    for element, place, last in zip(row, candidate, max_starts, strict=True):
        if is_constant(element) and min(max(int(element), 0), last) != place:
            return np.bool_(False)
    return mask


def _in_bounds(row: np.ndarray, max_starts: list[int]) -> Element:
    mask: Element = np.bool_(True)
    for element, last in zip(row, max_starts, strict=True):
        here = (element >= 0) & (element <= last)
        mask = here if is_constant(mask) and mask else mask & here
    return mask


def scatter(interpreter: Any, equation: JaxprEqn, inputs: list[LaneScalars]) -> list[LaneScalars]:
    """Write or add elements at constant indices."""
    x, indices, updates = inputs
    if not indices.is_constant:
        raise NoKernelError(
            f"writing at an index that differs between trajectories{interpreter.location(equation)}"
        )
    adds, params = equation.primitive.name != "scatter", equation.params
    values = x.flat()
    if not updates.elements.size:
        return [x]

    def written_positions(seed: Any) -> Any:
        empty = jnp.zeros(x.shape, jnp.int32)
        numbers, mode = params["dimension_numbers"], params["mode"]
        return lax.scatter_add(empty, indices.elements, seed, numbers, mode=mode)

    seeds = np.eye(updates.elements.size, dtype=np.int32).reshape(-1, *updates.shape)
    hits = evaluate_now(jax.vmap(written_positions), seeds).reshape(len(seeds), -1)
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
