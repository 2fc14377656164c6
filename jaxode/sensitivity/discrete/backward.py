"""The backward pass of one solve: every step replayed with one vjp, the last first."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.forward import Result
from ...integrate.ivp import direction_of, step_reader
from ...integrate.save import put_row
from ...integrate.xla_loops import host_controls_loops, num_elements
from ...problem.status import Status
from ..batch_cotangents import nan_unless
from ..cse import cse
from .checkpoints import CheckpointTrace
from .event_vjp import PostEventState
from .events import EventCotangents, EventVJP
from .reversible_steps import roundtrip_ok, when
from .saved_values import SavePointAccumulator, SavePointCotangents
from .stage_residuals import restored
from .step_vjp import StepVJP


class BackwardState(NamedTuple):
    """What the backward pass carries: cotangents, and how many saved times are yet to be read.

    `t` is that of the time at which the last step ended; `events` counts those yet to be read.
    """

    y: Array
    solver_state: Any
    moving: PyTree
    ts: Array | None
    saves_left: Array
    t: Array | None
    events: Any


class _KeptStates(NamedTuple):
    """States that are kept, and the step that each is the start of; -1 where there is none."""

    steps: Array
    states: tuple[Array, Any]


class _StepBackState(NamedTuple):
    """The state and carry that steps back have led to."""

    y: Array
    solver_state: Any


class DiscreteBackward(eqx.Module):
    """The backward pass over one trace; it `walks` where the states are found by steps back."""

    part: StepVJP
    trace: CheckpointTrace
    cotangents: Result
    met: EventVJP | None
    walks: bool = eqx.field(static=True)

    def start(self, status: Array) -> BackwardState:
        """The cotangents at the last time; NaN if it was not reached."""
        ct, y0 = self.cotangents, self.part.problem.y0
        y = jnp.zeros_like(y0) if ct.y1 is None else ct.y1
        if self.part.config.save == "ends" and ct.ys is not None:
            y = y + ct.ys[1]
        carry = jax.eval_shape(
            lambda: self.part.config.method.stepper.init(self.part.field(self.t0), self.t0, y0)
        )
        return BackwardState(
            y=nan_unless(status == Status.SUCCESS, y),
            solver_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carry),
            moving=jax.tree.map(jnp.zeros_like, self.part.moving),
            ts=jnp.zeros_like(self.part.problem.ts) if self.part.with_times else None,
            saves_left=jnp.int32(self.part.problem.ts.shape[0]),
            t=jnp.zeros_like(self.t0) if self.part.with_times else None,
            events=() if self.met is None else self.met.count,
        )

    def steps(self, back: BackwardState, num_accepted: Array) -> BackwardState:
        """DiscreteBackward every step, the last first."""
        before, place = self.source()

        def one(state: tuple[Array, Any, BackwardState]) -> tuple[Array, Any, BackwardState]:
            n, place, back = state[0] - 1, *state[1:]
            clock = when(self.trace, self.part.config, self.part.problem.ts, n, num_accepted)
            end = place.y if isinstance(place, _StepBackState) else None
            y, carry, place = before(n, clock, place)
            return n, place, self.step(back, n, (y, carry, *clock), num_accepted, end)

        start = num_accepted, place, back
        _, place, back = lax.while_loop(lambda s: s[0] > 0, cse(one), start)
        if not isinstance(place, _StepBackState):
            return back
        home = roundtrip_ok(place.y, self.part.problem.y0, self.trace.y)
        found = back.y, back.moving, back.ts
        y, moving, ts = jax.tree.map(lambda x: nan_unless(home, x), found)
        return back._replace(y=y, moving=moving, ts=ts)

    def source(self) -> tuple[Callable[[Array, Any, Any], tuple[Array, Any, Any]], Any]:
        """Where the state before each step comes from, and what that begins with."""
        trace = self.trace
        if trace.thinning is not None:
            return self.rebuilt, _KeptStates(trace.thinning.steps, (trace.y, trace.solver_state))
        if self.walks:
            return self.walked_back, _StepBackState(trace.y, trace.solver_state)
        return self.stored, ()

    def stored(self, n: Array, clock: Any, place: Any) -> tuple[Array, Any, Any]:
        """The state before step `n`, which was kept."""
        y, carry = jax.tree.map(lambda b: b[n], (self.trace.y, self.trace.solver_state))
        return y, carry, place

    def walked_back(
        self, n: Array, clock: Any, place: _StepBackState
    ) -> tuple[Array, Any, _StepBackState]:
        """The state that the solver's step back leads to, from the one after step `n`."""
        solver, (t, h) = self.part.config.method.stepper, clock
        y, carry = solver.step_back(self.part.field(t), t, place.y, h, place.solver_state)
        return y, carry, _StepBackState(y, carry)

    def rebuilt(self, n: Array, clock: Any, kept: _KeptStates) -> tuple[Array, Any, _KeptStates]:
        """The state before step `n`, run again from the last one kept before it.

        The rows of later steps are free: they take states on the way, evenly spaced.
        """
        trace, solver = self.trace, self.part.config.method.stepper.for_forward_mode()
        row = jnp.argmax(jnp.where(kept.steps <= n, kept.steps, -1))
        begin = kept.steps[row]
        y, carry = jax.tree.map(lambda b: b[row], kept.states)
        kept_carry = bool(jax.tree.leaves(carry))
        if not kept_carry:
            carry = solver.init(self.part.field(trace.t[begin]), trace.t[begin], y)
        free = jnp.sum((kept.steps > n) | (kept.steps < 0))
        stride = (n - begin) // (free + 1) + 1

        def again(state: tuple) -> tuple:
            i, y, carry, (steps, states) = state
            t, h, inside = trace.t[i], trace.h[i], True if self.part.problem.events else None
            stepped = solver.step(self.part.field(t), t, y, h, carry, inside)
            after = stepped.y1, stepped.solver_state
            if self.met is not None:
                after = self.met.resumed(i, t, h, y, stepped)
            i, (y, carry) = i + 1, after
            due, row = (i - begin) % stride == 0, jnp.argmax((steps > n) | (steps < 0))
            states = jax.tree.map(
                lambda b, v: put_row(b, jnp.where(due, v, b[row]), row),
                states,
                (y, carry if kept_carry else ()),
            )
            steps = steps.at[row].set(jnp.where(due, i, steps[row]))
            return i, y, carry, _KeptStates(steps, states)

        _, y, carry, kept = lax.while_loop(lambda s: s[0] < n, again, (begin, y, carry, kept))
        return y, carry if kept_carry else (), kept

    def step(
        self, back: BackwardState, n: Array, start: tuple, total: Array, end: Array | None = None
    ) -> BackwardState:
        """Pull the cotangents at the end of step `n`, `end` if known, back to its `start`."""
        y, carry, t, h = start
        if not jax.tree.leaves(carry):
            carry = self.part.config.method.stepper.init(self.part.field(t), t, y)
        at = (y, carry, t, h, self.inside(back, t))
        kept = jax.tree.map(lambda b: b[n], self.trace.residuals)
        (y1, dense, _), pull = (
            restored(self.part, at, kept) if kept else self.part.pull(at, end)[:2]
        )
        back, (ct_y, ct_y1, ct_dense, ct_clock) = self.values(back, n, t, h, y, y1, dense)
        ts, behind = back.ts, PostEventState(back.t, back.y, back.solver_state)
        drawn = (n == total - 1) & self.drawn
        if ts is not None and self.part.config.save == "steps" and self.cotangents.ts is not None:
            behind = behind._replace(t=behind.t + self.cotangents.ts[n + 1])
        if self.met is not None:
            # What was saved of a step's end is where an event cut it.
            cut = self.met.cut(n) & (self.part.config.save == "steps")
            ct_end, ct_y1 = jnp.where(cut, ct_y1, 0), jnp.where(cut, 0, ct_y1)
            parts = y, y1, dense
            unread, behind, more = self.met.pulled(back.events, n, behind, ct_end, parts, (t, h))
            so_far = EventCotangents(back.moving, (ct_y, ct_y1, ct_dense), ct_clock)
            moving, (ct_y, ct_y1, ct_dense), ct_clock = jax.tree.map(jnp.add, so_far, more)
            back = back._replace(events=unread, moving=moving)
        moving, ct_start, ct_carry, ct_step = pull(
            (behind.y + ct_y1, ct_dense, behind.solver_state)
        )
        ct_before = None
        if ts is not None:
            ct_t, ct_h = jax.tree.map(jnp.add, ct_clock, ct_step)
            # A step starts as much later as the one before; the last is what the rest leaves it.
            to_jump, to_last = (False, drawn) if self.met is None else self.met.aimed(t, h)
            ct_h = jnp.where(to_jump | to_last, ct_h, 0)
            at_end = jnp.where(drawn, behind.t, 0)
            ts = ts.at[-1].add(jnp.where(to_last, ct_h, 0) + at_end)
            ct_before = ct_t - ct_h + behind.t - at_end
            if self.met is not None and self.part.problem.jumps is not None:
                more = self.met.of_stop(jnp.where(to_jump, ct_h, 0), t)
                moving = jax.tree.map(jnp.add, moving, more)
        return back._replace(
            y=ct_start + ct_y,
            solver_state=ct_carry,
            moving=jax.tree.map(jnp.add, back.moving, moving),
            ts=ts,
            t=ct_before,
        )

    def values(
        self, back: BackwardState, n: Array, t: Array, h: Array, y: Array, y1: Array, dense: Any
    ) -> tuple[BackwardState, tuple[Array, Array, Any, Any]]:
        """Cotangents of what was saved of step `n`: to its start, end, slopes and clock."""
        zeros = jax.tree.map(jnp.zeros_like, (y, y1, dense))
        clock = (jnp.zeros_like(t), jnp.zeros_like(h)) if self.part.with_times else None
        ct, save = self.cotangents, self.part.config.save
        if save == "steps" and ct.ys is not None:
            return back, (zeros[0], ct.ys[n + 1], zeros[2], clock)
        if save == "dense" and ct.dense is not None:
            # The recorded (t, h, y, slopes) of the step, each with its cotangent or none.
            none = (jnp.zeros_like(t), jnp.zeros_like(h), zeros[0], jnp.stack(zeros[2]))
            ct_t, ct_h, ct_y, ct_slopes = (
                zero if part is None else part[n] for part, zero in zip(ct.dense, none, strict=True)
            )
            clock = (ct_t, ct_h) if self.part.with_times else None
            return back, (ct_y, zeros[1], tuple(ct_slopes), clock)
        if save == "ts" and ct.ys is not None:
            return self.values_at_times(back, n, t, h, (y, y1, dense), zeros, clock)
        return back, (*zeros, clock)

    def values_at_times(
        self, back: BackwardState, n: Array, t: Array, h: Array, parts: Any, zeros: Any, clock: Any
    ) -> tuple[BackwardState, tuple[Array, Array, Any, Any]]:
        """The same for the times that the step passed, the last first."""
        times, direction = self.part.problem.ts, direction_of(self.part.problem.ts)
        moving = None if self.part.problem.save_fn is None else self.part.moving

        def passed(saves_left: Array) -> Array:
            # The first step has written the repeats of the first time too, all but the first row.
            return (saves_left > 1) & ((direction * (times[saves_left - 1] - t) > 0) | (n == 0))

        def pulled(saves_left: Array, mask: Array) -> Any:
            j = saves_left - 1
            # What was not passed is read where no interpolant overflows.
            when = jnp.where(mask, times[j], t) if host_controls_loops() else times[j], t, h

            def value(moving: PyTree, parts: Any, clock: Any) -> PyTree:
                at, t_, h_ = when if clock is None else clock
                problem = self.part.problem if moving is None else self.part.with_moving(moving)
                return step_reader(problem, self.part.config)(
                    at, j == times.shape[0] - 1, t_, h_, *parts
                )

            _, pull = jax.vjp(value, moving, parts, None if clock is None else when)
            ct_moving, ct_parts, ct_when = pull(
                jax.tree.map(lambda c: jnp.where(mask, c[j], 0), self.ct_ys)
            )
            if ct_when is None:
                return (ct_moving, ct_parts, None), None
            return (ct_moving, ct_parts, ct_when[1:]), ct_when[0]

        def put(ts: Array, saves_left: Array, mask: Array, ct: Array) -> Array:
            return ts.at[jnp.where(mask, saves_left - 1, times.shape[0])].add(ct, mode="drop")

        start = (None if moving is None else back.moving, zeros, clock)
        taking, start = (
            SavePointAccumulator(passed, pulled, put),
            SavePointCotangents(back.saves_left, start, back.ts),
        )
        rows = times.shape[0]
        size = num_elements(self.ct_ys, rows) + num_elements(moving)
        unread, (ct_moving, ct_parts, ct_clock), ts = taking.all(start, rows - 1, size)
        back = back._replace(saves_left=unread, ts=ts)
        if ct_moving is not None:
            back = back._replace(moving=ct_moving)
        return back, (*ct_parts, ct_clock)

    def finish(self, back: BackwardState, total: Array) -> PyTree:
        """The cotangent of the problem, from those at its first time."""
        solver, problem = self.part.config.method.stepper, self.part.problem

        def begin(moving: PyTree, y: Array, t: Array) -> Any:
            return solver.init(self.part.field(t, moving), t, y), self.first_value(moving, y, t)

        (_, value), pull = jax.vjp(begin, self.part.moving, problem.y0, self.t0)
        moving, y0, t0 = pull((back.solver_state, self.ct_first_value(value, back.saves_left)))
        y0 = y0 + back.y
        moving = jax.tree.map(jnp.add, back.moving, moving)
        ct = self.cotangents
        if self.part.config.save in ("ends", "steps") and ct.ys is not None:
            y0 = y0 + ct.ys[0]
        if self.part.config.save == "dense" and ct.dense is not None and ct.dense[2] is not None:
            y0 = y0 + jnp.where(total == 0, ct.dense[2][0], 0)  # a solve over no time
        ts = None if back.ts is None else back.ts.at[0].add(t0 + back.t)
        if ts is not None and self.part.config.save == "steps" and ct.ts is not None:
            ts = ts.at[0].add(ct.ts[0])
        return dataclasses.replace(moving, y0=y0, ts=ts)

    def first_value(self, moving: PyTree, y: Array, t: Array) -> PyTree:
        """What was saved at the first time."""
        if self.part.config.save != "ts":
            return ()
        return step_reader(self.part.with_moving(moving), self.part.config).fn(t, y)

    def ct_first_value(self, value: PyTree, saves_left: Array) -> PyTree:
        """Its cotangent: that of the rows that no step has written, more than one of no step."""
        if self.part.config.save != "ts":
            return ()
        if self.cotangents.ys is None:
            return jax.tree.map(jnp.zeros_like, value)
        here = jnp.arange(self.part.problem.ts.shape[0]) < saves_left
        return jax.tree.map(
            lambda c: jnp.sum(c, axis=0, where=here.reshape((-1,) + (1,) * (c.ndim - 1))),
            self.ct_ys,
        )

    def inside(self, back: BackwardState, t: Array) -> Array | bool | None:
        """Whether dense output of the step that starts at `t` was read."""
        if self.part.problem.events:
            return True
        if self.part.config.save == "ts":
            ts = self.part.problem.ts
            return direction_of(ts) * (ts[jnp.maximum(back.saves_left - 1, 0)] - t) > 0
        return True if self.part.config.save == "dense" else None

    @property
    def drawn(self) -> Array | bool:
        """Whether the last step was drawn out to the last time; else an event ended the solve."""
        if self.met is None or self.met.log is None:
            return True
        return ~jnp.any(self.part.problem.terminal_events[self.met.log.index])

    @property
    def t0(self) -> Array:
        """The first time."""
        return self.part.problem.ts[0]

    @property
    def ct_ys(self) -> PyTree:
        """Cotangents of the saved values, zeros where there are none."""
        shapes = jax.eval_shape(
            lambda: self.first_value(self.part.moving, self.part.problem.y0, self.t0)
        )
        number = self.part.problem.ts.shape[0]
        return jax.tree.map(
            lambda c, s: jnp.zeros((number, *s.shape), s.dtype) if c is None else c,
            self.cotangents.ys,
            shapes,
            is_leaf=lambda leaf: leaf is None,
        )
