"""`solve_ivp`, with the signature and the result of `scipy.integrate.solve_ivp`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from ..integrate.events.event import Event
from ..problem.errors import (
    CALL_ERRORS,
    EventError,
    FieldError,
    OptionError,
    StateError,
    TimesError,
    ToleranceError,
)
from ..problem.promotion import with_own_promotion
from ..problem.state import check_state, check_state_leaves, is_traced
from ..problem.validation import (
    check_flag,
    check_positive,
    find_option,
    real_array,
    real_number,
    shown_value,
)
from ..sensitivity.base import Sensitivity
from ..solvers.base import Solver
from ..solvers.implicit.collocation import Collocation
from ..solvers.linear import Banded, Sparse
from ..solvers.registry import SOLVERS
from ..solvers.step_size import PID
from .ode_result import OdeResult, result_of
from .solve import solve
from .user_functions import as_tuple

# SciPy's names of methods; the other names of solvers are valid too.
_METHODS = {"rk45": "dopri5", "rk23": "bosh3", "lsoda": "auto"}


@with_own_promotion
def solve_ivp(
    fun: Callable[..., Any],
    t_span: Any,
    y0: ArrayLike | Sequence[ArrayLike],
    method: str | Solver = "RK45",
    t_eval: Any = None,
    dense_output: bool = False,
    events: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    vectorized: bool = False,
    args: tuple[Any, ...] | list[Any] | None = None,
    *,
    first_step: ArrayLike | None = None,
    max_step: ArrayLike = np.inf,
    min_step: ArrayLike = 0.0,
    rtol: ArrayLike = 1e-3,
    atol: ArrayLike = 1e-6,
    jac: Callable[..., Any] | ArrayLike | None = None,
    jac_sparsity: Any = None,
    lband: int | None = None,
    uband: int | None = None,
    max_steps: int | None = 4096,
    max_events: int = 256,
    sensitivity: str | Sensitivity = "discrete",
) -> OdeResult:
    """Solve `dy/dt = fun(t, y, *args)`, `y(t_span[0]) = y0`, called as `scipy.integrate.solve_ivp`.

    `fun`, `jac` and the events are traced by JAX: they compute with `jax.numpy`. Everything else is
    as for `jaxode.solve`, which it calls: derivatives, `jit` and `vmap` too. There, while values
    are traced, no array can be cut to what was reached: unused entries at the ends are NaN.

    **Arguments:**

    - `fun`: a function `(t, y, *args)` of a scalar and an array `(n,)`. It returns an array, or a
      list of numbers. `vectorized`: it takes and returns arrays `(n, k)`.
    - `t_span`: the two ends of the solve. `y0`: the initial state, shape `(n,)`, real or complex.
    - `method`: "RK45" (Dopri5), "RK23" (Bosh3), "DOP853" (Dopri8), "Radau", "BDF", "LSODA" (which
      is Auto, or BDF if it is given a Jacobian or bands); or a solver of jaxode, by name or object.
    - `t_eval`: the times of the states, in the order of the solve and inside of `t_span`; by
      default the ends of all steps. `dense_output`: compute `sol(t)` too.
    - `events`: a function `(t, y, *args)` that returns a real number, or several. Zero crossings
      are located; `terminal=True` as its attribute ends the solve at the first one, `terminal=n`
      at the n-th; `direction`, positive or negative, selects crossings upwards or downwards. A
      zero at the start is no event.
    - `args`: further arguments of `fun`, `jac` and the events.
    - `first_step`, `max_step`, `min_step`: of step sizes. `rtol`, `atol`: as in `solve`,
      those of each component in a list too.
    - `jac`: for implicit methods, the Jacobian `(n, n)`: a function `(t, y, *args)`, or a constant,
      which may be a sparse array of SciPy; else it is computed by forward-mode differentiation.
      `jac_sparsity`: the pattern `(n, n)` of its entries; `lband`, `uband`: the numbers of its
      diagonals below and above the main one. "Radau" makes no use of these three.
    - `max_steps`, `max_events`: the largest numbers of steps and of located events. `max_steps` may
      be None, for no bound, with a `t_eval` and without `dense_output`.
    - `sensitivity`: how derivatives are computed, as in `solve`.

    **Returns:** an `OdeResult`. A solve that fails raises no error: its `status` is -1, and the
    states are those that it reached.

    **Raises** and **warns** as `solve`, for invalid input.
    """
    for what, function in (("fun", fun), *(("events", e) for e in as_tuple(events))):
        if not callable(function):
            error = FieldError if what == "fun" else EventError
            raise error(f"{what} must be callable as (t, y, *args), got {function!r}")
    if args is not None and not isinstance(args, tuple | list):
        raise OptionError(f"args must be a tuple, for one argument (p,), got {args!r}")
    if real_array("t_span", t_span, TimesError).shape != (2,):
        raise TimesError(f"t_span must hold two times (t0, t1), got {shown_value(t_span)}")
    y0, (t0, t1) = _check_vector(y0), t_span
    dense_output = check_flag("dense_output", dense_output)
    chosen = _find_solver(method, jac, jac_sparsity, lband, uband)
    solution = solve(
        _Field(fun, check_flag("vectorized", vectorized)),
        y0,
        t_eval,
        tuple(args or ()),
        t0=t0,
        t1=t1,
        solver=chosen,
        rtol=_tolerance("rtol", rtol),
        atol=_tolerance("atol", atol),
        dt=first_step,
        controller=_controller(min_step, max_step),
        save="dense" if dense_output else "steps" if t_eval is None else "ts",
        events=[_event(e) for e in as_tuple(events)] or None,
        max_events=max_events,
        max_steps=max_steps,
        throw=False,
        sensitivity=sensitivity,
    )
    return result_of(solution, chosen, t_eval is None)


class _Field:
    """The vector field `(t, y, args)` of a function `(t, y, *args)` of SciPy's."""

    def __init__(self, func: Callable[..., Any], vectorized: bool) -> None:
        self.func, self.vectorized = func, vectorized

    def __call__(self, t: Array, y: Array, args: tuple) -> Array:
        slope = jnp.asarray(self.func(t, y[:, None] if self.vectorized else y, *args))
        slope = slope.reshape(y.shape) if slope.size == y.size else slope
        narrows = jnp.iscomplexobj(slope) and not jnp.iscomplexobj(y)
        return slope if narrows else slope.astype(y.dtype)


