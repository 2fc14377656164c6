"""A batch in one kernel: every trajectory from start to end in the registers of one lane."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.ensemble import Ensemble, TileResult, result_of
from ..integrate.forward import Result, times_status
from ..integrate.ivp import IVP, SolveConfig, packed_field, step_reader
from ..integrate.save import StepRecord, in_order, missing_value
from ..integrate.step import (
    IntegratorState,
    attempt_step,
    finalise,
    initialise,
    step_end,
    under_way,
)
from ..problem.field import Field, Split
from ..solvers.explicit.stage_loop import LoopedField
from ..solvers.linear import WithJacobian
from .blocks import Block, Given, call, filled_up, uncolumned
from .lowering.block_arrays import kept_whole
from .lowering.interpreter import in_lanes
from .lowering.lane_loops import loop
from .lowering.lane_scalars import Cell, LaneScalars, chosen, is_cells


class Span(NamedTuple):
    """When a trajectory begins and ends, and whether that is not all one time."""

    t0: Array
    t1: Array
    moves: Array

    @property
    def direction(self) -> Array:
        """1 forwards in time, -1 backwards."""
        return jnp.sign(self.t1 - self.t0)


class KernelSavePoint(NamedTuple):
    """How many times of a trajectory are written, the next one, and whether in order."""

    count: Any
    t: Any
    ordered: Any


class KernelTrace(NamedTuple):
    """The accepted steps: `(rows, 2, trajectories)` times and sizes, and the states before them.

    `solver_state`: the solver's, where it cannot be made afresh from those.
    """

    clock: Array
    y: Array
    solver_state: tuple[Array, ...] = ()

    @classmethod
    def of(cls, arrays: Sequence[Any]) -> "KernelTrace":
        """From its arrays, or references to them."""
        return cls(arrays[0], arrays[1], tuple(arrays[2:]))


def kept_carry(ensemble: Ensemble) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The arrays of a solver's carry that are logged."""

    def carry(problem: IVP, config: SolveConfig) -> Any:
        solver = config.method.stepper
        return solver.init(packed_field(problem, config), problem.ts[0], problem.y0)

    if ensemble.config.method.solver.stateless:
        return ()
    return tuple(jax.tree.leaves(eqx.filter_eval_shape(carry, *one_of(ensemble))))


def one_of(ensemble: Ensemble) -> tuple[IVP, SolveConfig]:
    """The problem of one trajectory, with shapes in the place of what each has for itself."""
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), ensemble.per_trajectory
    )
    return ensemble.one(rows)


