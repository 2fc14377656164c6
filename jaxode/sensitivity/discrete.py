"""The discrete adjoint: record the accepted steps, replay each backwards with one vjp."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..batch.lanes import Tile
from ..batch.run import Ensemble
from ..forward import (
    Plan,
    Problem,
    Result,
    direction_of,
    packed_field,
    reading,
    run,
)
from ..linalg import WithJacobian
from ..record import Trace, Tracing, longest_segment, put_row
from ..solution import Status
from ..split import by_parts
from .discrete_batch import solve_in_lanes
from .one_way import once


class Discrete(eqx.Module):
    """The exact gradient of the computed solution, step sizes held fixed.

    The forward pass keeps every accepted `(t, h)`, and the state at the start of each step while
    those are small; of a large state a bounded number, thinned as the solve goes, between which
    the backward pass re-runs the steps. Works with every `save`.

    Source: Zhuang et al., Adaptive checkpoint adjoint (2020), arXiv 2006.02493; the thinning:
    Stumm, Walther, New algorithms for optimal online checkpointing, SIAM J. Sci. Comput. 32 (2010).
    """

    def solve(self, problem: Problem, plan: Plan) -> Result:
        """Run `problem`; its gradient is the replay."""
        return _discrete(problem, plan)

    def solve_batch(self, ensemble: Ensemble, tile: Tile) -> Result:
        """Run all of `ensemble`; its gradient is the replay, in lanes."""
        return solve_in_lanes(ensemble, tile)


@eqx.filter_custom_vjp
def _discrete(problem: Problem, plan: Plan) -> Result:
    return run(problem, plan)[0]


@_discrete.def_fwd
@once
def _forward(perturbed: PyTree, problem: Problem, plan: Plan) -> tuple[Result, Any]:
    rows = rows_that_fit(kept_states(problem, plan), plan.method.max_steps)
    tracing = Tracing(plan.method.max_steps, rows, keeps_carry(plan, rows))
    result, trace = run(problem, plan, tracing)
    # `perturbed` rides along as Python booleans, which stay static through a jitted gradient.
    return result, (trace, result.status, result.stats.num_accepted, perturbed)


@_discrete.def_bwd
@once
def _backward(
    residuals: Any, cotangents: Result, _: PyTree, problem: Problem, plan: Plan
) -> PyTree:
    trace, status, num_accepted, perturbed = residuals
    replay = _Replay.of(perturbed, problem, plan, trace, cotangents)
    end = replay.steps(replay.start(status), num_accepted)
    return eqx.filter(replay.finish(end, num_accepted), perturbed)


def kept_states(problem: Problem, plan: Plan) -> PyTree:
    """Arrays like those that have to be kept of a step to run it again."""
    if plan.method.solver.one_step:
        return problem.y0
    init, field = plan.method.stepper.init, packed_field(problem, plan)
    return problem.y0, jax.eval_shape(lambda: init(field, problem.ts[0], problem.y0))


def rows_that_fit(state: PyTree, max_steps: int) -> int:
    """How many states a trace keeps: four megabytes of them, at least the root of the steps."""
    size = max(sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(state)), 1)
    return min(max_steps, max(_root(max_steps), 2**22 // size))


def keeps_carry(plan: Plan, rows: int) -> bool:
    """Whether a trace holds the solver's carry, or the backward pass makes it afresh."""
    max_steps = plan.method.max_steps
    return not plan.method.solver.one_step or rows > _root(max_steps) or rows == max_steps


def _root(max_steps: int) -> int:
    return 1 << (max_steps - 1).bit_length() // 2


class _Back(NamedTuple):
    """What the backward pass carries: cotangents, and how many saved times are yet to be read."""

    y: Array
    carry: Any
    moving: PyTree
    ts: Array | None
    unread: Array


