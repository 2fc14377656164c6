"""`solve`: check the problem, choose how to differentiate it, run."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ..integrate.events.event import AtRest, Event, Jumps, trace_apply, trace_events
from ..integrate.events.options import EventOptions, find_event_options
from ..integrate.forward import solution_of
from ..integrate.ivp import IVP, SolveConfig, make_consistent, without_gradient
from ..integrate.progress import solve_progress
from ..integrate.solution import Solution, raise_on_failure
from ..integrate.step import Method
from ..problem.closure import closure_convert
from ..problem.field import VectorField, check_field, trace_field
from ..problem.jit import jit_with_captures
from ..problem.state import Packing, arrays_of_args, check_state, is_traced
from ..problem.times import check_times
from ..problem.tolerances import check_not_both_zero, check_tolerance
from ..solvers.base import Solver
from ..solvers.implicit.consistent_initial import Algebraic
from ..solvers.step_size import Controller
from .options import (
    SaveName,
    Sensitivity,
    check_save,
    check_split,
    failure_advice,
    find_algebraic,
    find_method,
    find_sensitivity,
    restrict_ad_direction,
    solver_for,
    trace_jacobian,
)


def solve(
    f: VectorField | tuple[VectorField, VectorField],
    y0: PyTree,
    ts: ArrayLike | tuple[ArrayLike, ...] | list[ArrayLike],
    args: PyTree = None,
    *,
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
    throw: bool = True,
    progress: bool | None = None,
) -> Solution:
    """Solve `dy/dt = f(t, y, args)` from `y(ts[0]) = y0`.

    Works under `jit`, `vmap`, `grad` and `hessian`, or with `sensitivity="forward"` under `jvp` and
    `jacfwd`; derivatives flow to `y0`, `args`, `ts`, the arrays of `f` and those it closes over.

    **Arguments:**

    - `f`: the vector field, without side effects. `t` is a scalar of the state's real dtype; `y`
      is like `y0`, and so must be what is returned, in structure, shapes and dtypes. A pair
      `(stiff, other)` stands for their sum, for solvers that treat only the first one implicitly.
    - `y0`: pytree of floating-point or complex arrays of any shapes.
    - `ts`: times, shape `(n,)` with `n >= 2`, increasing or decreasing; repeats are allowed. A
      pair `(t0, t1)` asks for the two ends.
    - `args`: any pytree, handed to `f`.
    - `solver`: a name or an object: "euler", "midpoint", "heun", "ralston", "rk4", "rk4_38",
      "heun_euler", "fehlberg2", "bosh3", "tsit5", "dopri5", "dopri8", "vern7". Of stiff problems:
      "rosenbrock23", "rodas4", "rodas5p", "trapezoid", "trbdf2", "kvaerno3", "kvaerno5", "kencarp4"
      (which takes a pair of fields too), and "auto", which switches. Of pairs (q, p):
      "semi_implicit_euler", "stormer_verlet", "yoshida4", "yoshida6", "mclachlan4" (symplectic),
      and for q'' = a(t, q) "nystrom4", "dprkn6".
    - `rtol`, `atol`: a step is accepted where its error is at most `atol + rtol * |y|`. `atol` may
      be a pytree like `y0`. Both are traced: changing them never recompiles. The defaults suit
      float32.
    - `dt`: the step of fixed-step solvers, the first step of adaptive ones; positive.
    - `controller`: `jo.PID()` and its kin, `jo.Fixed(dt)` or `jo.Grid(times)`.
    - `save`: "ts" for values at `ts`; "steps" for every accepted step (`max_steps + 1` rows, NaN
      where unused); "dense" for `sol(t)` besides values at `ts`; or a function `(t, y, args)`,
      whose values at `ts` are kept in the place of the states.
    - `sensitivity`: "discrete" or `jo.Discrete()`, "adjoint" or `jo.Continuous()`, "reversible" or
      `jo.Reversible()`, "forward" or `jo.Forward()`.
    - `events`: one `jo.Event` or several: conditions whose crossings are found, written down in
      `sol.events`, and acted upon; `jo.AtRest()` ends the solve where it has converged.
    - `jumps`: times at which `f` jumps, shape `(k,)` in any order, such as those of doses: a step
      ends on each, the next one begins afresh, and neither sees the other side. Times outside `ts`
      are passed over. `jo.Jumps(times, apply)` moves the state there too.
    - `max_events`: the room in `sol.events`; a solve with more of them fails.
    - `max_steps`: the most steps to attempt.
    - `throw`: outside `jit` and `vmap`, raise on failure. Inside, nothing is raised: what was not
      reached is NaN, and `sol.status` says why.
    - `progress`: show a bar in `t` (needs tqdm).

    **Returns:** a `Solution`.

    **Raises:** `StateError`, `TimesError`, `FieldError`, `ToleranceError`, `EventError` and
    `OptionError` for bad input; `SolveError` if the solve fails; `DifferentiationError` for a
    derivative that the `sensitivity` does not have. **Warns:** `ToleranceWarning`.
    """
    f = check_field(f)
    y0 = check_state(y0)
    packing = Packing.of(y0)
    known_ts = None if is_traced(ts) else ts
    times = check_times(ts, packing.time_dtype)
    check_not_both_zero(rtol, atol)
    rtol = check_tolerance("rtol", rtol, packing, y0)
    atol = check_tolerance("atol", atol, packing, y0)
    meter = solve_progress(progress)
    sensitivity = find_sensitivity(sensitivity)
    solver = solver_for(sensitivity, solver)
    method = find_method(solver, controller, rtol, atol, dt, max_steps, known_ts, packing, meter)
    switches = find_event_options(events, jumps, max_events, method.controller, packing)
    check_split(f, method.solver)
    args = arrays_of_args(args)
    solution = jit_with_captures(
        _solve,
        f,
        y0,
        times,
        args,
        method,
        check_save(save),
        sensitivity,
        find_algebraic(method.solver),
        switches,
    )
    if throw:
        raise_on_failure(solution, failure_advice(sensitivity))
    return solution


def _solve(
    f: VectorField,
    y0: PyTree,
    ts: Array,
    args: PyTree,
    method: Method,
    save: str | Callable,
    sensitivity: Sensitivity,
    algebraic: Algebraic | None,
    switches: EventOptions,
) -> Solution:
    packing = Packing.of(y0)
    read = None
    if callable(save):
        read, _ = closure_convert(save, jax.ShapeDtypeStruct((), packing.real_dtype), y0, args)
        save = "ts"
    elif save == "ts" and ts.shape[0] == 2 and not switches.terminal:
        save = "ends"
    field = trace_field(f, y0, args, packing)
    jac = trace_jacobian(method.solver, y0, args, packing)
    method = dataclasses.replace(without_gradient(method), restarts=switches.any)
    plan = SolveConfig(method, save, packing, algebraic, switches.max_events)  # pyright: ignore[reportArgumentType]
    watched = trace_events(switches.events, field, y0, args, packing)
    kick = trace_apply("jo.Jumps", switches.apply, y0, args, packing)
    problem = IVP(field, packing.pack(y0), ts, args, read, jac, watched, switches.jumps, kick)
    problem, found = make_consistent(problem, plan, algebraic)
    result = sensitivity.solve(restrict_ad_direction(problem, sensitivity), plan)
    return solution_of(result, problem, plan, found)
