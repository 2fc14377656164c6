"""Loops over lane values: each lane until it is finished, or all for a number of iterations."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .block_arrays import LaneReduction, LaneVector, OuterSum, as_block
from .lane_scalars import Element, LaneScalars, broadcast_to_lanes, select_array
from .unsupported import NoKernelError


def lane_while_loop(
    unfinished: Callable[[list[Any]], Element],
    advance: Callable[[Array, list[Any]], list[Any]],
    state: Sequence[Any],
    lanes: int,
) -> list[Any]:
    """Advance `state`, lane values or sums over lanes, in `unfinished` lanes until none is left.

    `advance(mask, state)` receives the mask of these lanes for its side effects, and masks its sums
    over lanes itself.
    """
    kinds = [x if isinstance(x, LaneReduction) else x.scalarise() for x in state]

    def any_unfinished(carry: Any) -> Array:
        # Kernels have no reduction by "or": the maximum of integers replaces it.
        return jnp.max(carry[0].astype(jnp.int32)) > 0

    def advance_unfinished(carry: Any) -> Any:
        mask, now = carry[0], _unpack(carry[1:], kinds)
        after = [
            a if isinstance(a, LaneReduction) else select_array(mask, a, b)
            for a, b in zip(advance(mask, now), now, strict=True)
        ]
        return [
            mask & broadcast_to_lanes(unfinished(after), bool, lanes),
            *_pack(after, kinds, lanes),
        ]

    start = [broadcast_to_lanes(unfinished(kinds), bool, lanes), *_pack(kinds, kinds, lanes)]
    return _unpack(lax.while_loop(any_unfinished, advance_unfinished, start)[1:], kinds)


def lane_fori_loop(
    num_iterations: int,
    advance: Callable[[Array, list[Any]], Sequence[Any]],
    state: Sequence[Any],
    lanes: int,
) -> list[Any]:
    """Advance `state` in all lanes `num_iterations` times, by `advance(iteration, state)`.

    Each array of the state takes the form, scalars or block, in which `advance` returns it.
    """
    kinds: list[Any] = []

    def find_kinds(iteration: Array) -> Array:
        kinds.extend(advance(iteration, list(state)))
        return iteration

    jax.eval_shape(find_kinds, jax.ShapeDtypeStruct((), jnp.int32))

    def advance_packed(k: Array, vectors: list[Array]) -> list[Array]:
        return _pack(advance(k, _unpack(vectors, kinds)), kinds, lanes)

    ends = np.int32(0), np.int32(num_iterations)
    return _unpack(lax.fori_loop(*ends, advance_packed, _pack(state, kinds, lanes)), kinds)


def _pack(state: Iterable[Any], kinds: list[Any], lanes: int) -> list[Array]:
    """Return the vectors and blocks of a state, each array in the form of its kind."""
    vectors = []
    for x, kind in zip(state, kinds, strict=True):
        x = _convert(x, kind, lanes)
        scalars = isinstance(x, LaneScalars)
        vectors += (
            [broadcast_to_lanes(c, x.dtype, lanes) for c in x.flat()] if scalars else [x.block]
        )
    return vectors


def _convert(x: Any, kind: Any, lanes: int) -> Any:
    if isinstance(kind, OuterSum | LaneReduction):
        if isinstance(x, LaneScalars) and x.is_constant and not x.elements.any():
            return LaneReduction.zeros(x)
        if not isinstance(x, LaneReduction):
            raise NoKernelError("a matrix of each trajectory that a loop changes")
        return x
    if isinstance(kind, LaneVector):
        return LaneVector(as_block(x, lanes), x.shape, x.dtype)
    return x.scalarise()


def _unpack(vectors: Iterable[Array], kinds: list[Any]) -> list[Any]:
    """Return the state whose vectors and blocks these are."""
    remaining = iter(vectors)
    return [_unpack_value(remaining, kind) for kind in kinds]


def _unpack_value(vectors: Any, kind: Any) -> Any:
    if isinstance(kind, OuterSum | LaneReduction):
        return LaneReduction(next(vectors), kind.shape, kind.dtype)
    if isinstance(kind, LaneVector):
        return LaneVector(next(vectors), kind.shape, kind.dtype)
    size = int(np.prod(kind.shape, dtype=int))
    return LaneScalars.of([next(vectors) for _ in range(size)], kind.shape, kind.dtype)