def _check_vector(y0: Any) -> Array:
    """The initial state as an array `(n,)`. **Raises:** `StateError`."""
    check_state_leaves(y0)
    try:
        shape = jnp.shape(jnp.asarray(y0)) if is_traced(y0) else np.shape(y0)
        state = jnp.asarray(y0) if len(shape) == 1 else None
    except CALL_ERRORS as error:
        raise StateError(f"y0 must have the shape (n,), got {shown_value(y0)}") from error
    if state is None:
        raise StateError(f"y0 must have the shape (n,), got {shape}")
    return check_state(state)


def _tolerance(name: str, value: Any) -> Any:
    """A tolerance; a list of those of each component as an array. **Raises:** `ToleranceError`."""
    return real_array(name, value, ToleranceError) if isinstance(value, list | tuple) else value


def _controller(min_step: Any, max_step: Any) -> PID | None:
    """The controller with these bounds of step sizes; None without bounds, for the solver's own."""
    least = _bound("min_step", min_step, 0.0)
    most = _bound("max_step", max_step, np.inf)
    return None if least is None and most is None else PID(dtmin=least, dtmax=most)


def _bound(name: str, size: Any, without: float) -> Any:
    """A bound of step sizes; None for the number that is none. **Raises:** `OptionError`."""
    if not is_traced(size) and real_number(size) == without:
        return None
    check_positive(name, size, remark=f" or {without:g}", none=False)
    return size


def _find_solver(method: Any, jac: Any, pattern: Any, lower: Any, upper: Any) -> Solver:
    """The solver of a method, with what is known of the Jacobian. **Raises:** `OptionError`."""
    banded = lower is not None or upper is not None
    known = jac is not None or pattern is not None or banded
    if isinstance(method, str) and method.lower() == "lsoda" and known:
        method = "bdf"
    names = {name: SOLVERS[_METHODS.get(name, name)] for name in (*SOLVERS, *_METHODS)}
    solver = find_option("method", method, names, Solver, "jo.Dopri5()")
    if not known or not isinstance(method, str) or not hasattr(solver, "linear_solver"):
        return solver  # explicit methods need no Jacobian
    options: dict[str, Any] = {} if jac is None else {"jac": _jacobian(jac)}
    if isinstance(solver, Collocation):
        return type(solver)(**options)  # its stages are solved together, by a dense matrix
    if banded:
        options["linear_solver"] = Banded(
            *[0 if width is None else width for width in (lower, upper)]
        )
    elif pattern is not None:
        options["linear_solver"] = Sparse(pattern)
    return type(solver)(**options)


def _jacobian(jac: Any) -> Callable[..., Array]:
    if not callable(jac):
        jac = real_array("jac", jac.toarray() if hasattr(jac, "toarray") else jac)

    def jacobian(t: Array, y: Array, args: tuple) -> Array:
        matrix = jnp.asarray(jac(t, y, *args) if callable(jac) else jac)
        return matrix.astype(y.dtype)

    return jacobian


def _occurrences(event: Any) -> int:
    """The number of occurrences at which an event ends the solve, 0 for never."""
    terminal = getattr(event, "terminal", False)
    if terminal is None or (isinstance(terminal, bool | int | np.integer) and terminal >= 0):
        return int(terminal or 0)
    raise EventError(f"terminal of an event must be a boolean or a number, got {terminal!r}")


def _event(function: Callable[..., Any]) -> Event:
    def condition(t: Array, y: Array, args: tuple) -> Array:
        value = jnp.asarray(function(t, y, *args))
        return value.reshape(()) if value.size == 1 else value

    given = getattr(function, "direction", None)
    sign = 0.0 if given is None else real_number(given)
    if np.isnan(sign):
        raise EventError(f"direction of an event must be a number, got {shown_value(given)}")
    direction = "up" if sign > 0 else "down" if sign < 0 else "both"
    return Event(condition, direction, terminal=_occurrences(function) or False)
