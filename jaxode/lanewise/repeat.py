"""A loop of many lanes, each for as long as it has to."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .cells import Cell, Cells, chosen_each, spread
from .refusal import NoKernelError
from .whole import Outer, Total, Wide, blocked


def loop(
    unfinished: Callable[[list[Any]], Cell],
    advance: Callable[[Array, list[Any]], list[Any]],
    state: Sequence[Any],
    lanes: int,
) -> list[Any]:
    """Advance `state`, arrays taken apart, in the lanes that are `unfinished`, until none is.

    `advance` is told which these are, in case it does more than return the state behind: what it
    sums over lanes is its own to mask.
    """

    def packed(state: Iterable[Any]) -> list[Array]:
        vectors = []
        for x in state:
            whole = isinstance(x, Total)
            vectors += [x.block] if whole else [spread(c, x.dtype, lanes) for c in x.flat()]
        return vectors

    def unpacked(vectors: Iterable[Array]) -> list[Any]:
        left = iter(vectors)
        return [_unpacked(x, left) for x in state]

    def going(carry: Any) -> Array:
        # The maximum of integers: kernels have no reduction by "or".
        return jnp.max(carry[0].astype(jnp.int32)) > 0

    def turn(carry: Any) -> Any:
        mask, now = carry[0], unpacked(carry[1:])
        after = [
            a if isinstance(a, Total) else chosen_each(mask, a, b)
            for a, b in zip(advance(mask, now), now, strict=True)
        ]
        return [mask & spread(unfinished(after), bool, lanes), *packed(after)]

    start = [spread(unfinished(list(state)), bool, lanes), *packed(state)]
    return unpacked(lax.while_loop(going, turn, start)[1:])


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

    def packed(state: Iterable[Any]) -> list[Array]:
        vectors = []
        for x, like in zip(state, kinds, strict=True):
            y = _alike(x, like, lanes)
            whole = not isinstance(y, Cells)
            vectors += [y.block] if whole else [spread(c, y.dtype, lanes) for c in y.flat()]
        return vectors

    def unpacked(vectors: Iterable[Array]) -> list[Any]:
        left = iter(vectors)
        return [_unpacked(x, left) for x in kinds]

    def turn(k: Array, vectors: list[Array]) -> list[Array]:
        return packed(advance(k, unpacked(vectors)))

    ends = np.int32(0), np.int32(turns)
    return unpacked(lax.fori_loop(*ends, turn, packed(state)))


def _alike(x: Any, like: Any, lanes: int) -> Any:
    """`x` in the form that a loop keeps what is `like` this in."""
    if isinstance(like, Outer | Total):
        if isinstance(x, Cells) and x.is_known and not x.cells.any():
            return Total.zeros(x)
        if not isinstance(x, Total):
            raise NoKernelError("a matrix of each trajectory that a loop changes")
        return x
    if isinstance(like, Wide):
        return Wide(blocked(x, lanes), x.shape, x.dtype)
    return x.apart()


def _unpacked(like: Any, vectors: Any) -> Any:
    if isinstance(like, Outer | Total):
        return Total(next(vectors), like.shape, like.dtype)
    if isinstance(like, Wide):
        return Wide(next(vectors), like.shape, like.dtype)
    size = int(np.prod(like.shape, dtype=int))
    return Cells.of([next(vectors) for _ in range(size)], like.shape, like.dtype)
