"""Explicit Runge-Kutta stages as a loop, for vector fields whose program is large."""

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
    """The field `make(*diff, *nondiff)`, which explicit solvers call in a loop over their stages.

    A step's program contains it once, whatever the number of stages. It has reverse mode alone,
    with respect to `diff` and the state; the backward pass recomputes it.
    """

    make: Callable[..., Field] = eqx.field(static=True)
    diff: tuple[PyTree, ...] = ()
    nondiff: tuple[PyTree, ...] = ()

    def __call__(self, t: Array, y: Array, *half: int) -> Array:
        """Evaluate the field."""
        return self.make(*self.diff, *self.nondiff)(t, y, *half)


class _StageLoop(NamedTuple):
    """The stages of a loop: their numbers, abscissae and tableau rows, along the first axis."""

    number: Array
    c: Array
    a: Array

    @classmethod
    def from_tableau(
        cls, table: ButcherTableau, first: int, number: int, t: Array, y: Array
    ) -> "_StageLoop":
        """The stages from `first` on, of `number`; with the dtypes of `t` and `y`."""
        rows = np.zeros((number, number))
        for i, row in enumerate(table.a[: number - 1]):
            rows[i + 1, : i + 1] = row
        real, chosen = jnp.finfo(y.dtype).dtype, slice(first, number)
        c = jnp.asarray(table.c[chosen], t.dtype)
        return cls(jnp.arange(first, number), c, jnp.asarray(rows[chosen], real))

    def state(self, y: Array, h: Array, slopes: tuple[Array, ...]) -> Array:
        """The state of one of these stages."""
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
    """The slopes of the first `number` stages, by a loop; `first` is that of stage 0, if known."""
    start = 0 if first is None else 1
    # The backward rule is traced later: it may capture no tracer of the forward trace.
    nondiff, rest = eqx.partition((field.nondiff, t, h), eqx.is_array)

    def arguments(diff: Any, nondiff: Any) -> tuple[LoopedField, Array, Array]:
        constants, t, h = eqx.combine(nondiff, rest)
        return LoopedField(field.make, diff, constants), t, h

    @jax.custom_vjp
    def slopes_of(diff: Any, y: Array, first: Array | None, nondiff: Any) -> tuple[Array, ...]:
        looped, t, h = arguments(diff, nondiff)
        slopes = [jnp.zeros_like(y)] * number
        slopes[:start] = [] if first is None else [first]

        def stage(slopes: tuple[Array, ...], row: _StageLoop) -> tuple[Any, None]:
            slope = looped(t + row.c * h, row.state(y, h, slopes))
            updated = [jnp.where(row.number == i, slope, k) for i, k in enumerate(slopes)]
            return tuple(updated), None

        return lax.scan(stage, tuple(slopes), _StageLoop.from_tableau(table, start, number, t, y))[
            0
        ]

    def forward_rule(diff: Any, y: Array, first: Array | None, nondiff: Any) -> Any:
        slopes = slopes_of(diff, y, first, nondiff)
        return slopes, (diff, y, nondiff, slopes)

    def backward_rule(residuals: Any, cts: tuple[Array, ...]) -> Any:
        diff, y, nondiff, slopes = residuals
        looped, t, h = arguments(diff, nondiff)
        rows = _StageLoop.from_tableau(table, start, number, t, y)
        cts, ct_y, ct_diff = _looped_cotangents(looped, rows, t, y, h, slopes, cts)
        return ct_diff, ct_y, cts[0] if start else None, None

    slopes_of.defvjp(forward_rule, backward_rule)
    return list(slopes_of(field.diff, y, first, nondiff))


def _looped_cotangents(
    field: LoopedField,
    rows: _StageLoop,
    t: Array,
    y: Array,
    h: Array,
    slopes: tuple[Array, ...],
    cts: tuple[Array, ...],
) -> tuple[tuple[Array, ...], Array, PyTree]:
    """The cotangents of the slopes, the state and `field.diff`, from those of the slopes."""

    def stage(carry: Any, row: _StageLoop) -> tuple[Any, None]:
        cts, ct_y, ct_diff = carry

        def slope(diff: Any, state: Array) -> Array:
            return LoopedField(field.make, diff, field.nondiff)(t + row.c * h, state)

        vjp = jax.vjp(slope, field.diff, row.state(y, h, slopes))[1]
        ct = cts[-1]
        for i, other in enumerate(cts[:-1]):
            ct = jnp.where(row.number == i, other, ct)
        contribution, ct_state = vjp(ct)
        scaled = h.astype(row.a.dtype) * ct_state
        cts = tuple(ct + a * scaled for ct, a in zip(cts, list(row.a), strict=True))
        return (cts, ct_y + ct_state, jax.tree.map(jnp.add, ct_diff, contribution)), None

    zeros = jax.tree.map(jnp.zeros_like, (y, field.diff))
    return lax.scan(stage, (cts, *zeros), rows, reverse=True)[0]
