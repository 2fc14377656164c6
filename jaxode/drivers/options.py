"""Validation of the options of a solve: names and objects become solver, method, sensitivity."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..integrate.step import UNBOUNDED_STEPS, Method
from ..problem.calling import taking_args
from ..problem.closure import ClosedFunction, closure_convert
from ..problem.errors import CALL_ERRORS, FieldError, OptionError, own_error, unknown_name
from ..problem.field import Split
from ..problem.state import Packing, is_traced
from ..problem.times import shown
from ..problem.validation import check_count, check_positive, find_option
from ..sensitivity.base import Sensitivity
from ..sensitivity.continuous.options import Continuous
from ..sensitivity.discrete.options import Discrete
from ..sensitivity.forward_mode import Forward
from ..sensitivity.reversible import Reversible
from ..solvers.base import Solver
from ..solvers.implicit.consistent_initial import Algebraic, algebraic_part
from ..solvers.prescribed_steps import Fixed, Grid
from ..solvers.registry import SOLVERS
from ..solvers.step_size import NORMS, PID, Controller, Tolerance

SENSITIVITIES: dict[str, Callable[[], Sensitivity]] = {
    "discrete": Discrete,
    "autograd": Discrete,
    "adjoint": Continuous,
    "continuous": Continuous,
    "interpolated_adjoint": functools.partial(Continuous, "interpolate"),
    "reversible": Reversible,
    "forward": Forward,
}
SaveName = Literal["ts", "steps", "dense"]


def find_solver(solver: Any) -> Solver:
    """Find the solver by name or object.

    **Raises:** `OptionError` for an unknown name (with the nearest known), a class, or an object
    that is no solver.
    """
    return find_option("solver", solver, SOLVERS, Solver, "jo.Tsit5()")


def solver_for(sensitivity: Sensitivity, solver: Any, controller: Any) -> Solver:
    """Find the solver; for `Reversible`, make it reversible.

    `controller`: as the user gives it.

    **Raises:** `OptionError` as `find_solver`, and if the solver cannot be made reversible.
    """
    solver = find_solver(solver)
    given = isinstance(controller, Controller)
    adaptive = controller.adaptive if given else solver.error_exponent is not None
    return sensitivity.prepare_solver(solver, adaptive)


def failure_advice(sensitivity: Sensitivity) -> str:
    """The further cause, if any, that this sensitivity adds for a solve that ran out of steps."""
    return sensitivity.advice


def check_split(f: Any, solver: Solver) -> None:
    """Check that the solver accepts a field in two parts. **Raises:** `OptionError`."""
    if isinstance(f, Split) and not solver.imex:
        imex = " or ".join(sorted(repr(name) for name, kind in SOLVERS.items() if kind.imex))
        raise OptionError(
            f"a field in two parts (stiff, other) needs a solver that treats one implicitly, one "
            f"explicitly: use solver={imex} instead of {type(solver).__name__}, or give their sum"
        )


def find_sensitivity(sensitivity: Any) -> Sensitivity:
    """Find the sensitivity by name or object. **Raises:** `OptionError`, as `find_solver`."""
    return find_option("sensitivity", sensitivity, SENSITIVITIES, Sensitivity, "jo.Discrete()")


def restrict_ad_direction(tree: Any, sensitivity: Sensitivity) -> Any:
    """Mark the inputs of a solve, so that forward mode raises unless `sensitivity` supports it."""
    return sensitivity.restrict_direction(tree)


def find_controller(controller: Any, solver: Solver, dt: Any, ts: Any) -> Controller:
    """Find the step-size controller: the given one, else the solver's, else fixed steps of `dt`.

    `ts` are the times of the solve, or None if they are traced.

    **Raises:** `OptionError` if the controller, the solver and `dt` are incompatible.
    """
    name, adaptive = type(solver).__name__, solver.error_exponent is not None
    if controller is None:
        if adaptive:
            return solver.default_controller()
        if dt is None:
            raise OptionError(
                f"{name} takes fixed steps: give dt=, or controller=jo.Grid(times), or a solver "
                'that chooses its steps, such as "tsit5"'
            )
        return _with_array_leaves(Fixed(dt))
    if inspect.isclass(controller) or not isinstance(controller, Controller):
        shown = controller.__name__ if inspect.isclass(controller) else repr(controller)
        raise OptionError(
            f"controller must be an instance such as jo.PID(), jo.Fixed(dt) or jo.Grid(times), "
            f"or of a class of your own derived from jo.Controller, got {shown}"
        )
    if isinstance(controller, PID) and adaptive:
        controller = controller.completed(solver.default_controller())
    if controller.adaptive and not adaptive:
        raise OptionError(
            f"{name} has no error estimate for {type(controller).__name__} to judge: give dt=, or "
            "use jo.Fixed(dt), jo.Grid(times) or an adaptive solver"
        )
    if not controller.adaptive and dt is not None:
        raise OptionError(f"both dt= and controller={type(controller).__name__} set the step")
    if isinstance(controller, Grid):
        _check_grid(controller, ts)
    return _with_array_leaves(controller)


def find_method(
    solver: Any,
    controller: Any,
    rtol: Array,
    atol: Array,
    dt: Any,
    max_steps: Any,
    ts: Any,
    packing: Packing,
    progress: Callable[..., None] | None = None,
) -> Method:
    """Make the numerical method; `ts` as in `find_controller`, tolerances already checked.

    **Raises:** `OptionError` if options are incompatible; `StateError` if the solver does not
    support such a state.
    """
    solver = find_solver(solver)
    solver.check(packing)
    check_dt(dt)
    controller = find_controller(controller, solver, dt, ts)
    trace_norm(controller, packing)
    tolerance = Tolerance(rtol, atol, norm_of(controller, packing))
    first_dt = initial_step(dt, controller, packing.time_dtype)
    return Method(solver, controller, tolerance, first_dt, check_max_steps(max_steps), progress)


def find_algebraic(solver: Solver) -> Algebraic | None:
    """Find the algebraic equations of a singular mass matrix; None if it is regular or absent.

    A traced mass matrix, whose values are unknown, returns None: it has to be regular, or `y0`
    consistent.
    """
    mass = getattr(solver, "mass", None)
    return None if mass is None or is_traced(mass) else algebraic_part(mass)


def trace_jacobian(solver: Solver, y0: Any, args: Any, packing: Packing) -> ClosedFunction | None:
    """Closure-convert the solver's `jac`; None if it has none.

    **Raises:** `FieldError` if it does not return a real array of shape `(n, n)`.
    """
    jac = getattr(solver, "jac", None)
    if jac is None:
        return None
    t, jac = jax.ShapeDtypeStruct((), packing.real_dtype), taking_args(jac)
    try:
        closed, output = closure_convert(
            lambda t, y, args: jnp.asarray(jac(t, y, args)), t, y0, args
        )
    except CALL_ERRORS as error:
        raise own_error(error) or FieldError(f"calling jac(t, y, args) failed: {error}") from error
    if output.shape != (packing.size,) * 2 or not jnp.issubdtype(output.dtype, jnp.floating):
        raise FieldError(
            f"jac(t, y, args) is {output.dtype}{list(output.shape)} where a state of "
            f"{packing.size} components needs a real array of shape {(packing.size,) * 2}"
        )
    return closed


def trace_save(save: Callable, y0: Any, args: Any, packing: Packing) -> ClosedFunction:
    """Closure-convert the function of saved values. **Raises:** `OptionError` if it cannot be."""
    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    try:
        return closure_convert(taking_args(save), t, y0, args)[0]
    except CALL_ERRORS as error:
        raise own_error(error) or OptionError(
            f"calling save(t, y, args) failed: {error}"
        ) from error


def trace_norm(controller: Any, packing: Packing) -> ClosedFunction | None:
    """Closure-convert the norm of a controller; None if it is none of the user's.

    **Raises:** `OptionError` if it does not return a real scalar.
    """
    if not isinstance(controller, PID) or not callable(controller.norm):
        return None
    packed = jax.ShapeDtypeStruct(packing.packed_shape, packing.dtype)
    try:
        closed, output = closure_convert(controller.norm_function(packing), packed)
    except CALL_ERRORS as error:
        raise own_error(error) or OptionError(f"calling norm(x) failed: {error}") from error
    dtype = getattr(output, "dtype", None)
    if dtype is None or output.shape != () or not jnp.issubdtype(dtype, jnp.floating):
        found = type(output).__name__ if dtype is None else f"{dtype}{list(output.shape)}"
        raise OptionError(f"norm(x) of a controller must return a real scalar, but gave {found}")
    return closed


def with_jac(solver: Solver, jac: Callable | None) -> Solver:
    """A copy of the solver with this Jacobian; it may have an `__init__` of its own."""
    copied = copy.copy(solver)
    object.__setattr__(copied, "jac", jac)
    return copied


def without_arrays_of_jac(solver: Solver) -> Solver:
    """The solver without the arrays of its `jac`, a static field: the problem has that, traced."""
    return solver if getattr(solver, "jac", None) is None else with_jac(solver, _jac_of_problem)


def _jac_of_problem(t: Array, y: Any, args: Any) -> Array:
    raise NotImplementedError("the Jacobian is that of the problem")


def _with_array_leaves(controller: Controller) -> Controller:
    """Make the numbers of a controller arrays, so that changing one never recompiles."""
    return jax.tree.map(lambda x: jnp.asarray(float(x) if type(x) is int else x), controller)


def check_dt(dt: Any) -> None:
    """Check that `dt` is None or a positive number. **Raises:** `OptionError`."""
    check_positive("dt", dt, remark=", backwards in time too")


def check_save(save: Any) -> str | Callable:
    """Check that `save` is a known name or a function. **Raises:** `OptionError`."""
    if callable(save):
        return save
    if not isinstance(save, str):
        raise OptionError(f'save must be "ts", "steps", "dense" or a function, got {save!r}')
    if save not in get_args(SaveName):
        raise unknown_name("save mode", save, get_args(SaveName))
    return save


def check_max_steps(max_steps: Any) -> int:
    """Make `max_steps`, a positive integer or None, an integer. **Raises:** `OptionError`."""
    if max_steps is None:
        return UNBOUNDED_STEPS
    return min(check_count("max_steps", max_steps, remark=" or None"), UNBOUNDED_STEPS)


def check_bounded(method: Method, save: Any, sensitivity: Sensitivity) -> None:
    """Check that nothing keeps a row for each of `max_steps` steps, if these have no bound.

    **Raises:** `OptionError`.
    """
    saved = f"save={save!r}" if isinstance(save, str) and save in ("steps", "dense") else None
    keeper = saved or sensitivity.keeps_rows
    if method.max_steps == UNBOUNDED_STEPS and keeper:
        raise OptionError(f"{keeper} keeps rows for max_steps steps: give a bound, not None")


def _check_grid(grid: Grid, ts: Any) -> None:
    """Check that a grid is monotone and spans the times `ts`. **Raises:** `OptionError`."""
    if is_traced(grid.times):
        return
    times = np.asarray(grid.times, float)
    first, last = times[[0, -1]] if ts is None else (float(ts[0]), float(ts[-1]))
    gaps = np.diff(times) * np.sign(last - first)
    if last != first and np.any(gaps <= 0):
        raise OptionError("the times of jo.Grid must be strictly monotone, in the direction of ts")
    off = max(abs(times[0] - first), abs(times[-1] - last))
    if off > 1e-6 * abs(last - first) + _rounding(grid.times, ts) * max(abs(first), abs(last)):
        raise OptionError(
            f"jo.Grid must run from ts[0] = {shown(first)} to ts[-1] = {shown(last)}, but runs "
            f"from {shown(times[0])} to {shown(times[-1])}"
        )


def _rounding(*times: Any) -> float:
    """Four roundings of times, relative to them, in the coarsest of their dtypes."""
    single = any(np.asarray(x).dtype.itemsize < 8 for x in times if x is not None)
    return 4 * float(np.finfo("float32" if single else "float64").eps)


def norm_of(controller: Controller, packing: Packing) -> Callable[[Array], Array]:
    """The norm of the scaled error that the controller uses."""
    return controller.norm_function(packing) if isinstance(controller, PID) else NORMS["rms"]


def initial_step(dt: Any, controller: Controller, dtype: np.dtype) -> Array | None:
    """The size of the first step of an adaptive controller; None to choose it automatically."""
    return None if dt is None or not controller.adaptive else jnp.asarray(dt, dtype)
