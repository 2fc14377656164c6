"""Cotangents of values at times, taken up by the steps that passed these, the last time first."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ...integrate.xla_loops import chunk_size, host_controls_loops, masked_while


class SavePointCotangents(NamedTuple):
    """How many times are unread, what has come of the others, and cotangents of the times."""

    saves_left: Array
    totals: Any
    times: Any


class SavePointAccumulator(NamedTuple):
    """How a step, or each lane's, takes up the cotangents of the times that it passed.

    - `passed(unread)`: whether the last of the unread times is one of them.
    - `pulled(unread, mask)`: what comes of the value at that time, zeros where not in `mask`: the
      cotangents that are summed, and that of the time, or None.
    - `put(times, unread, mask, cotangent)`: `times` with the latter.
    """

    passed: Callable[[Array], Array]
    pulled: Callable[[Array, Array], tuple[Any, Any]]
    put: Callable[[Any, Array, Array, Any], Any]

    def all(self, start: SavePointCotangents, rows: int, size: int) -> SavePointCotangents:
        """All that were passed, of at most `rows`; `size` numbers are worked on for each."""
        if not host_controls_loops():
            return self.one_by_one(start)
        return self.at_once(start, chunk_size(rows, size), rows)

    def one_by_one(self, start: SavePointCotangents) -> SavePointCotangents:
        """All that were passed, a time in a turn."""

        def one(state: tuple[Array, SavePointCotangents]) -> tuple[Array, SavePointCotangents]:
            mask, (unread, totals, times) = state
            found, ct = self.pulled(unread, mask)
            if ct is not None:
                times = self.put(times, unread, mask, ct)
            unread = jnp.where(mask, unread - 1, unread)
            totals = jax.tree.map(jnp.add, totals, found)
            return self.passed(unread), SavePointCotangents(unread, totals, times)

        return self._turns(one, start, at_once=False)

    def at_once(self, start: SavePointCotangents, many: int, rows: int) -> SavePointCotangents:
        """The same, `many` in a turn, which may be all `rows` that there are to take."""

        def some(state: tuple[Array, SavePointCotangents]) -> tuple[Array, SavePointCotangents]:
            _, (unread, totals, times) = state
            each = unread - jnp.arange(many).reshape(-1, *[1] * unread.ndim)
            mask = jnp.cumsum(~self.passed(each), axis=0) == 0
            found, ct = jax.vmap(self.pulled)(each, mask)
            if ct is not None:
                times = self.put(times, each, mask, ct)
            unread = unread - jnp.sum(mask, axis=0, dtype=unread.dtype)
            totals = jax.tree.map(lambda a, b: a + jnp.sum(b, axis=0), totals, found)
            return self.passed(unread), SavePointCotangents(unread, totals, times)

        return self._turns(some, start, at_once=many == rows)

    def _turns(
        self, turn: Callable, start: SavePointCotangents, at_once: bool
    ) -> SavePointCotangents:
        state = self.passed(start.saves_left), start
        return masked_while(lambda s: jnp.any(s[0]), turn, state, at_once)[1]