class _Replay(eqx.Module):
    """The backward pass over one trace.

    `moving` holds the arrays of field, arguments and read-out that are differentiated, `still`
    the rest of the problem.
    """

    moving: PyTree
    still: Problem
    problem: Problem
    plan: Plan
    trace: Trace
    cotangents: Result
    with_times: bool = eqx.field(static=True)

    @classmethod
    def of(
        cls, perturbed: PyTree, problem: Problem, plan: Plan, trace: Trace, cotangents: Result
    ) -> "_Replay":
        with_times = bool(perturbed.ts)
        moving, still = eqx.partition(problem, dataclasses.replace(perturbed, y0=False, ts=False))
        return cls(moving, still, problem, plan, trace, cotangents, with_times)

    def start(self, status: Array) -> _Back:
        """The cotangents at the last time; NaN if it was not reached."""
        ct, y0 = self.cotangents, self.problem.y0
        y = jnp.zeros_like(y0) if ct.y1 is None else ct.y1
        if self.plan.save == "ends" and ct.ys is not None:
            y = y + ct.ys[1]
        carry = jax.eval_shape(lambda: self.plan.method.stepper.init(self.field(), self.t0, y0))
        return _Back(
            y=jnp.where(status == Status.SUCCESS, y, jnp.nan),
            carry=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carry),
            moving=jax.tree.map(jnp.zeros_like, self.moving),
            ts=jnp.zeros_like(self.problem.ts) if self.with_times else None,
            unread=jnp.int32(self.problem.ts.shape[0]),
        )

    def steps(self, back: _Back, num_accepted: Array) -> _Back:
        """Replay every step, the last first."""
        trace = self.trace
        if trace.thinning is None:
            stored = trace.y, trace.carry
            return self.segment(back, jnp.int32(0), num_accepted, stored, num_accepted)

        kept = trace.thinning.steps

        def earlier(state: tuple[Array, _Back]) -> tuple[Array, _Back]:
            end, back = state
            row = jnp.argmax(jnp.where(kept < end, kept, -1))
            begin = kept[row]
            stored = self.rebuild(row, begin, end)
            return begin, self.segment(back, begin, end, stored, num_accepted)

        return lax.while_loop(lambda s: s[0] > 0, earlier, (num_accepted, back))[1]

    def rebuild(self, row: Array, begin: Array, end: Array) -> tuple[Array, Any]:
        """The states of the steps `begin` to `end`, from the one that was kept."""
        trace, field = self.trace, self.field()
        solver = self.plan.method.stepper.forwards()
        y, carry = jax.tree.map(lambda b: b[row], (trace.y, trace.carry))
        kept_carry = bool(jax.tree.leaves(trace.carry))
        length = longest_segment(self.plan.method.max_steps, trace.y.shape[0])
        buffers = jax.tree.map(
            lambda x: jnp.zeros((length, *x.shape), x.dtype).at[0].set(x), (y, carry)
        )
        if not kept_carry:
            carry = solver.init(field, trace.t[begin], y)

        def again(state: tuple) -> tuple:
            n, y, carry, buffers = state
            stepped = solver.step(field, trace.t[n], y, trace.h[n], carry, None)
            y, carry = stepped.y1, stepped.carry
            kept = (y, carry if kept_carry else ())
            buffers = jax.tree.map(lambda b, v: put_row(b, v, n + 1 - begin), buffers, kept)
            return n + 1, y, carry, buffers

        start = (begin, y, carry, buffers)
        return lax.while_loop(lambda s: s[0] < end - 1, again, start)[3]

    def segment(
        self, back: _Back, begin: Array, end: Array, stored: tuple[Array, Any], total: Array
    ) -> _Back:
        """Replay the steps `begin` to `end` backwards; `stored` holds their states from row 0."""

        def one(state: tuple[Array, _Back]) -> tuple[Array, _Back]:
            n, back = state[0] - 1, state[1]
            y, carry = jax.tree.map(lambda b: b[n - begin], stored)
            return n, self.step(back, n, y, carry, total)

        return lax.while_loop(lambda s: s[0] > begin, one, (end, back))[1]

    def step(self, back: _Back, n: Array, y: Array, carry: Any, total: Array) -> _Back:
        """Pull the cotangents at the end of step `n` back to its start."""
        t, h = self.trace.t[n], self.trace.h[n]
        solver = self.plan.method.stepper
        if not jax.tree.leaves(carry):
            carry = solver.init(self.field(), t, y)

        def advance(moving: PyTree, y: Array, carry: Any, clock: Any) -> Any:
            t_, h_ = (t, h) if clock is None else clock
            inside = self.inside(back, t)
            stepped = solver.step(self.field(moving), t_, y, h_, carry, inside)
            return stepped.y1, stepped.dense, stepped.carry

        clock = (t, h) if self.with_times else None
        (y1, dense, _), pull = jax.vjp(advance, self.moving, y, carry, clock)
        back, (ct_y, ct_y1, ct_dense, ct_clock) = self.values(back, n, t, h, y, y1, dense)
        moving, ct_start, ct_carry, ct_step = pull((back.y + ct_y1, ct_dense, back.carry))
        ts = back.ts
        if ts is not None:
            ct_t, ct_h = jax.tree.map(jnp.add, ct_clock, ct_step)
            # Every step starts later if t0 does; the last alone is as long as the rest leaves it.
            ct_h = jnp.where(n == total - 1, ct_h, 0)
            ts = ts.at[0].add(ct_t - ct_h).at[-1].add(ct_h)
        return back._replace(
            y=ct_start + ct_y,
            carry=ct_carry,
            moving=jax.tree.map(jnp.add, back.moving, moving),
            ts=ts,
        )

    def values(
        self, back: _Back, n: Array, t: Array, h: Array, y: Array, y1: Array, dense: Any
    ) -> tuple[_Back, tuple[Array, Array, Any, Any]]:
        """Cotangents of what was saved of step `n`: to its start, end, slopes and clock."""
        zeros = jax.tree.map(jnp.zeros_like, (y, y1, dense))
        clock = (jnp.zeros_like(t), jnp.zeros_like(h)) if self.with_times else None
        ct, save = self.cotangents, self.plan.save
        if save == "steps" and ct.ys is not None:
            return back, (zeros[0], ct.ys[n + 1], zeros[2], clock)
        if save == "dense" and ct.dense is not None:
            # The recorded (t, h, y, slopes) of the step, each with its cotangent or none.
            none = (jnp.zeros_like(t), jnp.zeros_like(h), zeros[0], jnp.stack(zeros[2]))
            ct_t, ct_h, ct_y, ct_slopes = (
                zero if part is None else part[n] for part, zero in zip(ct.dense, none, strict=True)
            )
            clock = (ct_t, ct_h) if self.with_times else None
            return back, (ct_y, zeros[1], tuple(ct_slopes), clock)
        if save == "ts" and ct.ys is not None:
            return self.values_at_times(back, n, t, h, (y, y1, dense), zeros, clock)
        return back, (*zeros, clock)

    def values_at_times(
        self, back: _Back, n: Array, t: Array, h: Array, parts: Any, zeros: Any, clock: Any
    ) -> tuple[_Back, tuple[Array, Array, Any, Any]]:
        """The same for the times that the step passed, the last first."""
        times, direction = self.problem.ts, direction_of(self.problem.ts)
        moving = None if self.problem.read is None else self.moving

        def passed(state: Any) -> Array:
            # The first step has written the repeats of the first time too, all but the first row.
            unread = state[0]
            return (unread > 1) & ((direction * (times[unread - 1] - t) > 0) | (n == 0))

        def one(state: Any) -> Any:
            unread, totals, ts = state
            j = unread - 1
            when = times[j], t, h

            def value(moving: PyTree, parts: Any, clock: Any) -> PyTree:
                at, t_, h_ = when if clock is None else clock
                problem = self.problem if moving is None else eqx.combine(moving, self.still)
                return reading(problem, self.plan)(at, j == times.shape[0] - 1, t_, h_, *parts)

            _, pull = jax.vjp(value, moving, parts, None if clock is None else when)
            ct_moving, ct_parts, ct_when = pull(jax.tree.map(lambda c: c[j], self.ct_ys))
            if ct_when is None:
                more = (ct_moving, ct_parts, None)
            else:
                more = (ct_moving, ct_parts, ct_when[1:])
                ts = ts.at[j].add(ct_when[0])
            return j, jax.tree.map(jnp.add, totals, more), ts

        start = (None if moving is None else back.moving, zeros, clock)
        unread, (ct_moving, ct_parts, ct_clock), ts = lax.while_loop(
            passed, one, (back.unread, start, back.ts)
        )
        back = back._replace(unread=unread, ts=ts)
        if ct_moving is not None:
            back = back._replace(moving=ct_moving)
        return back, (*ct_parts, ct_clock)

    def finish(self, back: _Back, total: Array) -> PyTree:
        """The cotangent of the problem, from those at its first time."""
        solver, problem = self.plan.method.stepper, self.problem

        def begin(moving: PyTree, y: Array, t: Array) -> Any:
            return solver.init(self.field(moving), t, y), self.first_value(moving, y, t)

        (_, value), pull = jax.vjp(begin, self.moving, problem.y0, self.t0)
        moving, y0, t0 = pull((back.carry, self.ct_first_value(value, back.unread)))
        y0 = y0 + back.y
        moving = jax.tree.map(jnp.add, back.moving, moving)
        ct = self.cotangents
        if self.plan.save in ("ends", "steps") and ct.ys is not None:
            y0 = y0 + ct.ys[0]
        if self.plan.save == "dense" and ct.dense is not None and ct.dense[2] is not None:
            y0 = y0 + jnp.where(total == 0, ct.dense[2][0], 0)  # a solve over no time
        ts = None if back.ts is None else back.ts.at[0].add(t0) + self.times_returned(total)
        return dataclasses.replace(moving, y0=y0, ts=ts)

    def times_returned(self, total: Array) -> Array:
        """Cotangent of `ts` through the times of steps: all but the last move with the first."""
        zeros = jnp.zeros_like(self.problem.ts)
        if self.plan.save != "steps" or self.cotangents.ts is None:
            return zeros
        rows, ct = jnp.arange(self.cotangents.ts.shape[0]), self.cotangents.ts
        first = jnp.sum(ct, where=(rows < total) | (rows == 0))
        return zeros.at[0].add(first).at[-1].add(jnp.where(total > 0, ct[total], 0))

    def first_value(self, moving: PyTree, y: Array, t: Array) -> PyTree:
        """What was saved at the first time."""
        if self.plan.save != "ts":
            return ()
        return reading(eqx.combine(moving, self.still), self.plan).fn(t, y)

    def ct_first_value(self, value: PyTree, unread: Array) -> PyTree:
        """Its cotangent: that of the rows that no step has written, more than one of no step."""
        if self.plan.save != "ts":
            return ()
        if self.cotangents.ys is None:
            return jax.tree.map(jnp.zeros_like, value)
        here = jnp.arange(self.problem.ts.shape[0]) < unread
        return jax.tree.map(
            lambda c: jnp.sum(c, axis=0, where=here.reshape((-1,) + (1,) * (c.ndim - 1))),
            self.ct_ys,
        )

    def inside(self, back: _Back, t: Array) -> Array | bool | None:
        """Whether dense output of the step that starts at `t` was read."""
        if self.plan.save == "ts":
            ts = self.problem.ts
            return direction_of(ts) * (ts[jnp.maximum(back.unread - 1, 0)] - t) > 0
        return True if self.plan.save == "dense" else None

    def field(self, moving: PyTree = None) -> Callable[..., Array]:
        """The field on packed states, with `moving` in the place of the problem's own arrays."""
        problem = self.problem if moving is None else eqx.combine(moving, self.still)
        field = packed_field(problem, self.plan)

        # The state of a stage enters its slope and its cotangents: computed once, not in each.
        def once(part: Callable) -> Callable:
            def at(t: Array, y: Array, *half: int) -> Array:
                return part(t, lax.optimization_barrier(y), *half)

            return WithJacobian(at, part.jacobian) if isinstance(part, WithJacobian) else at

        return by_parts(once, field)

    @property
    def t0(self) -> Array:
        return self.problem.ts[0]

    @property
    def ct_ys(self) -> PyTree:
        """Cotangents of the saved values, zeros where there are none."""
        shapes = jax.eval_shape(lambda: self.first_value(self.moving, self.problem.y0, self.t0))
        number = self.problem.ts.shape[0]
        return jax.tree.map(
            lambda c, s: jnp.zeros((number, *s.shape), s.dtype) if c is None else c,
            self.cotangents.ys,
            shapes,
            is_leaf=lambda leaf: leaf is None,
        )
