"""A batch in one kernel: every trajectory from start to end in the registers of one lane."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.ensemble import Ended, Ensemble, result_of
from ..integrate.forward import Result, times_status
from ..integrate.ivp import Plan, Problem, packed_field, reading
from ..integrate.save import Step, in_order, missing
from ..integrate.step import Moving, attempt, begin, judged, step_end, under_way
from ..problem.field import Field, Split
from ..solvers.explicit.stage_loop import Rolled
from ..solvers.linear import WithJacobian
from .blocks import Block, Given, call, filled_up, uncolumned
from .lowering.block_arrays import kept_whole
from .lowering.interpreter import in_lanes
from .lowering.lane_loops import loop
from .lowering.lane_scalars import Cell, Cells, chosen, is_cells


class Span(NamedTuple):
    """When a trajectory begins and ends, and whether that is not all one time."""

    t0: Array
    t1: Array
    moves: Array

    @property
    def direction(self) -> Array:
        """1 forwards in time, -1 backwards."""
        return jnp.sign(self.t1 - self.t0)


class Reader(NamedTuple):
    """How many times of a trajectory are written, the next one, and whether in order."""

    count: Any
    t: Any
    ordered: Any


class Log(NamedTuple):
    """The accepted steps: `(rows, 2, trajectories)` times and sizes, and the states before them.

    `carry`: the solver's, where it cannot be made afresh from those.
    """

    clock: Array
    y: Array
    carry: tuple[Array, ...] = ()

    @classmethod
    def of(cls, arrays: Sequence[Any]) -> "Log":
        """From its arrays, or references to them."""
        return cls(arrays[0], arrays[1], tuple(arrays[2:]))


def kept_carry(ensemble: Ensemble) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The arrays of a solver's carry that are logged."""

    def carry(problem: Problem, plan: Plan) -> Any:
        solver = plan.method.stepper
        return solver.init(packed_field(problem, plan), problem.ts[0], problem.y0)

    if ensemble.plan.method.solver.one_step:
        return ()
    return tuple(jax.tree.leaves(eqx.filter_eval_shape(carry, *one_of(ensemble))))


def one_of(ensemble: Ensemble) -> tuple[Problem, Plan]:
    """The problem of one trajectory, with shapes in the place of what each has for itself."""
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), ensemble.own)
    return ensemble.one(rows)


def given_of(ensemble: Ensemble, lanes: int) -> tuple[PyTree, PyTree, Array]:
    """Own and shared parts without their times but with their spans, and the table of times."""
    own, shared = (
        (dataclasses.replace(part[0], ts=None), part[1]) for part in (ensemble.own, ensemble.shared)
    )
    ts = ensemble.all_times
    span = Span(ts[..., 0], ts[..., -1], jnp.any(ts != ts[..., :1], axis=-1))
    if ts.ndim == 1:
        return (own, None), (shared, span), ts
    return (own, span), (shared, None), filled_up(ts.T, lanes)


def field_in(ensemble: Ensemble, moving: tuple[PyTree, ...], still: tuple[PyTree, ...]) -> Field:
    """The field of `(problem, plan)` in these parts, with a loop over stages if it is a network's.

    Written out for each of the stages, a network is too much for a compiler.
    """
    field = _combined(*moving, *still)
    shapes = [x.shape for x in jax.tree.leaves(ensemble.shared) if eqx.is_array(x)]
    looped = ensemble.plan.method.stepper.loops_over_stages
    if not looped or isinstance(field, Split | WithJacobian) or not any(kept_whole(shapes)):
        return field
    return Rolled(_combined, moving, still)


def _combined(*parts: PyTree) -> Field:
    return packed_field(*eqx.combine(*parts))


