"""Preparation of a solve, common to all drivers: validation, packing, closure conversion."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ..batch.axes import trajectory_shape
from ..integrate.events.compiled import trace_events, trace_indexed
from ..integrate.events.event import may_end
from ..integrate.events.options import EventOptions, find_event_options
from ..integrate.ivp import IVP, SolveConfig, without_gradient
from ..integrate.progress import batch_progress, solve_progress
from ..integrate.step import Method
from ..problem.field import VectorField, trace_field
from ..problem.staging import as_array
from ..problem.state import Packing, arrays_of_args, check_state
from ..problem.time_precision import with_times
from ..problem.times import Ends, check_times
from ..problem.tolerances import check_not_both_zero, check_tolerance
from ..solvers.implicit.consistent_initial import Algebraic
from .complex_states import packing_for
from .options import (
    Sensitivity,
    check_bounded,
    check_save,
    check_split,
    find_algebraic,
    find_method,
    find_sensitivity,
    solver_for,
    trace_jacobian,
    trace_save,
    without_arrays_of_jac,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that the drivers have in common, as the user gives them; see `solve`.

    `unsaved`: whether the first and the last time are not among those to be saved.
    """

    solver: Any
    rtol: Any
    atol: Any
    dt: Any = None
    controller: Any = None
    save: Any = "ts"
    sensitivity: Any = "discrete"
    events: Any = None
    jumps: Any = None
    max_events: Any = 64
    overflow: Any = "fail"
    max_steps: Any = 4096
    progress: Any = None
    unsaved: Ends = (False, False)


class Mapped(NamedTuple):
    """Flags of a batch, True for arrays with a first axis of trajectories; `args` is a pytree."""

    ts: bool
    args: PyTree
    rtol: bool
    atol: bool


class Inputs(NamedTuple):
    """Validated state, times, arguments and tolerances of one trajectory or of a batch.

    `given_ts` are the times in the dtype in which the user gives them, if their values are known.
    `mapped` tells which arrays of a batch differ between trajectories and have a first axis of
    them, as `y0` has; it is None for one trajectory. `coarse_time`: what to warn of where a
    function reads the time.
    """

    y0: PyTree
    ts: Array
    args: PyTree
    rtol: Array
    atol: Array
    packing: Packing
    given_ts: np.ndarray | None = None
    mapped: Mapped | None = None
    coarse_time: str | None = None

    @property
    def known_ts(self) -> np.ndarray | None:
        """The times, if their values are known and all trajectories share them."""
        own = self.mapped is not None and self.mapped.ts
        return None if own else self.given_ts

    @property
    def count(self) -> int | None:
        """The number of trajectories of a batch, or None."""
        if self.mapped is None:
            return None
        others = self.ts, self.args, self.rtol, self.atol
        return count_mapped(self.y0, others, self.mapped)


def count_mapped(y0: PyTree, others: Any, mapped: Mapped) -> int:
    """The number of trajectories of a batch, from `others` if the state has no arrays."""
    states = jax.tree.leaves(y0)
    if states:
        return states[0].shape[0]
    leaves = zip(jax.tree.leaves(tuple(others)), jax.tree.leaves(tuple(mapped)), strict=True)
    return next(np.shape(x)[0] for x, own in leaves if own)


def of_one_trajectory(y0: PyTree, args: PyTree, mapped: Mapped | None) -> tuple[PyTree, PyTree]:
    """The state and the arguments of one trajectory; of a batch, mapped ones by their shapes."""
    if mapped is None:
        return y0, args
    shapes = jax.tree.map(lambda x, own: trajectory_shape(x) if own else x, args, mapped.args)
    return jax.tree.map(trajectory_shape, y0), shapes


class Prepared(eqx.Module):
    """A validated problem with its numerical method, ready to be traced.

    `ts` and `mapped` are as in `Inputs`.
    """

    y0: PyTree
    ts: Array
    args: PyTree
    method: Method
    save: str | Callable
    sensitivity: Sensitivity
    algebraic: Algebraic | None
    events: EventOptions
    mapped: Mapped | None
    packing: Packing = eqx.field(static=True)
    unsaved: Ends = eqx.field(static=True, default=(False, False))


