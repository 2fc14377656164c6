"""A loop of many lanes, each for as long as it has to."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .cells import Cell, Cells, chosen_each, spread
from .whole import Total


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


def _unpacked(like: Any, vectors: Any) -> Any:
    if isinstance(like, Total):
        return Total(next(vectors), like.shape, like.dtype)
    size = int(np.prod(like.shape, dtype=int))
    return Cells.of([next(vectors) for _ in range(size)], like.shape, like.dtype)
