"""Cotangents of what a batch saved, taken up on the way back by the steps that it was read off."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ...batch.checkpoints import IterationRow
from ...integrate.ensemble import values_in_lanes
from ...integrate.forward import Result
from ...integrate.ivp import direction_of
from ...integrate.save import StepRecord
from ...integrate.xla_loops import host_controls_loops, num_elements
from .backward_lanes import BatchBackwardState, LaneCotangents, LaneExchange
from .saved_values import SavePointAccumulator, SavePointCotangents


class BatchSavedValues(eqx.Module):
    """The cotangents of a batch's result, read by the lanes that come back."""

    lanes: LaneExchange
    cotangents: Result

    def of_steps(
        self,
        back: BatchBackwardState,
        row: IterationRow,
        rows: PyTree,
        steps: StepRecord,
        active: Array,
    ) -> tuple[BatchBackwardState, tuple[Array, Array, Any, Any]]:
        """Cotangents of what was saved of the steps: to their starts, ends, slopes and clocks."""
        zeros = jax.tree.map(jnp.zeros_like, (row.y, steps.y1, steps.dense))
        clock = (jnp.zeros_like(row.t), jnp.zeros_like(row.h)) if self.lanes.with_times else None
        ct, save = self.cotangents, self.lanes.ensemble.config.save
        number = jnp.minimum(row.numbers, self.lanes.ensemble.count - 1)

        def of(part: Array, place: Array) -> Array:
            return jnp.where(active, jnp.moveaxis(part[number, place], 0, -1), 0)

        if save == "steps" and ct.ys is not None:
            return back, (zeros[0], of(ct.ys, row.index + 1), zeros[2], clock)
        if save == "dense" and ct.dense is not None:
            none = (jnp.zeros_like(row.t), jnp.zeros_like(row.h), zeros[0], jnp.stack(zeros[2]))
            ct_t, ct_h, ct_y, ct_slopes = (
                zero if part is None else of(part, row.index)
                for part, zero in zip(ct.dense, none, strict=True)
            )
            return back, (ct_y, zeros[1], tuple(ct_slopes), (ct_t, ct_h) if clock else None)
        if save == "ts" and ct.ys is not None:
            return self.at_times(back, row, rows, steps, active, (zeros, clock))
        return back, (*zeros, clock)

    def at_times(
        self,
        back: BatchBackwardState,
        row: IterationRow,
        rows: PyTree,
        steps: StepRecord,
        active: Array,
        zeros: Any,
    ) -> tuple[BatchBackwardState, tuple[Array, Array, Any, Any]]:
        """The same for the times that the steps passed, the last first."""
        number = jnp.minimum(row.numbers, self.lanes.ensemble.count - 1)
        first, direction = self.span(number)

        def passed(saves_left: Array) -> Array:
            at = self.time(number, saves_left)
            # A first step has written the repeats of the first time too, all but the first row.
            more = (direction * (at - row.t) > 0) | (row.t == first)
            return active & (saves_left > 1) & more

        def pulled(saves_left: Array, mask: Array) -> Any:
            at = self.time(number, saves_left)
            if host_controls_loops():  # what was not passed is read where no interpolant overflows
                at = jnp.where(mask, at, row.t)

            def value(shared: PyTree, own: PyTree, parts: Any, clock: Any) -> PyTree:
                when, t, h = (at, steps.t, steps.h) if clock is None else clock
                y, y1, dense = parts
                step = steps._replace(t=t, h=h, y=y, y1=y1, dense=dense)
                ensemble, lanes = self.lanes.with_moving(shared, own, rows)
                return values_in_lanes(ensemble, lanes, when, saves_left == self.times, step)

            parts_now = row.y, steps.y1, steps.dense
            clock_now = (at, steps.t, steps.h) if self.lanes.with_times else None
            found, pull = jax.vjp(
                value, self.lanes.shared, self.lanes.own_of(rows), parts_now, clock_now
            )
            *more, ct_when = pull(self.ct_at(number, saves_left, mask, found))
            if ct_when is None:
                return (*more, None), None
            return (*more, ct_when[1:]), ct_when[0]

        def put(times: Array, saves_left: Array, mask: Array, ct: Array) -> Array:
            tile = self.lanes.tile
            put = tile.put if mask.ndim == 1 else tile.put_many
            return put(times, mask, (number, saves_left - 1), ct)

        totals = back.shared, back.lanes.per_trajectory, *zeros
        taking, start = (
            SavePointAccumulator(passed, pulled, put),
            SavePointCotangents(back.lanes.saves_left, totals, back.times),
        )
        count = self.lanes.ensemble.count
        size = num_elements(self.cotangents.ys, count * self.times) + num_elements(
            self.lanes.per_trajectory, count
        )
        size = size * self.lanes.tile.width + num_elements(self.lanes.shared)
        unread, (shared, own, parts, clock), times = taking.all(start, self.times - 1, size)
        lanes = back.lanes._replace(saves_left=unread, per_trajectory=own)
        back = back._replace(lanes=lanes, shared=shared, times=times)
        return back, (*parts, clock)

    def ct_at(self, number: Array, saves_left: Array, mask: Array, values: PyTree) -> PyTree:
        """Cotangents of the lanes' values at a time; zeros of what is no continuous number."""

        def one(ct: Array | None, value: Array) -> Array:
            if ct is None:
                return jnp.zeros_like(value)
            return jnp.where(mask, jnp.moveaxis(ct[number, saves_left - 1], 0, -1), 0)

        return jax.tree.map(one, self.cotangents.ys, values, is_leaf=lambda leaf: leaf is None)

    def inside(
        self, back: BatchBackwardState, row: IterationRow, active: Array
    ) -> Array | bool | None:
        """Whether dense output of a step was read."""
        save = self.lanes.ensemble.config.save
        if save == "dense" or self.lanes.ensemble.shared[0].events:
            return True
        if save != "ts":
            return None
        if not self.lanes.ensemble.config.method.solver.evaluations.dense:
            return True
        number = jnp.minimum(row.numbers, self.lanes.ensemble.count - 1)
        _, direction = self.span(number)
        at = self.time(number, jnp.maximum(back.lanes.saves_left, 1))
        return jnp.any(active & (direction * (at - row.t) > 0))

    def start(self, num_accepted: Array) -> Array | float:
        """Cotangent of the first states as they were saved."""
        ct, save = self.cotangents, self.lanes.ensemble.config.save
        if save in ("ends", "steps") and ct.ys is not None:
            return ct.ys[:, 0]
        if save == "dense" and ct.dense is not None and ct.dense[2] is not None:
            none = (num_accepted == 0).reshape((-1,) + (1,) * (ct.dense[2].ndim - 2))
            return jnp.where(none, ct.dense[2][:, 0], 0)  # a solve over no time
        return 0.0

    def at_first_time(self, value: PyTree, saves_left: Array) -> PyTree:
        """Cotangent of the value at the first time: of the rows that no step has written."""
        if self.lanes.ensemble.config.save != "ts":
            return ()
        here = (jnp.arange(self.times) < saves_left[:, None]) & self.lanes.good[:, None]
        return jax.tree.map(
            lambda c: jnp.sum(c, axis=1, where=here.reshape(here.shape + (1,) * (c.ndim - 2))),
            self.ct_ys(value),
        )

    def of_times(self, back: BatchBackwardState, ended: LaneCotangents, ct_t0: Array) -> Array:
        """Cotangents of the times of each trajectory."""
        ts = back.times.at[:, 0].add(ended.t + ct_t0).at[:, -1].add(ended.t1)
        if self.lanes.ensemble.config.save != "steps" or self.cotangents.ts is None:
            return ts
        return ts.at[:, 0].add(self.cotangents.ts[:, 0])

    def of_end(self, row: IterationRow, active: Array) -> Array | float:
        """Cotangent of the times at which the steps ended, where these were saved."""
        if self.lanes.ensemble.config.save != "steps" or self.cotangents.ts is None:
            return 0.0
        number = jnp.minimum(row.numbers, self.lanes.ensemble.count - 1)
        return jnp.where(active, self.cotangents.ts[number, row.index + 1], 0)

    def span(self, number: Array) -> tuple[Array, Array]:
        """First time and direction of the trajectories."""
        ts = self.lanes.ensemble.all_times
        if ts.ndim == 1:
            return ts[0], direction_of(ts)
        return ts[number, 0], jnp.sign(ts[number, -1] - ts[number, 0])

    def time(self, number: Array, saves_left: Array) -> Array:
        """The last of the `saves_left` times."""
        ts = self.lanes.ensemble.all_times
        return ts[saves_left - 1] if ts.ndim == 1 else ts[number, saves_left - 1]

    @property
    def times(self) -> int:
        """How many times a trajectory is saved at."""
        return self.lanes.ensemble.all_times.shape[-1]

    def ct_ys(self, value: PyTree) -> PyTree:
        """Cotangents of the saved values, zeros where there are none."""
        return jax.tree.map(
            lambda c, v: (
                jnp.zeros((v.shape[0], self.times, *v.shape[1:]), v.dtype) if c is None else c
            ),
            self.cotangents.ys,
            value,
            is_leaf=lambda leaf: leaf is None,
        )
