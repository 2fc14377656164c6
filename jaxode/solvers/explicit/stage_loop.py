"""Stages of an explicit step as a loop, for fields whose program is large."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from ...problem.field import Field
from .stage_sums import stage_sum
from .tableau import ButcherTableau


class LoopedField(eqx.Module):
    """A field, `make(*moving, *still)`, that explicit solvers call in a loop over their stages.

    So it stands once in the program of a step, however many stages there are. It is differentiated
    backwards alone, by `moving` and the state; nothing of a call is kept for that.
    """

    make: Callable[..., Field] = eqx.field(static=True)
    moving: tuple[PyTree, ...] = ()
    still: tuple[PyTree, ...] = ()

    def __call__(self, t: Array, y: Array, *half: int) -> Array:
        """Call it."""
        return self.make(*self.moving, *self.still)(t, y, *half)


class _StageLoop(NamedTuple):
    """Stages of a step that a loop goes through: numbers, times, rows of the tableau."""

    number: Array
    c: Array
    a: Array

    @classmethod
    def of(cls, table: ButcherTableau, first: int, number: int, t: Array, y: Array) -> "_StageLoop":
        """Those from `first` on, of `number`."""
        rows = np.zeros((number, number))
        for i, row in enumerate(table.a[: number - 1]):
            rows[i + 1, : i + 1] = row
        real, chosen = jnp.finfo(y.dtype).dtype, slice(first, number)
        c = jnp.asarray(table.c[chosen], t.dtype)
        return cls(jnp.arange(first, number), c, jnp.asarray(rows[chosen], real))

    def point(self, y: Array, h: Array, slopes: tuple[Array, ...]) -> Array:
        """The state that one of these stages is at."""
        return y + h.astype(self.a.dtype) * stage_sum(list(self.a), list(slopes))


def looped_slopes(
    table: ButcherTableau,
    field: LoopedField,
    t: Array,
    y: Array,
    h: Array,
    first: Array | None,
    number: int,
) -> list[Array]:
    """The slopes of the first `number` stages, by a loop; `first`: the first of them, if known."""
    start = 0 if first is None else 1
    # The way back is traced elsewhere: it may use nothing that it is not handed.
    still, rest = eqx.partition((field.still, t, h), eqx.is_array)

    def parts(moving: Any, still: Any) -> tuple[LoopedField, Array, Array]:
        kept, t, h = eqx.combine(still, rest)
        return LoopedField(field.make, moving, kept), t, h

    @jax.custom_vjp
    def slopes_of(moving: Any, y: Array, first: Array | None, still: Any) -> tuple[Array, ...]:
        rolled, t, h = parts(moving, still)
        slopes = [jnp.zeros_like(y)] * number
        slopes[:start] = [] if first is None else [first]

        def stage(slopes: tuple[Array, ...], turn: _StageLoop) -> tuple[Any, None]:
            slope = rolled(t + turn.c * h, turn.point(y, h, slopes))
            now = [jnp.where(turn.number == i, slope, k) for i, k in enumerate(slopes)]
            return tuple(now), None

        return lax.scan(stage, tuple(slopes), _StageLoop.of(table, start, number, t, y))[0]

    def forwards(moving: Any, y: Array, first: Array | None, still: Any) -> Any:
        slopes = slopes_of(moving, y, first, still)
        return slopes, (moving, y, still, slopes)

    def backwards(kept: Any, cts: tuple[Array, ...]) -> Any:
        moving, y, still, slopes = kept
        rolled, t, h = parts(moving, still)
        turns = _StageLoop.of(table, start, number, t, y)
        cts, ct_y, ct_moving = _looped_cotangents(rolled, turns, t, y, h, slopes, cts)
        return ct_moving, ct_y, cts[0] if start else None, None

    slopes_of.defvjp(forwards, backwards)
    return list(slopes_of(field.moving, y, first, still))


def _looped_cotangents(
    field: LoopedField,
    turns: _StageLoop,
    t: Array,
    y: Array,
    h: Array,
    slopes: tuple[Array, ...],
    cts: tuple[Array, ...],
) -> tuple[tuple[Array, ...], Array, PyTree]:
    """From cotangents of slopes those of what is given: of slopes, the state, what moves."""

    def stage(carry: Any, turn: _StageLoop) -> tuple[Any, None]:
        cts, ct_y, ct_moving = carry

        def slope(moving: Any, at: Array) -> Array:
            return LoopedField(field.make, moving, field.still)(t + turn.c * h, at)

        pull = jax.vjp(slope, field.moving, turn.point(y, h, slopes))[1]
        ct = cts[-1]
        for i, other in enumerate(cts[:-1]):
            ct = jnp.where(turn.number == i, other, ct)
        more, back = pull(ct)
        scaled = h.astype(turn.a.dtype) * back
        cts = tuple(ct + a * scaled for ct, a in zip(cts, list(turn.a), strict=True))
        return (cts, ct_y + back, jax.tree.map(jnp.add, ct_moving, more)), None

    nothing = jax.tree.map(jnp.zeros_like, (y, field.moving))
    return lax.scan(stage, (cts, *nothing), turns, reverse=True)[0]
