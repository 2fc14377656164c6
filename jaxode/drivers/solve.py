"""`solve`: the driver for one initial value problem."""

from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import ArrayLike, PyTree

from ..integrate.events.event import AtRest, Event, Jumps
from ..integrate.ivp import make_consistent
from ..integrate.jumps_at_ends import jump_at_start
from ..integrate.solution import Solution, has_failed, raise_on_failure, warn_if_stiff
from ..integrate.user_solution import solution_of
from ..problem.field import VectorField, check_field
from ..problem.manual_axes import vary_together
from ..problem.promotion import with_own_promotion
from ..problem.staging import under_jit
from ..problem.times import times_with_ends
from ..problem.validation import check_flag
from ..solvers.base import Solver
from ..solvers.step_size import Controller
from .from_origin import run_solve
from .options import (
    SaveName,
    Sensitivity,
    failure_advice,
    find_sensitivity,
    restrict_ad_direction,
)
from .prepare import Options, Prepared, trace_problem, trajectory_inputs
from .resume import next_dt, resumed
from .save_at import SaveAt, plan_saves
from .solver_list import list_solvers


@list_solvers
@with_own_promotion
def solve(
    f: VectorField | tuple[VectorField, VectorField],
    y0: PyTree = None,
    ts: ArrayLike | tuple[ArrayLike, ...] | list[ArrayLike] | None = None,
    args: PyTree = None,
    *,
    t0: ArrayLike | None = None,
    t1: ArrayLike | None = None,
    start: Solution | None = None,
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
    throw: bool = True,
    progress: bool | None = None,
) -> Solution:
    """Solve the initial value problem `dy/dt = f(t, y, args)`, `y(t0) = y0`, to `t1`.

    Works under `jit`, `vmap`, `grad` and `hessian`, or with `sensitivity="forward"` under `jvp` and
    `jacfwd`. Outside `jit` every call traces `f` and the other functions anew, so that it follows
    what they read; the compiled program is kept. Derivatives flow to `y0`, `args`, `ts`, and the
    arrays that `f` holds or captures. Under `vmap` the solves go into lanes, as those of
    `solve_batch` do.

    **Arguments:**

    - `f`: the vector field, a function `(t, y, args)` or `(t, y)` without side effects. `t` is a
      scalar of the state's real dtype, `y` a pytree like `y0`; the output needs the structure,
      shapes and dtypes of `y0`, where a list may stand for a tuple and a number of Python for a
      scalar. A pair `(stiff, other)` of fields stands for their sum, for IMEX solvers, which treat
      only the stiff part implicitly.
    - `y0`: the initial state, a pytree of floating-point or complex arrays of any shapes. Integers
      become floats. It may be empty. Implicit solvers step the real and the imaginary part of
      complex components, and weigh the error of each by its own size.
    - `ts`: the times of the saved states, shape `(n,)`, increasing or decreasing; repeats are
      allowed. The solve runs from the first to the last, of which there must be two, unless `t0`
      and `t1` say otherwise: a pair `(t0, t1)` saves the states at the two ends. Times keep their
      precision, whatever that of the state: float64 if that is enabled; else known times far from
      zero become offsets from an origin that the host keeps. `f` receives the nearest `t` of its
      dtype.
    - `t0`, `t1`: the ends of the solve, scalars, if they are others than those of `ts`. With both,
      `ts` may be one time, or None to save the states at the two ends. `sol.y1` is at `t1`.
    - `start`: a solution that this solve goes on from: `y0`, `t0` and `dt` are then its last state,
      the time of that, a constant for derivatives, and the step size that would have followed.
    - `args`: any pytree, passed to `f`, as one argument. Outside `jit` its numbers are traced, an
      integer unless its value is needed: other values do not recompile.
    - `solver`: an object such as `jo.Tsit5()`, or a name (synonyms in parentheses):
      {solvers}
    - `rtol`, `atol`: relative and absolute tolerance: a step is accepted if the norm of its error
      estimate, divided by `atol + rtol * |y|`, is at most 1. Both are numbers, or pytrees that
      broadcast against `y0`. They are traced: other values do not recompile. The defaults suit
      float32.
    - `dt`: the step size of fixed-step solvers, the first step size of adaptive ones; positive.
    - `controller`: the step-size controller: `jo.PID()`, `jo.PI()`, `jo.I()`, `jo.Fixed(dt)` or
      `jo.Grid(times)`. By default that of the solver, as `jo.PID()` is, whose options change it.
    - `save`: "ts" for the states at `ts`; "steps" for every accepted step (`max_steps + 1` rows,
      NaN where unused); "dense" for dense output `sol(t)`, besides the states at `ts`; or a
      function `(t, y, args)` or `(t, y)`, whose values at `ts` are saved instead of the states.
      Several at once are a dict, tuple or list of "ts", functions and `jo.SaveAt(what, ts=times)`,
      each of which may have times of its own: `sol.ts` and `sol.ys` have that structure. All
      functions are evaluated at all times. `jo.SaveAt("steps", every=n)` returns every n-th step.
    - `sensitivity`: how derivatives are computed: "discrete" or `jo.Discrete()`, "adjoint" or
      `jo.Continuous()`, "reversible" or `jo.Reversible()`, "forward" or `jo.Forward()`.
    - `events`: one `jo.Event` or several: conditions whose zero crossings are located, logged in
      `sol.events`, and acted upon; or `jo.AtRest()`, which ends the solve at a steady state.
    - `jumps`: times of discontinuities of `f`, shape `(k,)` in any order, such as those of doses: a
      step ends on each of them, and the integrator restarts after it. Times outside of the solve
      are ignored. `jo.Jumps(times, apply)` also changes the state there, at the first and the last
      time too.
    - `max_events`: the number of rows of `sol.events`. `overflow`: "fail" if a solve with more
      events fails; "stop" if it goes on and looks for no more of them, terminal ones included.
    - `max_steps`: the largest number of attempted steps; None for no bound, unless something keeps
      a row for each step, as `save="steps"` and `save="dense"` do.
    - `throw`: outside `jit` and `vmap`, raise on failure. Inside, nothing is raised: values that
      were not reached are NaN, and `sol.status` gives the reason.
    - `progress`: show a progress bar in `t` (needs tqdm).

    **Returns:** a `Solution`.

    **Raises:** `StateError`, `TimesError`, `FieldError`, `ToleranceError`, `EventError` and
    `OptionError` for invalid input; `SolveError` if the solve fails; `DifferentiationError` for a
    derivative that the `sensitivity` does not support. **Warns:** `ToleranceWarning`,
    `RecompilationWarning`, `TimesWarning`; `StiffnessWarning` where stability bound an explicit
    solver's steps.
    """
    y0, t0 = resumed(start, y0, t0)
    dt = next_dt(start, dt, controller)
    plan = plan_saves(save, ts, t0, t1)
    ts, unsaved = times_with_ends(plan.ts, plan.t0, plan.t1)
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
    solution = run_solve(_solve, f, trajectory_inputs(y0, ts, args, options), options)
    if throw and has_failed(solution.status):
        raise_on_failure(solution, failure_advice(find_sensitivity(sensitivity)))
    warn_if_stiff(solution)
    return plan.of_entries(solution)


def _solve(f: VectorField, prepared: Prepared) -> Solution:
    sensitivity, pack = prepared.sensitivity, prepared.packing.pack
    traced = trace_problem(f, prepared, prepared.y0, prepared.args, pack)
    problem, config = vary_together(traced) if under_jit() else traced
    problem, consistent = make_consistent(problem, config, prepared.algebraic)
    y0, problem = problem.y0, jump_at_start(problem, config)
    result = sensitivity.solve(restrict_ad_direction(problem, sensitivity), config)
    return solution_of(result, problem, config, consistent, y0, sensitivity.by_steps)
