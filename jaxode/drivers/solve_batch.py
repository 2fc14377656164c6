"""`solve_batch`: many trajectories of one field, each with steps of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding
from jaxtyping import ArrayLike, PyTree

from ..batch.axes import (
    NAMES,
    axes_by_name,
    check_batch_times,
    check_not_empty,
    move_batch_axes_first,
    stack_batch_times,
    trajectory_shape,
)
from ..batch.memory import check_memory, event_log_bytes, saved_bytes
from ..batch.order import check_work, run_longest_first
from ..batch.sharding import find_sharding, run_sharded, shard_trajectories
from ..batch.tile_width import check_lanes, choose_tile
from ..integrate.ensemble import Ensemble
from ..integrate.events.event import AtRest, Event, Jumps, close_apply, close_events
from ..integrate.events.options import EventOptions, find_event_options
from ..integrate.forward import Result, solution_of
from ..integrate.ivp import IVP, SolveConfig, make_consistent, packed_field, without_gradient
from ..integrate.progress import find_counter
from ..integrate.solution import Solution, raise_on_failure
from ..integrate.step import Method
from ..kernels.dispatch import KernelPolicy, find_kernel_policy
from ..problem.closure import close
from ..problem.field import VectorField, check_field, close_field
from ..problem.jit import jit_with_captures
from ..problem.state import Packing, arrays_of_args, check_state, is_traced
from ..problem.tolerances import check_some_tolerance, check_tolerance_of_batch
from ..solvers.base import Solver
from ..solvers.implicit.consistent_initial import Algebraic
from ..solvers.step_size import Controller
from .backend import run_batch
from .options import (
    SaveName,
    Sensitivity,
    advice_of,
    check_save,
    check_split,
    close_jacobian,
    find_algebraic,
    find_method,
    find_sensitivity,
    one_direction,
    solver_for,
)


def solve_batch(
    f: VectorField | tuple[VectorField, VectorField],
    y0: PyTree,
    ts: Any,
    args: PyTree = None,
    *,
    in_axes: Any = (0, None, None),
    solver: str | Solver = "tsit5",
    rtol: ArrayLike = 1e-4,
    atol: PyTree = 1e-6,
    dt: ArrayLike | None = None,
    controller: Controller | None = None,
    save: SaveName | Callable[[Array, PyTree, PyTree], PyTree] = "ts",
    sensitivity: str | Sensitivity = "discrete",
    events: Event | AtRest | Sequence[Event | AtRest] | None = None,
    jumps: ArrayLike | Sequence[float] | Jumps | None = None,
    max_events: int = 64,
    max_steps: int = 4096,
    throw: bool = False,
    progress: bool | None = None,
    lanes: int | None = None,
    sharding: NamedSharding | None = None,
    kernel: Literal["auto"] | bool = "auto",
    work: ArrayLike | None = None,
) -> Solution:
    """Solve `dy/dt = f(t, y, args)` for many trajectories, each with its own steps.

    Every trajectory ends with the values, the status and the counts of its own `solve`, to
    rounding; none waits for another, and one that fails leaves the rest as they are. A gradient
    by what they share is summed over them inside the solve.

    **Arguments:** as of `solve`, but for

    - `f`: the vector field of one trajectory, shared by all.
    - `y0`, `ts`, `args`: those of all trajectories, or shared ones.
    - `in_axes`: which axis of `y0`, `ts` and `args` counts the trajectories, as in `jax.vmap`: an
      integer, None for what is shared, or a pytree of these. Two entries more give the axes of
      `rtol` and `atol`.
    - `jumps`: those of all trajectories, shape `(k,)`, or of each, shape `(trajectories, k)`; rows
      that need fewer are filled up with times outside `ts`.
    - `throw`: outside `jit` and `vmap`, raise if any trajectory fails. By default a trajectory that
      fails is NaN from there on, and `sols.status` says why.
    - `progress`: show a bar of the trajectories that are done (needs tqdm).
    - `lanes`: how many trajectories step together; None to choose by state, field and backend. In
      a kernel, a power of two: those that end together.
    - `sharding`: spreads the trajectories over devices, `NamedSharding(mesh, PartitionSpec(axis))`;
      by default as the first mapped array is spread. Each device runs its share by itself.
    - `kernel`: carry out the whole solve in one kernel, each trajectory in the registers of one
      thread of a GPU. True: **raises** `OptionError` with what is in the way, where something is
      (on a CPU kernels are interpreted, for tests). "auto": where it pays; so far nowhere, for it
      has not been measured. `sols.stats.engine` says what ran. Differentiated backwards once alone;
      and what `f` multiplies by a constant zero is zero, of NaN too.
    - `work`: how much each trajectory is expected to take, shape `(trajectories,)`, in any unit.
      Those that take long begin first, side by side: the others do not wait for them.

    **Returns:** a `Solution` whose arrays have a first axis of trajectories: `ys` is
    `(trajectories, times, ...)`, `status` is `(trajectories,)`. `ts` alone has it only where the
    times were mapped. `sols(t)` with `save="dense"` works as for one.

    **Raises:** `BatchError` for axes that do not fit, `OutOfMemoryError` for more than the machine
    holds, and what `solve` raises.
    """
    f = check_field(f)
    axes = axes_by_name(in_axes)
    check_not_empty(y0, axes["y0"])
    ts, axes["ts"] = stack_batch_times(ts, axes["ts"])
    given = {"y0": check_state(y0), "ts": ts, "args": args, "rtol": rtol, "atol": atol}
    trees, mapped, count = move_batch_axes_first(given, axes)
    trees["y0"] = repeated(trees["y0"], mapped["y0"], count)
    one = jax.tree.map(trajectory_shape, trees["y0"])
    packing = Packing.of(one)
    times = check_batch_times(trees["ts"], mapped["ts"], packing.time_dtype)
    check_some_tolerance(rtol, atol)
    rtol, atol = (
        check_tolerance_of_batch(name, trees[name], mapped[name], packing, one)
        for name in ("rtol", "atol")
    )
    known = None if is_traced(ts) or mapped["ts"] else ts
    meter = find_counter(progress)
    sensitivity = find_sensitivity(sensitivity)
    solver = solver_for(sensitivity, solver)
    engine = find_kernel_policy(kernel, check_lanes(lanes))
    method = find_method(solver, controller, rtol, atol, dt, max_steps, known, packing, meter)
    switches = find_event_options(events, jumps, max_events, method.controller, packing, count)
    check_split(f, method.solver)
    args = arrays_of_args(trees["args"])
    algebraic = find_algebraic(method.solver)
    rest = check_lanes(lanes), algebraic, switches, check_work(work, count)
    parts = _BatchParts(trees["y0"], times, args, method, check_save(save), *rest)
    flags = mapped["ts"], mapped["args"], [any(jax.tree.leaves(mapped[n])) for n in NAMES[3:]]
    _refuse_too_much(parts, mapped["args"], packing, count)
    spread = find_sharding(sharding, jax.tree.leaves(given))
    solution = jit_with_captures(_solve_batch, f, parts, flags, sensitivity, spread, engine)
    if throw:
        raise_on_failure(solution, advice_of(sensitivity))
    return solution


class _BatchParts(NamedTuple):
    """The arguments after their checks; mapped arrays have their trajectories first."""

    y0: PyTree
    ts: Array
    args: PyTree
    method: Method
    save: str | Callable
    lanes: int | None
    algebraic: Algebraic | None
    switches: EventOptions
    work: Array | None


def _refuse_too_much(parts: _BatchParts, own_args: PyTree, packing: Packing, count: int) -> None:
    """**Raises:** `OutOfMemoryError` if the machine cannot hold what is asked for."""
    save, read = parts.save, None
    if callable(save):
        y0 = jax.tree.map(trajectory_shape, parts.y0)
        args = jax.tree.map(lambda x, own: trajectory_shape(x) if own else x, parts.args, own_args)
        t = jax.ShapeDtypeStruct((), packing.real_dtype)
        read = eqx.filter_eval_shape(save, t, y0, args)
    saved = saved_bytes(save, packing, parts.method, parts.ts.shape[-1], read)
    ends = 2 * packing.size * packing.dtype.itemsize
    met = event_log_bytes(parts.switches, packing)
    check_memory({"saved values": saved, "events": met, "first and last states": ends}, count)


def _solve_batch(
    f: VectorField,
    parts: _BatchParts,
    mapped: tuple[bool, PyTree, list[bool]],
    sensitivity: Sensitivity,
    sharding: NamedSharding | None,
    engine: KernelPolicy,
) -> Solution:
    own_ts, own_args, own_tolerances = mapped
    switches = parts.switches
    y0 = jax.tree.map(trajectory_shape, parts.y0)
    args = jax.tree.map(lambda x, own: trajectory_shape(x) if own else x, parts.args, own_args)
    number = parts.ts.shape[-1]
    packing, save, read = Packing.of(y0), parts.save, None
    if callable(save):
        read, _ = close(save, jax.ShapeDtypeStruct((), packing.real_dtype), y0, args)
        save = "ts"
    elif save == "ts" and number == 2 and not switches.terminal:
        save = "ends"
    field = close_field(f, y0, args, packing)
    method = dataclasses.replace(without_gradient(parts.method), restarts=switches.any)
    plan = SolveConfig(method, save, packing, parts.algebraic, switches.max_events)  # pyright: ignore[reportArgumentType]
    jac = close_jacobian(parts.method.solver, y0, args, packing)
    events = close_events(switches.events, field, y0, args, packing)
    states = jax.vmap(packing.pack)(parts.y0)
    kick = close_apply("jo.Jumps", switches.apply, y0, args, packing)
    parts_of_it = parts.ts, parts.args, read, jac, events, switches.jumps, kick
    problem = IVP(field, states, *parts_of_it)
    flags = _flags(problem, plan, own_ts, own_args, own_tolerances)
    ensemble = Ensemble(*eqx.partition((problem, plan), flags))
    ensemble, found = _consistent_starts(ensemble, parts.algebraic)

    def run_ordered(own: PyTree, shared: PyTree) -> Result:
        return run_longest_first(run, own[0], shared, own[1])

    def run(own: PyTree, shared: PyTree) -> Result:
        local = Ensemble(own, shared)
        one, plan = local.one(jax.tree.map(lambda x: x[0], own))
        implicit, field = plan.method.solver.implicit, packed_field(one, plan)
        tile = choose_tile(field, one.ts[0], one.y0, local.count, parts.lanes, implicit)
        return run_batch(sensitivity, local, tile, engine)

    if sharding is None:
        marked = one_direction(ensemble, sensitivity)
        result = run_ordered((marked.per_trajectory, parts.work), marked.shared)
    else:
        ensemble = Ensemble(shard_trajectories(ensemble.per_trajectory, sharding), ensemble.shared)
        marked = one_direction(ensemble, sensitivity)
        own = marked.per_trajectory, parts.work
        result = run_sharded(run_ordered, own, marked.shared, sharding)
    return _solution(result, ensemble, found)


def _consistent_starts(
    ensemble: Ensemble, algebraic: Algebraic | None
) -> tuple[Ensemble, Array | None]:
    """The ensemble with starts that satisfy its algebraic equations, and which could be found."""
    if algebraic is None:
        return ensemble, None

    def one(rows: PyTree) -> tuple[Array, Array]:
        problem, found = make_consistent(*ensemble.one(rows), algebraic)
        return problem.y0, found

    y0, found = eqx.filter_vmap(one)(ensemble.per_trajectory)
    problem, plan = ensemble.per_trajectory
    return Ensemble((dataclasses.replace(problem, y0=y0), plan), ensemble.shared), found


def _flags(
    problem: IVP, config: SolveConfig, ts: bool, args: PyTree, tolerances: list[bool]
) -> tuple[IVP, SolveConfig]:
    """Which leaves each trajectory has for itself."""
    none = jax.tree.map(lambda _: False, (problem, config))
    own_jumps = None if problem.jumps is None else problem.jumps.ndim == 2
    own_problem = dataclasses.replace(none[0], y0=True, ts=ts, args=args, jumps=own_jumps)
    own_plan = eqx.tree_at(
        lambda p: (p.method.tolerance.rtol, p.method.tolerance.atol), none[1], tuple(tolerances)
    )
    return own_problem, own_plan


def _solution(result: Result, ensemble: Ensemble, found: Array | None) -> Solution:
    def one(rows: PyTree, result: Result, found: Array | None) -> Solution:
        return solution_of(result, *ensemble.one(rows), True if found is None else found)

    solution = eqx.filter_vmap(one)(ensemble.per_trajectory, result, found)
    share = jnp.mean(solution.stats.useful_share)  # each device's, in the place of each trajectory
    solution = dataclasses.replace(
        solution, stats=dataclasses.replace(solution.stats, useful_share=share)
    )
    shared = ensemble.shared[0].ts
    if shared is None or ensemble.config.save == "steps":
        return solution
    return dataclasses.replace(solution, ts=shared)


def repeated(tree: PyTree, mapped: PyTree, count: int) -> PyTree:
    """The same with a first axis of `count` trajectories in the leaves that have none."""
    return jax.tree.map(
        lambda x, flag: x if flag else jnp.broadcast_to(x, (count, *x.shape)), tree, mapped
    )
