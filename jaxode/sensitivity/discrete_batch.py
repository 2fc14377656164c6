"""The discrete adjoint of a batch: its log replayed backwards, all lanes of a turn with one vjp.

What the trajectories share has one cotangent, which is summed over the lanes inside each vjp; what
each has for itself is carried in its lane, and written when the replay comes to its first step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..batch import lanes as tiles
from ..batch.lanes import Tile
from ..batch.log import Log, Logger, Row
from ..batch.run import Ensemble, Run, method_in_lanes, values_in_lanes
from ..forward import Result, direction_of, packed_field, reading
from ..fuse import in_one_piece, once
from ..record import Step
from ..solution import Status
from .batch import cotangent, safe, spoiled, without
from .one_way import forwards_after
from .returning import Back, Lane, Returning
from .walking import returned


@eqx.filter_custom_vjp
def replayed_in_lanes(
    ensemble: Ensemble, tile: Tile, states: bool, memory: int | str | None = None
) -> Result:
    """Run all of `ensemble`; its gradient replays the steps.

    `states`: whether it finds their states stored, or by steps back; `memory`: how many, as
    `Discrete` has it.
    """
    run = Run(ensemble, tile)
    return run.close(tiles.run(run.work(), tile, (run.open(), None)))


@replayed_in_lanes.def_fwd
@forwards_after
def _forward(
    perturbed: PyTree,
    ensemble: Ensemble,
    tile: Tile,
    states: bool,
    memory: int | str | None = None,
) -> tuple[Result, Any]:
    result, log = Logger.of(ensemble, tile, states, memory).run()
    # `perturbed` rides along as Python booleans, which stay static through a jitted gradient.
    return result, (log, result.status, result.stats.num_accepted, perturbed)


@replayed_in_lanes.def_bwd
@forwards_after
def _backward(
    residuals: Any,
    cotangents: Result,
    _: PyTree,
    ensemble: Ensemble,
    tile: Tile,
    states: bool,
    memory: int | str | None = None,
) -> PyTree:
    log, status, num_accepted, perturbed = residuals
    residuals = log, status == Status.SUCCESS
    replay = _Replay.of(perturbed, ensemble, tile, cotangents, residuals)
    return replay.finish(replay.log(log), num_accepted, perturbed)


class _Replay(eqx.Module):
    """The backward pass; `as_run` is the ensemble with the failures that there were."""

    lanes: Returning
    as_run: Ensemble
    cotangents: Result

    @classmethod
    def of(
        cls, perturbed: PyTree, ensemble: Ensemble, tile: Tile, cotangents: Result, residuals: Any
    ) -> "_Replay":
        """The pass for these cotangents; `residuals` are the log and what went well."""
        log, good = residuals
        with_times = bool(perturbed.own[0].ts) or bool(perturbed.shared[0].ts)
        own = eqx.filter(ensemble.own, without(perturbed.own, y0=False, ts=False))
        shared = eqx.filter(ensemble.shared, without(perturbed.shared, ts=False))
        end = jnp.zeros_like(ensemble.own[0].y0) if cotangents.y1 is None else cotangents.y1
        if ensemble.plan.save == "ends" and cotangents.ys is not None:
            end = end + cotangents.ys[:, 1]
        if log.ends:
            carry = jax.tree.map(lambda x: jnp.zeros_like(x[0]), log.ends[1])
        else:
            carry = jax.tree.map(lambda x: jnp.zeros(x.shape[1:-1], x.dtype), log.rows.carry)
        calm = safe(ensemble, good)
        lanes = Returning(own, shared, calm, tile, good, end, carry, with_times, log.ends)
        return cls(lanes, ensemble, cotangents)

    def log(self, log: Log) -> Back:
        """Replay every turn, the last first."""
        # Written again with the failures that there were: they took their turns.
        logger = Logger.like(log, self.as_run, self.lanes.tile)

        def segment(state: tuple[Array, Row, Back]) -> tuple[Array, Row, Back]:
            number, rows, back = state
            rows, count = logger.again(log._replace(rows=rows), number)

            def one(state: tuple[Array, Back]) -> tuple[Array, Back]:
                n = state[0] - 1
                return n, self.turn(state[1], jax.tree.map(lambda b: b[n], rows))

            back = lax.while_loop(lambda s: s[0] > 0, once(one), (count, back))[1]
            return number - 1, rows, back

        def whole(back: Back) -> Back:
            start = log.segments - 1, log.rows, self.lanes.blank()._replace(results=back.results)
            return lax.while_loop(lambda s: s[0] >= 0, segment, start)[2]

        return in_one_piece(whole, self.lanes.blank())

    def turn(self, back: Back, row: Row) -> Back:
        """Pull the cotangents of one turn's lanes back over their steps."""
        back = self.lanes.exchange(back, row.numbers)
        lanes = back.lanes
        # A lane that holds another trajectory than its row is one whose cotangents stay.
        active = (row.numbers == back.numbers) & (row.h != 0)
        ends = lanes.place
        if ends:
            row, lanes = self.stepped_back(row, lanes, active)
            back = back._replace(lanes=lanes)
        present = row.numbers == back.numbers
        row, rows = self.sane(row, lanes.rows, present)
        inside = self.inside(back, row, active)
        solver = method_in_lanes(self.lanes.ensemble, rows).stepper

        def advance(shared: PyTree, own: PyTree, y: Array, carry: Any, clock: Any) -> Any:
            t, h = (row.t, row.h) if clock is None else clock
            field = self.field(shared, own, rows)
            step = solver.step
            if ends:
                end = jnp.where(present, ends[0], row.y)
                step = functools.partial(solver.step_to, y1=end)
            stepped = step(field, t, y, h, carry, inside)
            return stepped.y1, stepped.dense, stepped.carry

        clock = (row.t, row.h) if self.lanes.with_times else None
        (y1, dense, _), pull = jax.vjp(
            advance, self.lanes.shared, self.own_of(rows), row.y, row.carry, clock
        )
        h = jnp.where(active, row.h, 1)  # what is read between the others is not used
        steps = Step(row.t, h, row.t, h, row.y, y1, dense, row.carry, row.numbers, active)
        back, (ct_y, ct_y1, ct_dense, ct_clock) = self.values(back, row, rows, steps, active)
        end = jnp.where(active, back.lanes.y, 0) + ct_y1
        carry = jax.tree.map(lambda c: jnp.where(active, c, 0), back.lanes.carry)
        shared, own, y, carry, ct_step = pull((end, ct_dense, carry))
        lanes = back.lanes
        lanes = lanes._replace(
            y=jnp.where(active, y + ct_y, lanes.y),
            carry=jax.tree.map(lambda a, b: jnp.where(active, a, b), carry, lanes.carry),
            own=jax.tree.map(jnp.add, lanes.own, own),
            fresh=lanes.fresh & ~active,
            **self.clock(back.lanes, ct_clock, ct_step, active),
        )
        return back._replace(lanes=lanes, shared=jax.tree.map(jnp.add, back.shared, shared))

    def stepped_back(self, row: Row, lanes: Lane, active: Array) -> tuple[Row, Lane]:
        """The row with the states that its steps began at, and the lanes there."""
        ensemble, (y1, carry1) = self.lanes.ensemble, lanes.place
        solver = method_in_lanes(ensemble, lanes.rows).stepper
        field = Run(ensemble, self.lanes.tile).field(lanes.rows)
        place = solver.step_back(field, row.t, y1, row.h, carry1)
        place = jax.tree.map(lambda a, b: jnp.where(active, a, b), place, lanes.place)
        return row._replace(y=place[0], carry=place[1]), lanes._replace(place=place)

    def clock(self, lanes: Lane, ct_clock: Any, ct_step: Any, active: Array) -> dict[str, Array]:
        """Cotangents of the first and last time, with those of a step's start and size."""
        if not self.lanes.with_times:
            return {}
        ct_t, ct_h = jax.tree.map(jnp.add, ct_clock, ct_step)
        ct_t, ct_h = jnp.where(active, ct_t, 0), jnp.where(active & lanes.fresh, ct_h, 0)
        # Every step starts later if t0 does; the last alone is as long as the rest leaves it.
        return {"t0": lanes.t0 + ct_t - ct_h, "t1": lanes.t1 + ct_h}

    def sane(self, row: Row, rows: PyTree, present: Array) -> tuple[Row, PyTree]:
        """The row with a harmless trajectory's start in the lanes that are not `present`.

        Their cotangents are zero, but zero times NaN is NaN, in every sum over lanes.
        """
        (problem, plan), first = self.reference()
        carry = plan.method.stepper.init(packed_field(problem, plan), problem.ts[0], problem.y0)
        lane = jax.tree.map(
            lambda a, b: jnp.where(present, a, b[..., None]),
            (row.t, row.y, row.carry, rows),
            (problem.ts[0], problem.y0, carry, first),
        )
        t, y, carry, rows = lane
        # A short step instead of none: implicit solvers divide by it.
        h = jnp.where(present & (row.h != 0), row.h, jnp.finfo(row.h.dtype).eps ** 2)
        return row._replace(t=t, y=y, carry=carry, h=h), rows

    def reference(self) -> tuple[tuple[Any, Any], PyTree]:
        """A trajectory that went well, and its rows without state and times."""
        rows = jax.tree.map(lambda x: x[jnp.argmax(self.lanes.good)], self.lanes.ensemble.own)
        return self.lanes.ensemble.one(rows), (
            dataclasses.replace(rows[0], y0=None, ts=None),
            rows[1],
        )

    def values(
        self, back: Back, row: Row, rows: PyTree, steps: Step, active: Array
    ) -> tuple[Back, tuple[Array, Array, Any, Any]]:
        """Cotangents of what was saved of the steps: to their starts, ends, slopes and clocks."""
        zeros = jax.tree.map(jnp.zeros_like, (row.y, steps.y1, steps.dense))
        clock = (jnp.zeros_like(row.t), jnp.zeros_like(row.h)) if self.lanes.with_times else None
        ct, save = self.cotangents, self.lanes.ensemble.plan.save
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
            return self.values_at_times(back, row, rows, steps, active, (zeros, clock))
        return back, (*zeros, clock)

    def values_at_times(
        self, back: Back, row: Row, rows: PyTree, steps: Step, active: Array, zeros: Any
    ) -> tuple[Back, tuple[Array, Array, Any, Any]]:
        """The same for the times that the steps passed, the last first."""
        number = jnp.minimum(row.numbers, self.lanes.ensemble.count - 1)
        first, direction = self.span(number)

        def passed(unread: Array) -> Array:
            at = self.time(number, unread)
            # A first step has written the repeats of the first time too, all but the first row.
            more = (direction * (at - row.t) > 0) | (row.t == first)
            return active & (unread > 1) & more

        def one(state: Any) -> Any:
            mask, unread, (shared, own, parts, clock), times = state
            at = self.time(number, unread)

            def value(shared: PyTree, own: PyTree, parts: Any, clock: Any) -> PyTree:
                when, t, h = (at, steps.t, steps.h) if clock is None else clock
                y, y1, dense = parts
                step = steps._replace(t=t, h=h, y=y, y1=y1, dense=dense)
                ensemble, lanes = self.with_moving(shared, own, rows)
                return values_in_lanes(ensemble, lanes, when, unread == self.times, step)

            parts_now = row.y, steps.y1, steps.dense
            clock_now = (at, steps.t, steps.h) if self.lanes.with_times else None
            _, pull = jax.vjp(value, self.lanes.shared, self.own_of(rows), parts_now, clock_now)
            ct = jax.tree.map(
                lambda c: jnp.where(mask, jnp.moveaxis(c[number, unread - 1], 0, -1), 0),
                self.ct_ys,
            )
            *more, ct_when = pull(ct)
            if self.lanes.with_times:
                times = self.lanes.tile.put(times, mask, (number, unread - 1), ct_when[0])
                ct_when = ct_when[1:]
            totals = jax.tree.map(jnp.add, (shared, own, parts, clock), (*more, ct_when))
            unread = jnp.where(mask, unread - 1, unread)
            return passed(unread), unread, totals, times

        (zero_parts, zero_clock), unread = zeros, back.lanes.unread
        start = (
            passed(unread),
            unread,
            (back.shared, back.lanes.own, zero_parts, zero_clock),
            back.times,
        )
        _, unread, (shared, own, parts, clock), times = lax.while_loop(
            lambda s: jnp.any(s[0]), one, start
        )
        lanes = back.lanes._replace(unread=unread, own=own)
        back = back._replace(lanes=lanes, shared=shared, times=times)
        return back, (*parts, clock)

    def inside(self, back: Back, row: Row, active: Array) -> Array | bool | None:
        """Whether dense output of a step was read."""
        save = self.lanes.ensemble.plan.save
        if save != "ts":
            return True if save == "dense" else None
        if not self.lanes.ensemble.plan.method.solver.evaluations.inside:
            return True
        number = jnp.minimum(row.numbers, self.lanes.ensemble.count - 1)
        _, direction = self.span(number)
        at = self.time(number, jnp.maximum(back.lanes.unread, 1))
        return jnp.any(active & (direction * (at - row.t) > 0))

    def finish(self, back: Back, num_accepted: Array, perturbed: PyTree) -> PyTree:
        """The cotangent of the ensemble, from those at the first times."""
        ended = self.lanes.results(back)
        own = self.lanes.ensemble.own
        t0 = jax.vmap(lambda rows: self.lanes.ensemble.ts(rows)[0])(own)

        def begin(shared: PyTree, moving: PyTree, y: Array, t: Array) -> Any:
            def one(moving: PyTree, rows: PyTree, y: Array, t: Array) -> Any:
                ensemble, rows = self.with_moving(shared, moving, rows)
                problem, plan = ensemble.one(rows)
                carry = plan.method.stepper.init(packed_field(problem, plan), t, y)
                value = reading(problem, plan).fn(t, y) if plan.save == "ts" else ()
                return carry, value

            return jax.vmap(one)(moving, own, y, t)

        (_, value), pull = jax.vjp(begin, self.lanes.shared, self.lanes.own, own[0].y0, t0)
        shared, moving, y0, ct_t0 = pull((ended.carry, self.ct_first(value, ended.unread)))
        shared, moving = jax.tree.map(jnp.add, (back.shared, ended.own), (shared, moving))
        y0 = y0 + ended.y + self.ct_start(num_accepted)
        ts = self.ct_ts(back, ended, ct_t0, num_accepted) if self.lanes.with_times else None
        good = self.lanes.good
        if ended.place:
            home = jax.vmap(returned)(ended.place[0], own[0].y0, self.lanes.places[0])
            good = good & home
        lost = spoiled(self.cotangents, good)
        ct = cotangent(self.lanes.ensemble, moving, shared, y0, ts, good, lost)
        return eqx.filter(ct, perturbed)

    def ct_start(self, num_accepted: Array) -> Array | float:
        """Cotangent of the first states as they were saved."""
        ct, save = self.cotangents, self.lanes.ensemble.plan.save
        if save in ("ends", "steps") and ct.ys is not None:
            return ct.ys[:, 0]
        if save == "dense" and ct.dense is not None and ct.dense[2] is not None:
            none = (num_accepted == 0).reshape((-1,) + (1,) * (ct.dense[2].ndim - 2))
            return jnp.where(none, ct.dense[2][:, 0], 0)  # a solve over no time
        return 0.0

    def ct_first(self, value: PyTree, unread: Array) -> PyTree:
        """Cotangent of the value at the first time: of the rows that no step has written."""
        if self.lanes.ensemble.plan.save != "ts":
            return ()
        here = (jnp.arange(self.times) < unread[:, None]) & self.lanes.good[:, None]
        return jax.tree.map(
            lambda c: jnp.sum(c, axis=1, where=here.reshape(here.shape + (1,) * (c.ndim - 2))),
            self.ct_ys_like(value),
        )

    def ct_ts(self, back: Back, ended: Lane, ct_t0: Array, num_accepted: Array) -> Array:
        """Cotangents of the times of each trajectory."""
        ts = back.times.at[:, 0].add(ended.t0 + ct_t0).at[:, -1].add(ended.t1)
        if self.lanes.ensemble.plan.save != "steps" or self.cotangents.ts is None:
            return ts
        returned = jax.vmap(times_returned, in_axes=(0, 0, None))
        return ts + returned(self.cotangents.ts, num_accepted, self.times)

    def with_moving(self, shared: PyTree, own: PyTree, rows: PyTree) -> tuple[Ensemble, PyTree]:
        """The ensemble and rows, with differentiated arrays in the place of its own."""
        ensemble = Ensemble(
            self.lanes.ensemble.own, eqx.combine(shared, self.lanes.ensemble.shared)
        )
        return ensemble, eqx.combine(own, rows)

    def field(self, shared: PyTree, own: PyTree, rows: PyTree) -> Callable[..., Array]:
        """The field on lanes."""
        ensemble, rows = self.with_moving(shared, own, rows)
        return Run(ensemble, self.lanes.tile).field(rows)

    def own_of(self, rows: PyTree) -> PyTree:
        """What is differentiated of the lanes' own rows."""
        return eqx.filter(
            rows, jax.tree.map(lambda x: x is not None, self.lanes.own, is_leaf=_is_none)
        )

    def span(self, number: Array) -> tuple[Array, Array]:
        """First time and direction of the trajectories."""
        ts = self.lanes.ensemble.all_times
        if ts.ndim == 1:
            return ts[0], direction_of(ts)
        return ts[number, 0], jnp.sign(ts[number, -1] - ts[number, 0])

    def time(self, number: Array, unread: Array) -> Array:
        """The last of the `unread` times."""
        ts = self.lanes.ensemble.all_times
        return ts[unread - 1] if ts.ndim == 1 else ts[number, unread - 1]

    @property
    def times(self) -> int:
        return self.lanes.ensemble.all_times.shape[-1]

    @property
    def ct_ys(self) -> PyTree:
        return self.cotangents.ys

    def ct_ys_like(self, value: PyTree) -> PyTree:
        """Cotangents of the saved values, zeros where there are none."""
        return jax.tree.map(
            lambda c, v: (
                jnp.zeros((v.shape[0], self.times, *v.shape[1:]), v.dtype) if c is None else c
            ),
            self.cotangents.ys,
            value,
            is_leaf=_is_none,
        )


def times_returned(ct: Array, total: Array, times: int) -> Array:
    """Cotangent of `ts` through the times of steps: all but the last move with the first."""
    zeros, rows = jnp.zeros((times,), ct.dtype), jnp.arange(ct.shape[0])
    first = jnp.sum(ct, where=(rows < total) | (rows == 0))
    return zeros.at[0].add(first).at[-1].add(jnp.where(total > 0, ct[total], 0))


def _is_none(x: Any) -> bool:
    return x is None
