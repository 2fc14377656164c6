"""Loops of many lanes: each for as long as it has to, or all for a number of turns."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .block_arrays import LaneReduction, LaneVector, OuterSum, blocked
from .lane_scalars import Cell, LaneScalars, chosen_each, spread
from .unsupported import NoKernelError


def loop(
    unfinished: Callable[[list[Any]], Cell],
    advance: Callable[[Array, list[Any]], list[Any]],
    state: Sequence[Any],
    lanes: int,
) -> list[Any]:
    """Advance `state`, cells or sums over lanes, in the lanes that are `unfinished`, until none is.

    `advance` is told which these are, in case it does more than return the state behind: what it
    sums over lanes is its own to mask.
    """
    kinds = [x if isinstance(x, LaneReduction) else x.apart() for x in state]

    def going(carry: Any) -> Array:
        # The maximum of integers: kernels have no reduction by "or".
        return jnp.max(carry[0].astype(jnp.int32)) > 0

    def turn(carry: Any) -> Any:
        mask, now = carry[0], _unpacked(carry[1:], kinds)
        after = [
            a if isinstance(a, LaneReduction) else chosen_each(mask, a, b)
            for a, b in zip(advance(mask, now), now, strict=True)
        ]
        return [mask & spread(unfinished(after), bool, lanes), *_packed(after, kinds, lanes)]

    start = [spread(unfinished(kinds), bool, lanes), *_packed(kinds, kinds, lanes)]
    return _unpacked(lax.while_loop(going, turn, start)[1:], kinds)


def counted(
    turns: int,
    advance: Callable[[Array, list[Any]], Sequence[Any]],
    state: Sequence[Any],
    lanes: int,
) -> list[Any]:
    """Advance `state` so many times in all lanes; `advance` is told the turn, a number they share.

    What stands for an array, cells or a block, is what `advance` returns for it.
    """
    kinds: list[Any] = []

    def once(turn: Array) -> Array:
        kinds.extend(advance(turn, list(state)))
        return turn

    jax.eval_shape(once, jax.ShapeDtypeStruct((), jnp.int32))

    def turn(k: Array, vectors: list[Array]) -> list[Array]:
        return _packed(advance(k, _unpacked(vectors, kinds)), kinds, lanes)

    ends = np.int32(0), np.int32(turns)
    return _unpacked(lax.fori_loop(*ends, turn, _packed(state, kinds, lanes)), kinds)


def _packed(state: Iterable[Any], kinds: list[Any], lanes: int) -> list[Array]:
    """The vectors and blocks of a state, each array in the form of its kind."""
    vectors = []
    for x, kind in zip(state, kinds, strict=True):
        x = _alike(x, kind, lanes)
        apart = isinstance(x, LaneScalars)
        vectors += [spread(c, x.dtype, lanes) for c in x.flat()] if apart else [x.block]
    return vectors


def _alike(x: Any, kind: Any, lanes: int) -> Any:
    if isinstance(kind, OuterSum | LaneReduction):
        if isinstance(x, LaneScalars) and x.is_known and not x.cells.any():
            return LaneReduction.zeros(x)
        if not isinstance(x, LaneReduction):
            raise NoKernelError("a matrix of each trajectory that a loop changes")
        return x
    if isinstance(kind, LaneVector):
        return LaneVector(blocked(x, lanes), x.shape, x.dtype)
    return x.apart()


def _unpacked(vectors: Iterable[Array], kinds: list[Any]) -> list[Any]:
    """The state again."""
    left = iter(vectors)
    return [_next(left, kind) for kind in kinds]


def _next(vectors: Any, kind: Any) -> Any:
    if isinstance(kind, OuterSum | LaneReduction):
        return LaneReduction(next(vectors), kind.shape, kind.dtype)
    if isinstance(kind, LaneVector):
        return LaneVector(next(vectors), kind.shape, kind.dtype)
    size = int(np.prod(kind.shape, dtype=int))
    return LaneScalars.of([next(vectors) for _ in range(size)], kind.shape, kind.dtype)
