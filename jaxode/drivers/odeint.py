"""`odeint`, for code written against `jax.experimental.ode`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ..problem.errors import FieldError, OptionError
from ..problem.state import Packing, check_state, is_traced
from ..solvers.step_size import PID
from .solve import solve


def odeint(
    func: Callable[..., PyTree],
    y0: PyTree,
    t: Array,
    *args: Any,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    mxstep: float = jnp.inf,
    hmax: ArrayLike = jnp.inf,
) -> PyTree:
    """Solve `dy/dt = func(y, t, *args)`, as `jax.experimental.ode.odeint` does.

    Differs from it in this: `t` may run either way, the tolerances are traced, the gradient (to
    `y0`, `t`, `args` and what `func` closes over) is that of the computed solution, and a solve
    that fails raises `SolveError` outside `jit` and leaves NaN inside.

    **Arguments:**

    - `func`: the field, `(y, t, *args)` to the shapes of `y`. `y0`: pytree of arrays.
    - `t`: times, shape `(n,)`, monotone. `args`: pytrees of arrays.
    - `rtol`, `atol`: by default 1.4e-8, or 1.4e-6 for a float32 state, which resolves no more.
    - `mxstep`: the most steps of the whole solve; 16384 if infinite. `hmax`: the largest step.

    **Returns:** the states at `t`, a pytree like `y0` with a leading axis of times.

    **Raises:** as `solve`.
    """
    if not callable(func):
        raise FieldError(f"func must be callable as func(y, t, *args), got {func!r}")
    if not mxstep >= 1:
        raise OptionError(f"mxstep must be at least one, got {mxstep!r}")
    y0 = check_state(y0)
    usual = 1.4e-8 if Packing.of(y0).real_dtype == jnp.float64 else 1.4e-6

    unbounded = not is_traced(hmax) and bool(np.all(np.isinf(hmax)))
    return solve(
        _Swapped(func),
        y0,
        t,
        args,
        solver="dopri5",
        rtol=usual if rtol is None else rtol,
        atol=usual if atol is None else atol,
        controller=PID(dtmax=None if unbounded else hmax),
        max_steps=16384 if mxstep == jnp.inf else int(mxstep),
    ).ys


class _Swapped(eqx.Module):
    """A field of `(y, t, *args)` as one of `(t, y, args)`."""

    func: Callable[..., PyTree]

    def __call__(self, t: Array, y: PyTree, args: tuple) -> PyTree:
        return self.func(y, t, *args)
