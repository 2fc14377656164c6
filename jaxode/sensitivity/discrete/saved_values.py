"""Pull-back of the values that a solve saved, to the steps that they were read from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ...integrate.forward import Result
from ...integrate.ivp import Save
from ...integrate.xla_loops import chunk_size, host_controls_loops, leading, masked_while
from .cotangents import BackwardState, ReplayedStep, StepCotangents, StepParts
from .layout import StepLayout


class SavePointTotals(NamedTuple):
    """Saved values that are left, the sum of what the others came to, and cotangents of times."""

    saves_left: Array
    totals: Any
    times: Any


class SavePointAccumulator(NamedTuple):
    """Sums the cotangents that come from the saved times that a step, or each lane's, passed.

    - `passed(saves_left)`: whether the last of the times that are left is one of them.
    - `pull_back(saves_left, mask)`: what the cotangent of the value at that time comes to, zeros
      where not in `mask`: the cotangents that are summed, and that of the time, or None.
    - `put(times, saves_left, mask, cotangent)`: `times` with the latter.
    """

    passed: Callable[[Array], Array]
    pull_back: Callable[[Array, Array], tuple[Any, Any]]
    put: Callable[[Any, Array, Array, Any], Any]

    def all(self, start: SavePointTotals, rows: int, size: int) -> SavePointTotals:
        """The sum over all times passed, of at most `rows`; each works on `size` numbers."""
        if not host_controls_loops():
            return self.one_by_one(start)
        return self.in_chunks(start, chunk_size(rows, size), rows)

    def one_by_one(self, start: SavePointTotals) -> SavePointTotals:
        """The sum over all times passed, one time in each iteration."""

        def add_one(state: tuple[Array, SavePointTotals]) -> tuple[Array, SavePointTotals]:
            mask, (saves_left, totals, times) = state
            terms, ct_time = self.pull_back(saves_left, mask)
            if ct_time is not None:
                times = self.put(times, saves_left, mask, ct_time)
            saves_left = jnp.where(mask, saves_left - 1, saves_left)
            totals = jax.tree.map(jnp.add, totals, terms)
            return self.passed(saves_left), SavePointTotals(saves_left, totals, times)

        return self._while_passed(add_one, start, at_once=False)

    def in_chunks(self, start: SavePointTotals, many: int, rows: int) -> SavePointTotals:
        """The sum over all times passed, `many` in each iteration; one if these are all `rows`."""

        def add_chunk(state: tuple[Array, SavePointTotals]) -> tuple[Array, SavePointTotals]:
            _, (saves_left, totals, times) = state
            ahead = jnp.arange(many, dtype=jnp.int32).reshape(-1, *[1] * saves_left.ndim)
            each = saves_left - ahead
            mask, passed = leading(self.passed(each))
            terms, ct_time = jax.vmap(self.pull_back)(each, mask)
            if ct_time is not None:
                times = self.put(times, each, mask, ct_time)
            saves_left = saves_left - passed.astype(saves_left.dtype)
            totals = jax.tree.map(lambda a, b: a + jnp.sum(b, axis=0), totals, terms)
            return self.passed(saves_left), SavePointTotals(saves_left, totals, times)

        return self._while_passed(add_chunk, start, at_once=many == rows)

    def _while_passed(
        self, body: Callable, start: SavePointTotals, at_once: bool
    ) -> SavePointTotals:
        state = self.passed(start.saves_left), start
        return masked_while(lambda s: jnp.any(s[0]), body, state, at_once)[1]


class SavedValuesVJP(eqx.Module):
    """Pulls the cotangents of saved values back to the steps that they were read from."""

    cotangents: Result

    def pull_back(
        self,
        layout: StepLayout,
        back: BackwardState,
        step: ReplayedStep,
        again: Array | None = None,
    ) -> tuple[BackwardState, StepCotangents]:
        """Cotangents of a step, from those of what was saved of it; `again` as in `StepLayout`."""
        ct, save = self.cotangents, layout.config.save
        zeros = StepCotangents.zeros(layout, step)
        if save == "steps" and ct.ys is not None:
            end = layout.active_only(layout.row(ct.ys, step.index + 1))
            return back, zeros._replace(parts=(zeros.parts[0], end, zeros.parts[2]))
        if save == "dense" and ct.dense is not None:
            return back, self.of_dense_output(layout, step, ct.dense, zeros)
        if save == "ts" and ct.ys is not None:
            return self.of_values_at_times(layout, back, step, zeros, again)
        return back, zeros

    def of_dense_output(
        self, layout: StepLayout, step: ReplayedStep, ct_record: Any, zeros: StepCotangents
    ) -> StepCotangents:
        """Cotangents of a step, from those of its record `(t, h, y, slopes)`."""
        ct_y, ct_y1, ct_dense = zeros.parts
        none = jnp.zeros_like(step.t), jnp.zeros_like(step.h), ct_y, jnp.stack(ct_dense)
        ct_t, ct_h, ct_y, ct_slopes = (
            zero if ct is None else layout.active_only(layout.row(ct, step.index))
            for ct, zero in zip(ct_record, none, strict=True)
        )
        clock = (ct_t, ct_h) if layout.with_times else None
        return StepCotangents((ct_y, ct_y1, tuple(ct_slopes)), clock)

    def of_values_at_times(
        self,
        layout: StepLayout,
        back: BackwardState,
        step: ReplayedStep,
        zeros: StepCotangents,
        again: Array | None,
    ) -> tuple[BackwardState, StepCotangents]:
        """Cotangents of a step, from those of the values at the times it passed, the last first."""
        diff = None if layout.problem.save_fn is None else layout.diff
        first = step.t == layout.saved_time(0)
        h = layout.update(step.h, 1)  # what is read in inactive lanes is not used

        def passed(saves_left: Array) -> Array:
            ahead = layout.is_read_after(layout.saved_time(saves_left - 1), step.t, again)
            # The first step has written the repeats of the first time too, all but the first row.
            return layout.active_and((saves_left > 1) & (ahead | first))

        def pull_back(saves_left: Array, mask: Array) -> Any:
            time = layout.saved_time(saves_left - 1)
            if host_controls_loops():  # a time not passed is read where no interpolant overflows
                time = jnp.where(mask, time, step.t)

            def saved_value(diff: PyTree, parts: StepParts, clock: Any) -> PyTree:
                at, t_step, h_step = (time, step.t, h) if clock is None else clock
                last = saves_left == layout.num_times
                return layout.value_at(diff, at, last, (t_step, h_step), parts)

            clock = (time, step.t, h) if layout.with_times else None
            values, pull = jax.vjp(saved_value, diff, step.parts, clock)
            ct_diff, ct_parts, ct_clock = pull(self.of_values(layout, saves_left, mask, values))
            ct_time, ct_clock = (None, None) if ct_clock is None else (ct_clock[0], ct_clock[1:])
            return (ct_diff, StepCotangents(ct_parts, ct_clock)), ct_time

        def put(times: Array, saves_left: Array, mask: Array, ct: Array) -> Array:
            return layout.add_time_cotangents(times, mask, saves_left - 1, ct)

        totals = None if diff is None else back.diff, zeros
        size = layout.save_point_size(self.cotangents.ys, diff)
        saves_left, (ct_diff, ct_step), times = SavePointAccumulator(passed, pull_back, put).all(
            SavePointTotals(back.saves_left, totals, back.times), layout.num_times - 1, size
        )
        back = back._replace(saves_left=saves_left, times=times)
        return back if diff is None else back._replace(diff=ct_diff), ct_step

    def of_values(
        self, layout: StepLayout, saves_left: Array, mask: Array, values: PyTree
    ) -> PyTree:
        """Cotangents of the values at a time; zeros of those that are no continuous numbers."""

        def of_value(ct: Array | None, value: Array) -> Array:
            if ct is None:
                return jnp.zeros_like(value)
            return jnp.where(mask, layout.row(ct, saves_left - 1), 0)

        return jax.tree.map(of_value, self.cotangents.ys, values, is_leaf=lambda ct: ct is None)

    def of_end_time(self, layout: StepLayout, step: ReplayedStep) -> Array | float:
        """The cotangent of the time at which a step ended, where it was saved."""
        if layout.config.save != "steps" or self.cotangents.ts is None:
            return 0.0
        return layout.active_only(layout.row(self.cotangents.ts, step.index + 1))

    def needs_dense(self, layout: StepLayout, saves_left: Array, t: Array) -> Array | bool | None:
        """True if dense output of the step from `t` was read; None for no dense output."""
        save = layout.config.save
        if save == "dense" or layout.problem.events:
            return True
        if save != "ts":
            return None
        if not layout.config.method.solver.evaluations.dense:
            return True
        time = layout.saved_time(jnp.maximum(saves_left - 1, 0))
        return jnp.any(layout.active_and(layout.is_read_after(time, t)))


# Cotangents at both ends of one trajectory; `jax.vmap` makes them those of many.


def last_state_cotangent(save: Save, y0: Array, y1: Array | None, ys: PyTree) -> Array:
    """The cotangent of the last state, from those of the result's `y1` and `ys`."""
    end = jnp.zeros_like(y0) if y1 is None else y1
    return end + ys[1] if save == "ends" and ys is not None else end


