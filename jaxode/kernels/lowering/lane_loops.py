"""Loops of many lanes: each for as long as it has to, or all for a number of turns."""

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
    """Advance `state`, elements or sums over lanes, in the lanes that are `unfinished`, until none is.

    `advance` is told which these are, in case it does more than return the state behind: what it
    sums over lanes is its own to mask.
    """
    kinds = [x if isinstance(x, LaneReduction) else x.scalarise() for x in state]

    def going(carry: Any) -> Array:
        # The maximum of integers: kernels have no reduction by "or".
        return jnp.max(carry[0].astype(jnp.int32)) > 0

    def turn(carry: Any) -> Any:
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
    return _unpack(lax.while_loop(going, turn, start)[1:], kinds)


def lane_fori_loop(
    turns: int,
    advance: Callable[[Array, list[Any]], Sequence[Any]],
    state: Sequence[Any],
    lanes: int,
) -> list[Any]:
    """Advance `state` so many times in all lanes; `advance` is told the turn, a number they share.

    What stands for an array, elements or a block, is what `advance` returns for it.
    """
    kinds: list[Any] = []

    def once(turn: Array) -> Array:
        kinds.extend(advance(turn, list(state)))
        return turn

    jax.eval_shape(once, jax.ShapeDtypeStruct((), jnp.int32))

    def turn(k: Array, vectors: list[Array]) -> list[Array]:
        return _pack(advance(k, _unpack(vectors, kinds)), kinds, lanes)

    ends = np.int32(0), np.int32(turns)
    return _unpack(lax.fori_loop(*ends, turn, _pack(state, kinds, lanes)), kinds)


def _pack(state: Iterable[Any], kinds: list[Any], lanes: int) -> list[Array]:
    """The vectors and blocks of a state, each array in the form of its kind."""
    vectors = []
    for x, kind in zip(state, kinds, strict=True):
        x = _convert(x, kind, lanes)
        apart = isinstance(x, LaneScalars)
        vectors += [broadcast_to_lanes(c, x.dtype, lanes) for c in x.flat()] if apart else [x.block]
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
    """The state again."""
    left = iter(vectors)
    return [_unpack_value(left, kind) for kind in kinds]


def _unpack_value(vectors: Any, kind: Any) -> Any:
    if isinstance(kind, OuterSum | LaneReduction):
        return LaneReduction(next(vectors), kind.shape, kind.dtype)
    if isinstance(kind, LaneVector):
        return LaneVector(next(vectors), kind.shape, kind.dtype)
    size = int(np.prod(kind.shape, dtype=int))
    return LaneScalars.of([next(vectors) for _ in range(size)], kind.shape, kind.dtype)