def given_of(ensemble: Ensemble, lanes: int) -> tuple[PyTree, PyTree, Array]:
    """Own and shared parts without their times but with their spans, and the table of times."""
    own, shared = (
        (dataclasses.replace(part[0], ts=None), part[1])
        for part in (ensemble.per_trajectory, ensemble.shared)
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
    looped = ensemble.config.method.stepper.loops_over_stages
    if not looped or isinstance(field, Split | WithJacobian) or not any(kept_whole(shapes)):
        return field
    return LoopedField(_combined, moving, still)


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
        return self.ensemble.config.save == "ts"

    def run(self) -> tuple[Result, Any]:
        """The result, and the log if there is one."""
        count, number = self.ensemble.count, self.ensemble.all_times.shape[-1]
        y0, t = self.ensemble.per_trajectory[0].y0, self.ensemble.all_times.dtype
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
        ended = TileResult((y1, t[0, :count], counts), record, turns)
        result = result_of(self.ensemble, ended, self.lanes, self.ensemble.config.save)
        return result, KernelTrace.of(found[len(leaves) :]) if self.rows else None

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
        parts = _KernelParts(self, block, rows, shared[0], span, tables[0])
        values, log = outputs[3:], outputs[3 + len(jax.tree.leaves(self.values)) :]
        leaves, treedef = jax.tree.flatten(parts.begun(), is_leaf=is_cells)

        def unfinished(state: list[LaneScalars]) -> Cell:
            moving, _ = jax.tree.unflatten(treedef, state)
            return parts.under_way(moving)

        def advance(mask: Array, state: list[LaneScalars]) -> list[LaneScalars]:
            moving, reader = jax.tree.unflatten(treedef, state)
            after, step = parts.attempt(moving, reader)
            accept = mask & step.accept.vector(self.lanes)
            if self.rows:
                parts.log(KernelTrace.of(log), accept, step)
            reader = parts.write(values, accept, reader, step) if self.saving else reader
            return jax.tree.leaves((after, reader), is_leaf=is_cells)

        moving, reader = jax.tree.unflatten(treedef, loop(unfinished, advance, leaves, self.lanes))
        for ref, end in zip(outputs[:3], parts.end(moving, reader), strict=True):
            block.keep(ref, end)
        if self.saving:
            parts.fill(values, reader)

    def _first_of_one(self, problem: IVP, config: SolveConfig) -> PyTree:
        return step_reader(problem, config).fn(problem.ts[0], problem.y0)

    def _end_of_one(self, problem: IVP, config: SolveConfig) -> tuple[Array, Array, Array]:
        ts = problem.ts
        field = packed_field(problem, config)
        moving = initialise(config.method, field, problem.y0, ts[0], ts[-1])
        return self.end_of(moving, Span(ts[0], ts[-1], jnp.asarray(True)), None)

    @property
    def values(self) -> PyTree:
        """What is saved at one time of one trajectory, its shapes."""
        if not self.saving:
            return ()
        return eqx.filter_eval_shape(self._first_of_one, *one_of(self.ensemble))

    def end_of(
        self, moving: IntegratorState, span: Span, reader: KernelSavePoint | None
    ) -> tuple[Array, Array, Array]:
        """The state at a trajectory's end, the time reached, and status and counts."""
        end = finalise(moving, span.direction * (span.t1 - moving.t))
        status = end.status
        if reader is not None:
            number = self.ensemble.all_times.shape[-1]
            missed = (reader.count < number) & span.moves & (end.t == span.t1)
            status = times_status(status, reader.ordered, missed)
        more = jax.tree.leaves((end.extra_evaluations, end.linear_algebra_counts))
        return end.y, end.t, jnp.stack([status, end.num_steps, end.num_accepted, *more])


class _KernelParts(NamedTuple):
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

    def begun(self) -> tuple[IntegratorState, Any]:
        """The lanes at their first time, and their readers."""

        def one(problem: IVP, config: SolveConfig, span: Span) -> IntegratorState:
            field = packed_field(problem, config)
            return initialise(config.method, field, problem.y0, span.t0, span.t1)

        reader: Any = ()
        if self.run.saving:
            count, ordered = LaneScalars.known(1, jnp.int32), LaneScalars.known(True)
            reader = KernelSavePoint(count, self.time(count, self.direction()), ordered)
        return self.lanewise(one)(), reader

    def direction(self) -> LaneScalars:
        """The sign of each lane's span."""
        return self.lanewise(lambda problem, config, span: span.direction)()

    def under_way(self, moving: IntegratorState) -> Cell:
        """Which lanes have another step to attempt."""

        def one(problem: IVP, config: SolveConfig, span: Span, moving: IntegratorState) -> Array:
            return under_way(config.method, moving, span.direction, span.t1)

        return self.lanewise(one)(moving).one()

    def attempt(self, moving: IntegratorState, reader: Any) -> tuple[IntegratorState, Any]:
        """A step of every lane."""

        def one(
            problem: IVP, config: SolveConfig, span: Span, moving: IntegratorState, reader: Any
        ) -> tuple[IntegratorState, StepRecord]:
            inside: Any = True if self.run.saving else None
            if self.run.saving and config.method.solver.evaluations.dense:
                end = step_end(moving, span.direction, span.t1)
                inside = span.direction * (reader.t - end) < 0
            field, method = field_in(self.run.ensemble, (), ((problem, config),)), config.method
            stepped = attempt_step(method, field, moving, span.direction, span.t1, lambda _: inside)
            return stepped[0], stepped[1]._replace(before=None, residuals=())

        return self.lanewise(one)(moving, reader)

    def time(self, count: LaneScalars, direction: LaneScalars) -> LaneScalars:
        """The time after `count` written ones; after all of them, one that is never reached."""
        index = count.vector(self.block.lanes)
        time = self.block.entry(self.times, jnp.minimum(index, self.number - 1))
        sign = direction.vector(self.block.lanes)
        return LaneScalars.of(
            [jnp.where(index > self.number - 1, sign * jnp.inf, time)], (), time.dtype
        )

    def write(self, outputs: Any, accept: Array, reader: Any, step: Any) -> KernelSavePoint:
        """Write every time that the accepted steps have reached."""
        leaves, treedef = jax.tree.flatten(reader, is_leaf=is_cells)

        def reached(state: list[LaneScalars]) -> Cell:
            def one(t: Array, step: Any) -> Array:
                return step.direction * t <= step.direction * step.t1

            here = in_lanes(one, self.block.lanes)(jax.tree.unflatten(treedef, state).t, step)
            return accept & here.vector(self.block.lanes)

        def put(mask: Array, state: list[LaneScalars]) -> list[LaneScalars]:
            reader = jax.tree.unflatten(treedef, state)
            index = reader.count.vector(self.block.lanes)
            value = jax.tree.leaves(self.value(reader, step), is_leaf=is_cells)
            for ref, x in zip(outputs, value, strict=False):
                self.block.put(ref, mask, index, x.flat())
            return jax.tree.leaves(self.after(reader, step), is_leaf=is_cells)

        return jax.tree.unflatten(treedef, loop(reached, put, leaves, self.block.lanes))

    def value(self, reader: Any, step: Any) -> PyTree:
        """What is saved at the readers' times."""

        def one(problem: IVP, config: SolveConfig, span: Span, reader: Any, step: Any) -> PyTree:
            last, final = reader.t == span.t1, reader.count == self.number - 1
            whole = step.t, step.h, step.y, step.y1, step.dense
            return step_reader(problem, config)(reader.t, last, *whole, final)

        return self.lanewise(one)(reader, step)

    def after(self, reader: Any, step: Any) -> KernelSavePoint:
        """The readers with one time more behind them."""
        following = self.time(_plus_one(reader.count), step.direction)

        def one(reader: KernelSavePoint, following: Array, step: Any) -> KernelSavePoint:
            ordered = reader.ordered & in_order(step, reader.t, following)
            return KernelSavePoint(reader.count + 1, following, ordered)

        return in_lanes(one, self.block.lanes)(reader, following, step)

    def log(self, outputs: KernelTrace, accept: Array, step: Any) -> None:
        """Write the accepted steps down."""
        index = step.index.vector(self.block.lanes)
        self.block.put(outputs.clock, accept, index, [step.t.one(), step.h.one()])
        self.block.put(outputs.y, accept, index, step.y.flat())
        for ref, x in zip(
            outputs.solver_state, jax.tree.leaves(step.solver_state, is_leaf=is_cells), strict=False
        ):
            self.block.put(ref, accept, index, x.flat())

    def end(
        self, moving: IntegratorState, reader: Any
    ) -> tuple[LaneScalars, LaneScalars, LaneScalars]:
        """States, times and counts at the end."""

        def one(
            problem: IVP, config: SolveConfig, span: Span, moving: IntegratorState, reader: Any
        ) -> Any:
            return self.run.end_of(moving, span, reader or None)

        return self.lanewise(one)(moving, reader)

    def fill(self, outputs: Any, reader: Any) -> None:
        """The first values, at every time equal to the first; missing where none was reached."""

        def one(problem: IVP, config: SolveConfig, span: Span) -> tuple[PyTree, Array]:
            return step_reader(problem, config).fn(span.t0, problem.y0), span.t0

        values, t0 = self.lanewise(one)()
        leaves = jax.tree.leaves(values, is_leaf=is_cells)
        first = t0.vector(self.block.lanes)

        def put(mask: Array, index: Array) -> None:
            same = self.block.entry(self.times, index) == first
            for ref, x in zip(outputs, leaves, strict=False):
                nothing = missing_value(x.dtype)
                self.block.put(ref, mask, index, [chosen(same, c, nothing) for c in x.flat()])

        def turn(index: Array) -> Array:
            put(index < self.number, jnp.minimum(index, self.number - 1))
            return index + 1

        start = jnp.zeros((self.block.lanes,), jnp.int32)
        put(start == 0, start)
        written = reader.count.vector(self.block.lanes)
        lax.while_loop(lambda index: jnp.min(index) < self.number, turn, written)


def _plus_one(count: LaneScalars) -> LaneScalars:
    return LaneScalars.of([count.one() + count.dtype.type(1)], (), count.dtype)
