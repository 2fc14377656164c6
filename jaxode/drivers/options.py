"""The options of a solve, by name or object, made into the objects that the engine runs on."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..integrate.step import Method
from ..problem.closure import ClosedFunction, close
from ..problem.errors import FieldError, OptionError, unknown_name
from ..problem.field import Split
from ..problem.state import Packing, is_traced
from ..problem.validation import check_count, check_positive
from ..problem.validation import find as _find
from ..sensitivity.ad_direction import BACKWARD, backwards_only
from ..sensitivity.continuous.options import Continuous
from ..sensitivity.discrete.options import Discrete
from ..sensitivity.forward_mode import Forward
from ..sensitivity.reversible import Reversible
from ..solvers.base import Solver
from ..solvers.implicit.consistent_initial import Algebraic, algebraic_part
from ..solvers.registry import SOLVERS
from ..solvers.step_size import NORMS, PID, Controller, Fixed, Grid, Tolerance

Sensitivity = Discrete | Continuous | Forward | Reversible
SENSITIVITIES: dict[str, type[Sensitivity]] = {
    "discrete": Discrete,
    "autograd": Discrete,
    "adjoint": Continuous,
    "continuous": Continuous,
    "reversible": Reversible,
    "forward": Forward,
}
SaveName = Literal["ts", "steps", "dense"]


def find_solver(solver: Any) -> Solver:
    """The solver by name or object.

    **Raises:** `OptionError` for an unknown name (with the nearest known), a class, or anything
    else.
    """
    return _find("solver", solver, SOLVERS, Solver, "jo.Tsit5()")


def solver_for(sensitivity: Sensitivity, solver: Any) -> Solver:
    """The solver by name or object, made reversible where its steps are to be undone.

    **Raises:** `OptionError` as `find_solver`, and where they cannot be undone.
    """
    solver = find_solver(solver)
    return sensitivity.solver(solver) if isinstance(sensitivity, Reversible) else solver


def advice_of(sensitivity: Sensitivity) -> str:
    """What its users should know of a solve that ran out of steps."""
    return sensitivity.ADVICE if isinstance(sensitivity, Reversible) else ""


def check_split(f: Any, solver: Solver) -> None:
    """**Raises:** `OptionError` where the field is in two parts and the solver takes one."""
    if isinstance(f, Split) and not solver.imex:
        able = " or ".join(sorted(repr(name) for name, kind in SOLVERS.items() if kind.imex))
        raise OptionError(
            f"a field in two parts (stiff, other) needs a solver that treats one implicitly, one "
            f"explicitly: use solver={able} instead of {type(solver).__name__}, or give their sum"
        )


def find_sensitivity(sensitivity: Any) -> Sensitivity:
    """The way to differentiate, by name or object. **Raises:** `OptionError`, as above."""
    return _find("sensitivity", sensitivity, SENSITIVITIES, Sensitivity, "jo.Discrete()")


def one_direction(tree: Any, sensitivity: Sensitivity) -> Any:
    """What a solve is differentiated by, marked: forwards **raises** where that is not meant."""
    if isinstance(sensitivity, Forward):
        return tree
    return backwards_only(tree, BACKWARD.format(f"sensitivity=jo.{type(sensitivity).__name__}()"))


def find_controller(controller: Any, solver: Solver, dt: Any, ts: Any) -> Controller:
    """The controller to use with `solver`: the given one, else PID or steps of `dt`.

    `ts` are the times of the solve, or None where they are not known yet.

    **Raises:** `OptionError` where the controller, the solver and `dt` do not go together.
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
        return _traceable(Fixed(dt))
    if inspect.isclass(controller) or not isinstance(controller, PID | Fixed | Grid):
        shown = controller.__name__ if inspect.isclass(controller) else repr(controller)
        raise OptionError(
            f"controller must be an instance such as jo.PID(), jo.Fixed(dt) or jo.Grid(times), "
            f"got {shown}"
        )
    if controller.adaptive and not adaptive:
        raise OptionError(
            f"{name} has no error estimate for {type(controller).__name__} to judge: give dt=, or "
            "use jo.Fixed(dt), jo.Grid(times) or an adaptive solver"
        )
    if not controller.adaptive and dt is not None:
        raise OptionError(f"both dt= and controller={type(controller).__name__} set the step")
    if isinstance(controller, Fixed):
        if controller.dt is None:
            raise OptionError("dt must be a positive number, but jo.Fixed was given None")
        check_dt(controller.dt)
    if isinstance(controller, Grid):
        _check_grid(controller, ts)
    return _traceable(controller)


