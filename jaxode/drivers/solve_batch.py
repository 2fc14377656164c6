"""`solve_batch`: the driver for many trajectories of one field, each with its own step sizes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jaxtyping import ArrayLike, PyTree

from ..batch.axes import (
    axes_by_name,
    batch_times_with_ends,
    check_not_empty,
    move_batch_axes_first,
    moved_times,
    trajectory_shape,
)
from ..batch.memory import check_memory, event_log_bytes, saved_bytes
from ..batch.order import check_work, run_longest_first
from ..batch.sharding import find_sharding, run_sharded, shard_trajectories
from ..batch.tile_width import check_lanes, tile_of
from ..integrate.ensemble import Ensemble
from ..integrate.events.event import AtRest, Event, Jumps, may_end
from ..integrate.forward import Result
from ..integrate.ivp import IVP, SolveConfig, make_consistent
from ..integrate.jumps_at_ends import jump_at_start
from ..integrate.solution import Solution, has_failed, raise_on_failure
from ..integrate.user_solution import solution_of
from ..kernels.dispatch import KernelPolicy, find_kernel_policy
from ..problem.field import VectorField, check_field
from ..problem.manual_axes import vary_together
from ..problem.promotion import with_own_promotion
from ..problem.staging import as_array, under_jit
from ..problem.state import check_state, check_state_leaves
from ..problem.time_precision import with_times
from ..problem.times import saved_rows
from ..problem.tolerances import check_not_both_zero, check_tolerance_of_batch
from ..problem.validation import check_flag
from ..solvers.base import Solver
from ..solvers.implicit.consistent_initial import Algebraic
from ..solvers.step_size import Controller
from .backend import run_batch
from .complex_states import packing_for
from .from_origin import run_solve
from .options import (
    SaveName,
    Sensitivity,
    failure_advice,
    find_sensitivity,
    restrict_ad_direction,
)
from .prepare import (
    Inputs,
    Mapped,
    Options,
    Prepared,
    count_mapped,
    of_one_trajectory,
    trace_problem,
)
from .resume import resumed
from .save_at import SaveAt, plan_saves


@with_own_promotion
def solve_batch(
    f: VectorField | tuple[VectorField, VectorField],
    y0: PyTree = None,
    ts: Any = None,
    args: PyTree = None,
    *,
    t0: ArrayLike | None = None,
    t1: ArrayLike | None = None,
    start: Solution | None = None,
    in_axes: Any = (0, None, None),
    solver: str | Solver = "tsit5",
    rtol: ArrayLike = 1e-4,
    atol: PyTree = 1e-6,
    dt: ArrayLike | None = None,
    controller: Controller | None = None,
    save: SaveName | Callable[..., PyTree] | SaveAt | PyTree = "ts",
    sensitivity: str | Sensitivity = "discrete",
    events: Event | AtRest | Sequence[Event | AtRest] | None = None,
    jumps: ArrayLike | Sequence[float] | Jumps | None = None,
    max_events: int = 64,
    overflow: Literal["fail", "stop"] = "fail",
    max_steps: int | None = 4096,
    throw: bool = False,
    progress: bool | None = None,
    lanes: int | None = None,
    sharding: NamedSharding | None = None,
    kernel: Literal["auto"] | bool = "auto",
    work: ArrayLike | None = None,
) -> Solution:
    """Solve `dy/dt = f(t, y, args)` for many trajectories, each with its own step sizes.

    Each trajectory gets the values, status and statistics of its own `solve`, to rounding. No
    trajectory waits for another one, and one that fails leaves the others unchanged. The gradient
    with respect to shared inputs is summed over the trajectories inside the solve.

    **Arguments:** as for `solve`, except

    - `f`: the vector field of one trajectory, shared by all.
    - `y0`, `ts`, `args`: those of all trajectories, or shared ones.
    - `t0`, `t1`: the ends of the solve, scalars, or of each trajectory, shape `(trajectories,)`.
    - `start`: a solution of a batch that this one goes on from, by its last states and times.
    - `in_axes`: the axes of `y0`, `ts` and `args` that count the trajectories, as in `jax.vmap`: an
      integer, None for shared inputs, or a pytree of these. Two more entries give the axes of
      `rtol` and `atol`.
    - `jumps`: shared ones, shape `(k,)`, or those of each trajectory, shape `(trajectories, k)`;
      pad shorter rows with times outside of `ts`.
    - `throw`: outside `jit` and `vmap`, raise if any trajectory fails. By default a trajectory that
      fails is NaN from there on, and `sols.status` gives the reason.
    - `progress`: show a progress bar of finished trajectories (needs tqdm).
    - `lanes`: the number of trajectories that step together in SIMD lanes; None to choose it by
      state, field and backend. For a kernel: lanes per block, rounded down to a power of two.
    - `sharding`: spreads the trajectories over devices, `NamedSharding(mesh, PartitionSpec(axis))`;
      by default that of the first mapped array. Each device solves its share independently.
    - `kernel`: True to run the whole solve in one Pallas kernel, each trajectory in the registers
      of one GPU thread; **raises** `OptionError` with the reason if that is impossible. (On a CPU
      kernels are interpreted, for tests.) "auto" for a kernel where it is known to be faster: so
      far nowhere, because that has not been measured. `sols.stats.engine` tells what ran. A kernel
      has first derivatives only, backwards; and a product of `f` with a constant zero is zero, also
      for NaN.
    - `work`: the expected work of each trajectory, shape `(trajectories,)`, in any unit. The
      longest trajectories start first, side by side, so that the others do not wait for them.

    **Returns:** a `Solution` whose arrays have a first axis of trajectories: `ys` has the shape
    `(trajectories, times, ...)`, `status` the shape `(trajectories,)`. `ts` has that axis only if
    the times are mapped. `sols(t)` works with `save="dense"`.

    **Raises:** `BatchError` for axes that do not fit, `OutOfMemoryError` if the results exceed the
    machine's memory, and the errors of `solve`. **Warns:** as `solve`.
    """
    y0, t0 = resumed(start, y0, t0)
    axes = axes_by_name(in_axes)
    plan = plan_saves(save, ts, t0, t1, mapped=axes["ts"] is not None)
    times = plan.ts, axes["ts"], plan.t0, plan.t1
    ts, axes["ts"], unsaved = batch_times_with_ends(*times)
    options = Options(
        solver=solver,
        rtol=rtol,
        atol=atol,
        dt=dt,
        controller=controller,
        save=plan.save,
        sensitivity=sensitivity,
        events=events,
        jumps=jumps,
        max_events=max_events,
        overflow=overflow,
        max_steps=max_steps,
        progress=progress,
        unsaved=unsaved,
    )
    f, throw = check_field(f), check_flag("throw", throw)
    inputs, leaves = _batch_inputs(y0, ts, args, options, axes)
    assert inputs.count is not None
    lanes, work = check_lanes(lanes), check_work(work, inputs.count)
    policy = find_kernel_policy(kernel, lanes)
    launch = _Launch(lanes, work, policy, find_sharding(sharding, leaves))
    solution = run_solve(_solve_batch, f, inputs, options, launch)
    if throw and has_failed(solution.status):
        raise_on_failure(solution, failure_advice(find_sensitivity(sensitivity)))
    return plan.of_entries(solution)


class _Launch(NamedTuple):
    """How a batch is run."""

    lanes: int | None
    work: Array | None
    kernel_policy: KernelPolicy
    sharding: NamedSharding | None


def _batch_inputs(
    y0: PyTree, ts: Any, args: PyTree, options: Options, axes: dict[str, Any]
) -> tuple[Inputs, list[Any]]:
    """Validate the inputs of a batch, and move their mapped axes first.

    Returns the inputs, and the arrays as the user gives them.

    **Raises:** `BatchError`, `StateError`, `TimesError`, `ToleranceError`.
    """
    check_state_leaves(y0)
    times = moved_times(ts, axes["ts"], options.unsaved, may_end(options.events))
    check_not_empty(y0, axes["y0"])
    user_trees = {
        "y0": check_state(y0), "ts": ts, "args": args, "rtol": options.rtol, "atol": options.atol,
    }  # fmt: skip
    trees, mapped, count = move_batch_axes_first(user_trees, axes)
    y0 = _over_trajectories(trees["y0"], mapped["y0"], count)
    example = jax.tree.map(trajectory_shape, y0)
    packing = packing_for(example, options.solver, options.sensitivity)
    packing = with_times(packing, times, ts)
    check_not_both_zero(options.rtol, options.atol)
    rtol, atol = (
        check_tolerance_of_batch(name, trees[name], mapped[name], packing, example)
        for name in ("rtol", "atol")
    )
    given = times if isinstance(times, np.ndarray) else None
    any_rtol, any_atol = (any(jax.tree.leaves(mapped[name])) for name in ("rtol", "atol"))
    flags = Mapped(mapped["ts"], mapped["args"], any_rtol, any_atol)
    times = as_array(times, packing.time_dtype)
    inputs = Inputs(y0, times, trees["args"], rtol, atol, packing, given, flags)
    return inputs, jax.tree.leaves(user_trees)


def _over_trajectories(tree: PyTree, mapped: PyTree, count: int) -> PyTree:
    """Broadcast the leaves that are not mapped along a first axis of `count` trajectories."""
    return jax.tree.map(
        lambda x, flag: x if flag else jnp.broadcast_to(x, (count, *x.shape)), tree, mapped
    )


def _check_memory(prepared: Prepared, count: int, y0: PyTree, args: PyTree) -> None:
    """Check that the machine's memory holds the results. **Raises:** `OutOfMemoryError`.

    `y0` and `args` are those of one trajectory, or their shapes.
    """
    packing, values = prepared.packing, None
    if callable(prepared.save):
        t = jax.ShapeDtypeStruct((), packing.real_dtype)
        values = eqx.filter_eval_shape(prepared.save, t, y0, args)
    num_times = prepared.ts.shape[-1]
    saved = saved_bytes(prepared.save, packing, prepared.method, num_times, values)
    ends = 2 * packing.size * packing.dtype.itemsize
    events = event_log_bytes(prepared.events, packing)
    needs = {"saved values": saved, "events": events, "first and last states": ends}
    check_memory(needs, count)


def _solve_batch(f: VectorField, prepared: Prepared, launch: _Launch) -> Solution:
    sensitivity, mapped = prepared.sensitivity, prepared.mapped
    assert mapped is not None
    example = of_one_trajectory(prepared.y0, prepared.args, mapped)
    tolerance = prepared.method.tolerance
    others = prepared.ts, prepared.args, tolerance.rtol, tolerance.atol
    count = count_mapped(prepared.y0, others, mapped)
    _check_memory(prepared, count, *example)
    pack = jax.vmap(prepared.packing.pack, axis_size=count)
    traced = trace_problem(f, prepared, *example, pack)
    problem, config = vary_together(traced) if under_jit() else traced
    flags = _per_trajectory_flags(problem, config, mapped)
    ensemble = Ensemble(*eqx.partition((problem, config), flags))
    ensemble, consistent = _make_consistent_starts(ensemble, prepared.algebraic)
    y0 = ensemble.per_trajectory[0].y0
    ensemble = _jump_at_starts(ensemble)

    def run_sorted(inputs: PyTree, shared: PyTree) -> Result:
        per_trajectory, work = inputs
        return run_longest_first(run, per_trajectory, shared, work)

    def run(per_trajectory: PyTree, shared: PyTree) -> Result:
        local = Ensemble(per_trajectory, shared)
        return run_batch(sensitivity, local, tile_of(local, launch.lanes), launch.kernel_policy)

    if launch.sharding is None:
        marked = restrict_ad_direction(ensemble, sensitivity)
        result = run_sorted((marked.per_trajectory, launch.work), marked.shared)
    else:
        rows = ensemble.per_trajectory, consistent, y0
        spread, consistent, y0 = shard_trajectories(rows, launch.sharding)
        ensemble = Ensemble(spread, ensemble.shared)
        marked = restrict_ad_direction(ensemble, sensitivity)
        inputs = marked.per_trajectory, launch.work
        result = run_sharded(run_sorted, inputs, marked.shared, launch.sharding)
    return _solution(result, ensemble, consistent, y0, sensitivity.by_steps)


def _make_consistent_starts(
    ensemble: Ensemble, algebraic: Algebraic | None
) -> tuple[Ensemble, Array | None]:
    """Make the initial states satisfy the algebraic equations; also returns where it succeeded."""
    if algebraic is None:
        return ensemble, None

    def consistent_start(rows: PyTree) -> tuple[Array, Array]:
        problem, converged = make_consistent(*ensemble.problem_of(rows), algebraic)
        return problem.y0, converged

    y0, converged = eqx.filter_vmap(consistent_start)(ensemble.per_trajectory)
    problem, config = ensemble.per_trajectory
    per_trajectory = dataclasses.replace(problem, y0=y0), config
    return Ensemble(per_trajectory, ensemble.shared), converged


def _jump_at_starts(ensemble: Ensemble) -> Ensemble:
    """Apply the jumps at the first times."""
    if ensemble.shared[0].jump_map is None:
        return ensemble
    starts = eqx.filter_vmap(lambda rows: jump_at_start(*ensemble.problem_of(rows)).y0)
    problem, config = ensemble.per_trajectory
    problem = dataclasses.replace(problem, y0=starts(ensemble.per_trajectory))
    return Ensemble((problem, config), ensemble.shared)


def _per_trajectory_flags(
    problem: IVP, config: SolveConfig, mapped: Mapped
) -> tuple[IVP, SolveConfig]:
    """Mark the leaves that have a first axis of trajectories."""
    shared_problem, shared_config = jax.tree.map(lambda _: False, (problem, config))
    jumps = None if problem.jumps is None else problem.jumps.ndim == 2
    problem_flags = dataclasses.replace(
        shared_problem, y0=True, ts=mapped.ts, args=mapped.args, jumps=jumps
    )
    config_flags = eqx.tree_at(
        lambda c: (c.method.tolerance.rtol, c.method.tolerance.atol),
        shared_config,
        (mapped.rtol, mapped.atol),
    )
    return problem_flags, config_flags


def _solution(
    result: Result,
    ensemble: Ensemble,
    consistent: Array | None,
    y_before: Array,
    by_steps: bool,
) -> Solution:
    """Make the solution of all trajectories; the last two arguments as in `solution_of`."""

    def solution_of_row(
        rows: PyTree, result: Result, consistent: Array | None, y_before: Array
    ) -> Solution:
        problem, config = ensemble.problem_of(rows)
        good = True if consistent is None else consistent
        return solution_of(result, problem, config, good, y_before, by_steps)

    parts = ensemble.per_trajectory, result, consistent, y_before
    solution = eqx.filter_vmap(solution_of_row)(*parts)
    share = jnp.mean(solution.stats.useful_share)  # each trajectory has that of its device
    stats = dataclasses.replace(solution.stats, useful_share=share)
    solution = dataclasses.replace(solution, stats=stats)
    shared_ts = ensemble.shared[0].ts
    if shared_ts is None or ensemble.config.save == "steps":
        return solution
    if any(ensemble.config.unsaved):
        shared_ts = shared_ts[saved_rows(shared_ts.shape[0], ensemble.config.unsaved)]
    return dataclasses.replace(solution, ts=shared_ts)