def add_first_state_cotangent(
    save: Save, y0: Array, ys: PyTree, dense: Any, num_accepted: Array
) -> Array:
    """`y0`, with the cotangent of the first state as it was saved in `ys` or `dense` added."""
    if save in ("ends", "steps") and ys is not None:
        return y0 + ys[0]
    if save == "dense" and dense is not None and dense[2] is not None:
        return y0 + jnp.where(num_accepted == 0, dense[2][0], 0)  # a solve over no time
    return y0


def first_value_cotangent(save: Save, ct_ys: PyTree, value: PyTree, saves_left: Array) -> PyTree:
    """The cotangent of the value at the first time: the sum of the rows that no step has written.

    There is more than one of them where times are repeated, or where a solve took no step.
    """
    if save != "ts" or ct_ys is None:
        return jax.tree.map(jnp.zeros_like, value)

    def of_value(ct: Array | None, value: Array) -> Array:
        return jnp.zeros_like(value) if ct is None else sum_unwritten(ct, saves_left)

    return jax.tree.map(of_value, ct_ys, value, is_leaf=lambda ct: ct is None)


def sum_unwritten(ct: Array, saves_left: Array) -> Array:
    """The sum of the first `saves_left` rows."""
    unwritten = jnp.arange(ct.shape[0], dtype=jnp.int32) < saves_left
    return jnp.sum(ct, axis=0, where=unwritten.reshape((-1,) + (1,) * (ct.ndim - 1)))
