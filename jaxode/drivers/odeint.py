"""`odeint`, with the signature of `jax.experimental.ode.odeint`."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ..problem.errors import FieldError, OptionError
from ..problem.state import Packing, check_state, is_traced
from ..problem.validation import real_number, shown_value
from ..solvers.step_size import PID
from .solve import solve


def odeint(
    func: Callable[..., PyTree],
    y0: PyTree,
    t: ArrayLike,
    *args: Any,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    mxstep: float = jnp.inf,
    hmax: ArrayLike = jnp.inf,
) -> PyTree:
    """Solve `dy/dt = func(y, t, *args)` with the signature of `jax.experimental.ode.odeint`.

    Unlike that function: `t` may increase or decrease; the tolerances may be traced; the gradient
    (with respect to `y0`, `t`, `args` and captured variables of `func`) is that of the computed
    solution; and a solve that fails raises `SolveError` outside `jit`, and returns NaN inside.

    **Arguments:**

    - `func`: the vector field, a function `(y, t, *args)` that returns a pytree like `y`.
    - `y0`: the initial state, a pytree of floating-point or complex arrays.
    - `t`: times, shape `(n,)` with `n >= 2`, monotone. `args`: pytrees of arrays.
    - `rtol`, `atol`: by default 1.4e-8, or 1.4e-6 for a float32 state, whose precision is lower.
    - `mxstep`: the largest number of steps of the whole solve; 16384 if infinite.
    - `hmax`: the largest step size.

    **Returns:** the states at `t`, a pytree like `y0` with a leading axis of times.

    **Raises** and **warns** as `solve`.
    """
    if not callable(func):
        raise FieldError(f"func must be callable as func(y, t, *args), got {func!r}")
    if not real_number(mxstep) >= 1:
        raise OptionError(f"mxstep must be at least one, got {shown_value(mxstep)}")
    if not is_traced(hmax) and not real_number(hmax) > 0:
        raise OptionError(f"hmax must be a positive number, got {shown_value(hmax)}")
    y0 = check_state(y0)
    default_tolerance = 1.4e-8 if Packing.of(y0).real_dtype == jnp.float64 else 1.4e-6

    unbounded = not is_traced(hmax) and math.isinf(real_number(hmax))
    return solve(
        _SwappedArguments(func),
        y0,
        t,
        args,
        solver="dopri5",
        rtol=default_tolerance if rtol is None else rtol,
        atol=default_tolerance if atol is None else atol,
        controller=None if unbounded else PID(dtmax=hmax),
        max_steps=16384 if mxstep == jnp.inf else int(mxstep),
    ).ys


class _SwappedArguments:
    """A vector field `(t, y, args)` made from a function `(y, t, *args)`."""

    def __init__(self, func: Callable[..., PyTree]) -> None:
        self.func = func

    def __call__(self, t: Array, y: PyTree, args: tuple) -> PyTree:
        return self.func(y, t, *args)