def check_tolerances(options: Options, y0: PyTree, packing: Packing) -> tuple[Array, Array]:
    """Validate both tolerances of a solve from `y0`. **Raises:** `ToleranceError`."""
    check_not_both_zero(options.rtol, options.atol)
    rtol = check_tolerance("rtol", options.rtol, packing, y0)
    return rtol, check_tolerance("atol", options.atol, packing, y0)


def trajectory_inputs(
    y0: PyTree, ts: Any, args: PyTree, options: Options, by_parts: bool = False
) -> Inputs:
    """Validate the inputs of one trajectory; `by_parts`: it steps the parts of a complex state.

    **Raises:** `StateError`, `TimesError`, `ToleranceError`, `EventError`.
    """
    y0, times = check_state(y0), check_times(ts, options.unsaved, may_end(options.events))
    packing = packing_for(y0, options.solver, options.sensitivity)
    packing = with_times(packing.by_parts() if by_parts else packing, times, ts)
    tolerances = check_tolerances(options, y0, packing)
    given = times if isinstance(times, np.ndarray) else None
    return Inputs(y0, as_array(times, packing.time_dtype), args, *tolerances, packing, given)


def prepare(f: VectorField, inputs: Inputs, options: Options) -> Prepared:
    """Validate the options, and find the numerical method for the inputs.

    **Raises:** `OptionError` for invalid or incompatible options, `StateError` if the solver does
    not support such a state, `EventError` and `TimesError` for invalid events and jumps.
    """
    single, packing = inputs.count is None, inputs.packing
    progress = (solve_progress if single else batch_progress)(options.progress)
    sensitivity = find_sensitivity(options.sensitivity)
    method = find_method(
        solver_for(sensitivity, options.solver, options.controller),
        options.controller,
        inputs.rtol,
        inputs.atol,
        options.dt,
        options.max_steps,
        inputs.known_ts,
        packing,
        progress,
    )
    events = find_event_options(
        options.events,
        options.jumps,
        options.max_events,
        options.overflow,
        method.controller,
        packing,
        inputs.count,
    )
    check_split(f, method.solver)
    save = check_save(options.save)
    check_bounded(method, save, sensitivity)
    return Prepared(
        y0=inputs.y0,
        ts=inputs.ts,
        args=arrays_of_args(inputs.args),
        method=method,
        save=save,
        sensitivity=sensitivity,
        algebraic=find_algebraic(method.solver),
        events=events,
        mapped=inputs.mapped,
        packing=packing,
        unsaved=options.unsaved,
    )


def trace_problem(
    f: VectorField,
    prepared: Prepared,
    y0: PyTree,
    args: PyTree,
    pack: Callable[[PyTree], Array],
) -> tuple[IVP, SolveConfig]:
    """Closure-convert the field, its Jacobian, save function and events.

    `y0`, `args`: those of one trajectory, or their shapes. `pack`: packs `prepared.y0`, of a batch
    along its first axis.

    **Raises:** `FieldError` and `EventError` if they do not fit the state.
    """
    packing, save, save_fn, events = prepared.packing, prepared.save, None, prepared.events
    if callable(save):
        save_fn = trace_save(save, y0, args, packing)
        save = "ts"
    elif save == "ts" and prepared.ts.shape[-1] == 2 and not events.terminal:
        # Where the state jumps at the last time, what is saved there may differ from `y1`.
        save = "ends" if events.apply is None else "ts"
    field = trace_field(f, y0, args, packing)
    solver = without_arrays_of_jac(prepared.method.solver)
    method = dataclasses.replace(prepared.method, solver=solver, restarts=events.any)
    problem = IVP(
        field=field,
        save_fn=save_fn,
        jac=trace_jacobian(prepared.method.solver, y0, args, packing),
        events=trace_events(events.events, field, y0, args, packing),
        jumps=events.jumps,
        jump_map=trace_indexed("jo.Jumps", events.apply, y0, args, packing),
        y0=pack(prepared.y0),
        ts=prepared.ts,
        args=prepared.args,
    )
    config = SolveConfig(
        without_gradient(method),
        save,  # pyright: ignore[reportArgumentType]
        packing,
        prepared.algebraic,
        events.max_events,
        events.stops_looking,
        saves_after_jumps=events.saves_after and events.apply is not None,
        jump_ends=events.jump_ends,
        unsaved=prepared.unsaved,
    )
    return problem, config