class KernelRun(eqx.Module):
    """The forward run of an ensemble in blocks of `lanes`; `rows` for each lane's log of steps."""

    ensemble: Ensemble
    lanes: int = eqx.field(static=True)
    rows: int = eqx.field(static=True, default=0)

    def given(self) -> Given:
        """What the kernel reads."""
        own, shared, times = given_of(self.ensemble, self.lanes)
        return Given(own, shared, (times,))

    @property
    def saving(self) -> bool:
        """Whether there are times between the first and the last."""
        return self.ensemble.plan.save == "ts"

    def run(self) -> tuple[Result, Any]:
        """The result, and the log if there is one."""
        count, number = self.ensemble.count, self.ensemble.all_times.shape[-1]
        y0, t = self.ensemble.own[0].y0, self.ensemble.all_times.dtype
        padded = -(-count // self.lanes) * self.lanes
        ends = eqx.filter_eval_shape(self._end_of_one, *one_of(self.ensemble))
        outputs = [
            jax.ShapeDtypeStruct((max(x.size, 1), padded), x.dtype) for x in jax.tree.leaves(ends)
        ]
        values = self.values
        for x in jax.tree.leaves(values):
            shape = (number, max(x.size, 1), padded)
            outputs.append(jax.ShapeDtypeStruct(shape, x.dtype))
        kept = (jax.ShapeDtypeStruct((2,), t), y0[0], *kept_carry(self.ensemble))
        for x in kept if self.rows else ():
            shape = (self.rows, max(x.size, 1), padded)
            outputs.append(jax.ShapeDtypeStruct(shape, x.dtype))
        found = call(self.body, self.given(), outputs, count, self.lanes)

        (y1, t, counts), found = found[:3], found[3:]
        y1, counts = uncolumned(y1, count, ends[0].shape), uncolumned(counts, count, ends[2].shape)
        leaves, treedef = jax.tree.flatten(values)
        saved = [
            jnp.moveaxis(x[..., :count], -1, 0).reshape(count, number, *like.shape)
            for x, like in zip(found, leaves, strict=False)
        ]
        # A block takes as many turns as the longest of its lanes has steps.
        steps = jnp.pad(counts[:, 1], (0, padded - count), mode="edge")
        turns = jnp.sum(jnp.max(steps.reshape(-1, self.lanes), axis=1))
        record = (jax.tree.unflatten(treedef, saved), None), None
        ended = Ended((y1, t[0, :count], counts), record, turns)
        result = result_of(self.ensemble, ended, self.lanes, self.ensemble.plan.save)
        return result, Log.of(found[len(leaves) :]) if self.rows else None

    def body(
        self,
        block: Block,
        own: tuple[PyTree, Span | None],
        shared: tuple[PyTree, Span | None],
        tables: tuple[Any, ...],
        outputs: tuple[Any, ...],
    ) -> None:
        """What one block does."""
        rows, span = own[0], own[1] or shared[1]
        parts = _Parts(self, block, rows, shared[0], span, tables[0])
        values, log = outputs[3:], outputs[3 + len(jax.tree.leaves(self.values)) :]
        leaves, treedef = jax.tree.flatten(parts.begun(), is_leaf=is_cells)

        def unfinished(state: list[Cells]) -> Cell:
            moving, _ = jax.tree.unflatten(treedef, state)
            return parts.under_way(moving)

        def advance(mask: Array, state: list[Cells]) -> list[Cells]:
            moving, reader = jax.tree.unflatten(treedef, state)
            after, step = parts.attempt(moving, reader)
            accept = mask & step.accept.vector(self.lanes)
            if self.rows:
                parts.log(Log.of(log), accept, step)
            reader = parts.write(values, accept, reader, step) if self.saving else reader
            return jax.tree.leaves((after, reader), is_leaf=is_cells)

        moving, reader = jax.tree.unflatten(treedef, loop(unfinished, advance, leaves, self.lanes))
        for ref, end in zip(outputs[:3], parts.end(moving, reader), strict=True):
            block.keep(ref, end)
        if self.saving:
            parts.fill(values, reader)

    def _first_of_one(self, problem: Problem, plan: Plan) -> PyTree:
        return reading(problem, plan).fn(problem.ts[0], problem.y0)

    def _end_of_one(self, problem: Problem, plan: Plan) -> tuple[Array, Array, Array]:
        ts = problem.ts
        field = packed_field(problem, plan)
        moving = begin(plan.method, field, problem.y0, ts[0], ts[-1])
        return self.end_of(moving, Span(ts[0], ts[-1], jnp.asarray(True)), None)

    @property
    def values(self) -> PyTree:
        """What is saved at one time of one trajectory, its shapes."""
        if not self.saving:
            return ()
        return eqx.filter_eval_shape(self._first_of_one, *one_of(self.ensemble))

    def end_of(
        self, moving: Moving, span: Span, reader: Reader | None
    ) -> tuple[Array, Array, Array]:
        """The state at a trajectory's end, the time reached, and status and counts."""
        end = judged(moving, span.direction * (span.t1 - moving.t))
        status = end.status
        if reader is not None:
            number = self.ensemble.all_times.shape[-1]
            missed = (reader.count < number) & span.moves & (end.t == span.t1)
            status = times_status(status, reader.ordered, missed)
        more = jax.tree.leaves((end.num_more, end.num_made))
        return end.y, end.t, jnp.stack([status, end.num_steps, end.num_accepted, *more])


class _Parts(NamedTuple):
    """What the lanes of a block have, and what they do in turn."""

    run: KernelRun
    block: Block
    rows: PyTree
    shared: PyTree
    span: Any
    times: Any

    def lanewise(self, function: Any) -> Any:
        """`function(problem, plan, span, ...)` of one trajectory, on the lanes."""

        def one(rows: PyTree, shared: PyTree, span: Span, *rest: Any) -> Any:
            return function(*eqx.combine(rows, shared), span, *rest)

        def called(*rest: Any) -> Any:
            walked = in_lanes(one, self.block.lanes)
            return walked(self.rows, self.shared, self.span, *rest)

        return called

    @property
    def number(self) -> int:
        """How many times there are."""
        return self.run.ensemble.all_times.shape[-1]

    def begun(self) -> tuple[Moving, Any]:
        """The lanes at their first time, and their readers."""

        def one(problem: Problem, plan: Plan, span: Span) -> Moving:
            field = packed_field(problem, plan)
            return begin(plan.method, field, problem.y0, span.t0, span.t1)

        reader: Any = ()
        if self.run.saving:
            count, ordered = Cells.known(1, jnp.int32), Cells.known(True)
            reader = Reader(count, self.time(count, self.direction()), ordered)
        return self.lanewise(one)(), reader

    def direction(self) -> Cells:
        """The sign of each lane's span."""
        return self.lanewise(lambda problem, plan, span: span.direction)()

    def under_way(self, moving: Moving) -> Cell:
        """Which lanes have another step to attempt."""

        def one(problem: Problem, plan: Plan, span: Span, moving: Moving) -> Array:
            return under_way(plan.method, moving, span.direction, span.t1)

        return self.lanewise(one)(moving).one()

    def attempt(self, moving: Moving, reader: Any) -> tuple[Moving, Any]:
        """A step of every lane."""

        def one(
            problem: Problem, plan: Plan, span: Span, moving: Moving, reader: Any
        ) -> tuple[Moving, Step]:
            inside: Any = True if self.run.saving else None
            if self.run.saving and plan.method.solver.evaluations.inside:
                end = step_end(moving, span.direction, span.t1)
                inside = span.direction * (reader.t - end) < 0
            field, method = field_in(self.run.ensemble, (), ((problem, plan),)), plan.method
            stepped = attempt(method, field, moving, span.direction, span.t1, lambda _: inside)
            return stepped[0], stepped[1]._replace(before=None, residuals=())

        return self.lanewise(one)(moving, reader)

    def time(self, count: Cells, direction: Cells) -> Cells:
        """The time after `count` written ones; after all of them, one that is never reached."""
        index = count.vector(self.block.lanes)
        time = self.block.entry(self.times, jnp.minimum(index, self.number - 1))
        sign = direction.vector(self.block.lanes)
        return Cells.of([jnp.where(index > self.number - 1, sign * jnp.inf, time)], (), time.dtype)

    def write(self, outputs: Any, accept: Array, reader: Any, step: Any) -> Reader:
        """Write every time that the accepted steps have reached."""
        leaves, treedef = jax.tree.flatten(reader, is_leaf=is_cells)

        def reached(state: list[Cells]) -> Cell:
            def one(t: Array, step: Any) -> Array:
                return step.direction * t <= step.direction * step.t1

            here = in_lanes(one, self.block.lanes)(jax.tree.unflatten(treedef, state).t, step)
            return accept & here.vector(self.block.lanes)

        def put(mask: Array, state: list[Cells]) -> list[Cells]:
            reader = jax.tree.unflatten(treedef, state)
            index = reader.count.vector(self.block.lanes)
            value = jax.tree.leaves(self.value(reader, step), is_leaf=is_cells)
            for ref, x in zip(outputs, value, strict=False):
                self.block.put(ref, mask, index, x.flat())
            return jax.tree.leaves(self.after(reader, step), is_leaf=is_cells)

        return jax.tree.unflatten(treedef, loop(reached, put, leaves, self.block.lanes))

    def value(self, reader: Any, step: Any) -> PyTree:
        """What is saved at the readers' times."""

        def one(problem: Problem, plan: Plan, span: Span, reader: Any, step: Any) -> PyTree:
            last, final = reader.t == span.t1, reader.count == self.number - 1
            whole = step.t, step.h, step.y, step.y1, step.dense
            return reading(problem, plan)(reader.t, last, *whole, final)

        return self.lanewise(one)(reader, step)

    def after(self, reader: Any, step: Any) -> Reader:
        """The readers with one time more behind them."""
        following = self.time(_plus_one(reader.count), step.direction)

        def one(reader: Reader, following: Array, step: Any) -> Reader:
            ordered = reader.ordered & in_order(step, reader.t, following)
            return Reader(reader.count + 1, following, ordered)

        return in_lanes(one, self.block.lanes)(reader, following, step)

    def log(self, outputs: Log, accept: Array, step: Any) -> None:
        """Write the accepted steps down."""
        index = step.index.vector(self.block.lanes)
        self.block.put(outputs.clock, accept, index, [step.t.one(), step.h.one()])
        self.block.put(outputs.y, accept, index, step.y.flat())
        for ref, x in zip(
            outputs.carry, jax.tree.leaves(step.carry, is_leaf=is_cells), strict=False
        ):
            self.block.put(ref, accept, index, x.flat())

    def end(self, moving: Moving, reader: Any) -> tuple[Cells, Cells, Cells]:
        """States, times and counts at the end."""

        def one(problem: Problem, plan: Plan, span: Span, moving: Moving, reader: Any) -> Any:
            return self.run.end_of(moving, span, reader or None)

        return self.lanewise(one)(moving, reader)

    def fill(self, outputs: Any, reader: Any) -> None:
        """The first values, at every time equal to the first; missing where none was reached."""

        def one(problem: Problem, plan: Plan, span: Span) -> tuple[PyTree, Array]:
            return reading(problem, plan).fn(span.t0, problem.y0), span.t0

        values, t0 = self.lanewise(one)()
        leaves = jax.tree.leaves(values, is_leaf=is_cells)
        first = t0.vector(self.block.lanes)

        def put(mask: Array, index: Array) -> None:
            same = self.block.entry(self.times, index) == first
            for ref, x in zip(outputs, leaves, strict=False):
                nothing = missing(x.dtype)
                self.block.put(ref, mask, index, [chosen(same, c, nothing) for c in x.flat()])

        def turn(index: Array) -> Array:
            put(index < self.number, jnp.minimum(index, self.number - 1))
            return index + 1

        start = jnp.zeros((self.block.lanes,), jnp.int32)
        put(start == 0, start)
        written = reader.count.vector(self.block.lanes)
        lax.while_loop(lambda index: jnp.min(index) < self.number, turn, written)


def _plus_one(count: Cells) -> Cells:
    return Cells.of([count.one() + count.dtype.type(1)], (), count.dtype)
