"""Solves whose times float32 cannot hold: they count time from an origin that the host keeps.

Inside such a solve times are offsets. The user's functions receive times, rounded to the dtype of
the state, and the `Solution` holds times in float64 of NumPy.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ..integrate.events.compiled import takes_four
from ..integrate.events.event import Event, Jumps
from ..integrate.events.options import jump_times
from ..integrate.solution import Solution
from ..problem.calling import taking_args
from ..problem.errors import OptionError
from ..problem.field import VectorField, map_parts
from ..problem.origin import Origin
from ..problem.staging import as_array, under_jit
from ..problem.state import is_traced
from ..problem.time_precision import (
    check_resolution,
    coarse_time,
    find_origin,
    tells_apart,
    warn_of_lost_digits,
)
from ..problem.times import saved_rows
from ..solvers.prescribed_steps import Grid
from ..solvers.step_size import PID
from .eager import run_driver
from .options import with_jac
from .prepare import Inputs, Options


def run_solve(
    function: Callable[..., Any], f: VectorField, inputs: Inputs, options: Options, *rest: Any
) -> Solution:
    """`run_driver`, with times as offsets from an origin where their dtype cannot hold them.

    **Raises:** as `run_driver`, and `TimesError` for times that become equal. **Warns:**
    `TimesWarning` for times that are given or held in a dtype that is coarse for them.
    """
    given, packing = inputs.given_ts, inputs.packing
    plain = options.jumps is None and not isinstance(options.controller, Grid)
    if given is None or (plain and tells_apart(given, packing.time_dtype)):
        return run_driver(function, f, inputs, options, *rest)
    warned = under_jit() or warn_of_lost_digits(given)
    inputs = inputs._replace(coarse_time=None if warned else coarse_time(given, packing))
    origin = find_origin(given, packing)
    _check_resolution(given, origin, inputs, options)
    if origin is None:
        return run_driver(function, f, inputs, options, *rest)
    inputs, options = _inputs_from(origin, inputs), _options_from(origin, options, inputs.count)
    solution = run_driver(function, map_parts(_FromOrigin, f), inputs, options, *rest)
    return _with_origin(solution, origin, given, options)


def _check_resolution(
    given: np.ndarray, origin: Origin | None, inputs: Inputs, options: Options
) -> None:
    """Check that times, jumps and grid are told apart. **Raises** and **warns** as `run_solve`."""
    dtype, ends = inputs.packing.time_dtype, np.sort(given[..., [0, -1]])
    jumps = jump_times(options.jumps, inputs.count)
    grid = options.controller.times if isinstance(options.controller, Grid) else None

    def check(what: str, times: Any, origin: Origin | None) -> None:
        offsets = times if origin is None else origin.offsets(times)
        check_resolution(what, times, offsets.astype(dtype))

    check("ts", given, origin)
    if isinstance(jumps, np.ndarray) and jumps.dtype != dtype:
        # Those outside of the solve are ignored.
        check("jumps", np.sort(np.clip(jumps, ends[..., :1], ends[..., 1:])), origin)
    if grid is not None and not is_traced(grid):
        check("grid times", np.asarray(grid), origin and origin.of_first())


class _FromOrigin(eqx.Module):
    """A function of `(t, y, args)` as one of the offset, whose `args` hold the origin too."""

    func: Callable[..., Any]

    def __call__(self, t: Array, y: PyTree, args: PyTree) -> Any:
        args, origin = args
        return self.func(origin.clock(t), y, args)


class _IndexFromOrigin(eqx.Module):
    """As `_FromOrigin`, of a function that takes the index of a jump too."""

    func: Callable[..., Any]

    def __call__(self, t: Array, y: PyTree, args: PyTree, index: Array) -> Any:
        args, origin = args
        return self.func(origin.clock(t), y, args, index)


def _inputs_from(origin: Origin, inputs: Inputs) -> Inputs:
    """The inputs with offsets for times; the origin goes with `args`."""
    offsets, mapped = origin.offsets(inputs.given_ts), inputs.mapped
    if mapped is not None:
        mapped = mapped._replace(args=(mapped.args, Origin(mapped.ts, mapped.ts)))  # pyright: ignore
    return inputs._replace(
        ts=as_array(offsets, inputs.packing.time_dtype),
        args=(inputs.args, origin),
        given_ts=offsets,
        mapped=mapped,
    )


def _options_from(origin: Origin, options: Options, count: int | None) -> Options:
    """The options with offsets for times, and functions of these."""
    solver, controller, events = options.solver, options.controller, options.events
    if getattr(solver, "jac", None) is not None:
        solver = with_jac(solver, _FromOrigin(taking_args(solver.jac)))
    if isinstance(controller, Grid):
        controller = Grid(origin.of_first().offsets(controller.times))
    if isinstance(controller, PID) and controller.step_ts is not None:
        if origin.of_each:
            raise OptionError("step_ts of a controller needs times that all trajectories share")
        controller = dataclasses.replace(controller, step_ts=origin.offsets(controller.step_ts))
    if isinstance(events, list | tuple):
        events = tuple(map(_event_from, events))
    return dataclasses.replace(
        options,
        solver=solver,
        controller=controller,
        save=_FromOrigin(taking_args(options.save)) if callable(options.save) else options.save,
        events=events if isinstance(events, tuple) else _event_from(events),
        jumps=_jumps_from(origin, options.jumps, count),
    )


def _event_from(event: Any) -> Any:
    if not isinstance(event, Event):
        return event
    apply = None if event.apply is None else _map_from(event.apply)
    condition = _FromOrigin(taking_args(event.condition))
    return Event(condition, event.direction, apply, event.terminal)


def _map_from(apply: Callable) -> Callable:
    """A state map of events or jumps as one of the offset."""
    return _IndexFromOrigin(apply) if takes_four(apply) else _FromOrigin(taking_args(apply))


def _jumps_from(origin: Origin, jumps: Any, count: int | None) -> Any:
    """Jumps with offsets for times; of the trajectories of a batch, if these have own origins."""
    times = jump_times(jumps, count)
    if times is None:
        return jumps
    offsets = origin.offsets_of_all(times) if times.ndim == 1 else origin.offsets(times)
    if not isinstance(jumps, Jumps):
        return offsets
    apply: Any = jumps.apply
    apply = None if apply is None else _map_from(apply)
    return Jumps(offsets, apply, jumps.saved, jumps.ends)


def _with_origin(
    solution: Solution, origin: Origin, given: np.ndarray, options: Options
) -> Solution:
    """The solution with times for offsets."""
    rows = saved_rows(given.shape[-1], options.unsaved)
    saved = given[..., rows].astype(np.float64)
    ts = origin.times(solution.ts) if options.save == "steps" else saved
    reached = origin.times(solution.stats.t_reached)
    stats, events = dataclasses.replace(solution.stats, t_reached=reached), solution.events
    if events is not None:
        events = dataclasses.replace(events, ts=origin.times(events.ts))
    return dataclasses.replace(solution, ts=ts, stats=stats, events=events, origin=origin)