def find_method(
    solver: Any,
    controller: Any,
    rtol: Array,
    atol: Array,
    dt: Any,
    max_steps: Any,
    ts: Any,
    packing: Packing,
    meter: Callable[..., None] | None = None,
) -> Method:
    """How to step, from the options; `ts` as for `find_controller`, the rest checked already.

    **Raises:** `OptionError` where they do not go together; `StateError` where the solver cannot
    step such a state.
    """
    solver = find_solver(solver)
    solver.check(packing)
    check_dt(dt)
    controller = find_controller(controller, solver, dt, ts)
    tolerance = Tolerance(rtol, atol, norm_of(controller))
    first = array_dt(dt, controller, packing.time_dtype)
    return Method(solver, controller, tolerance, first, check_max_steps(max_steps), meter)


def find_algebraic(solver: Solver) -> Algebraic | None:
    """What a singular mass matrix leaves of algebraic equations; None where there are none.

    A mass matrix that is traced is taken for regular, or `y0` for consistent.
    """
    mass = getattr(solver, "mass", None)
    return None if mass is None or is_traced(mass) else algebraic_part(mass)


def close_jacobian(solver: Solver, y0: Any, args: Any, packing: Packing) -> ClosedFunction | None:
    """The solver's `jac` with every array that it closes over as a leaf.

    **Raises:** `FieldError` where it does not return an `(n, n)` array of real numbers.
    """
    jac = getattr(solver, "jac", None)
    if jac is None:
        return None
    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    try:
        closed, output = close(lambda t, y, args: jnp.asarray(jac(t, y, args)), t, y0, args)
    except TypeError as error:
        raise FieldError(f"calling jac(t, y, args) failed: {error}") from error
    if output.shape != (packing.size,) * 2 or not jnp.issubdtype(output.dtype, jnp.floating):
        raise FieldError(
            f"jac(t, y, args) is {output.dtype}{list(output.shape)} where a state of "
            f"{packing.size} components needs a real array of shape {(packing.size,) * 2}"
        )
    return closed


def _traceable(controller: Controller) -> Controller:
    """Its numbers as arrays, so that changing one never recompiles."""
    return jax.tree.map(jnp.asarray, controller)


def check_dt(dt: Any) -> None:
    """**Raises:** `OptionError` unless `dt` is None or a positive number."""
    check_positive("dt", dt, remark=", backwards in time too")


def check_save(save: Any) -> str | Callable:
    """**Raises:** `OptionError` unless `save` is a known name or a function."""
    if callable(save):
        return save
    if not isinstance(save, str):
        raise OptionError(f'save must be "ts", "steps", "dense" or a function, got {save!r}')
    if save not in get_args(SaveName):
        raise unknown_name("save mode", save, get_args(SaveName))
    return save


def check_max_steps(max_steps: Any) -> int:
    """**Raises:** `OptionError` unless `max_steps` is a positive integer."""
    return check_count("max_steps", max_steps)


def _check_grid(grid: Grid, ts: Any) -> None:
    if is_traced(grid.times):
        return
    times = np.asarray(grid.times, float)
    if times.ndim != 1 or times.size < 2 or not np.all(np.isfinite(times)):
        raise OptionError(f"jo.Grid needs at least two finite times, got {grid.times!r}")
    first, last = times[[0, -1]] if ts is None else (float(ts[0]), float(ts[-1]))
    gaps = np.diff(times) * np.sign(last - first)
    if last != first and np.any(gaps <= 0):
        raise OptionError("the times of jo.Grid must be strictly monotone, in the direction of ts")
    if not np.allclose(times[[0, -1]], [first, last], rtol=1e-6):
        raise OptionError(
            f"jo.Grid must run from ts[0] = {first:.6g} to ts[-1] = {last:.6g}, but runs from "
            f"{times[0]:.6g} to {times[-1]:.6g}"
        )


def norm_of(controller: Controller) -> Callable[[Array], Array]:
    """The error norm that the controller measures by."""
    return controller.norm_function() if isinstance(controller, PID) else NORMS["rms"]


def array_dt(dt: Any, controller: Controller, dtype: np.dtype) -> Array | None:
    """The first step's size for an adaptive controller, or `None` to have it chosen."""
    return None if dt is None or not controller.adaptive else jnp.asarray(dt, dtype)
