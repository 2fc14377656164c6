"""`odeint`, with the signature of `jax.experimental.ode.odeint`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ..problem.errors import FieldError, OptionError, TimesError
from ..problem.promotion import with_own_promotion
from ..problem.state import Packing, check_state, is_traced
from ..problem.validation import real_array, real_number, shown_value
from ..solvers.step_size import PID
from .solve import solve

# Steps of a solve whose `mxstep` is infinite: a loop without end would never say why.
_MOST_STEPS = 2**16


@with_own_promotion
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

    - `func`: the vector field, a function `(y, t, *args)`. It returns a pytree with as many
      components as `y`: one like `y`, or another one whose components have the same order, such as
      a list of numbers for an array.
    - `y0`: the initial state, a pytree of floating-point or complex arrays.
    - `t`: times, shape `(n,)`, monotone; the first is that of `y0`. `args`: pytrees of arrays.
    - `rtol`, `atol`: by default 1.4e-8, or 1.4e-6 for a float32 state, whose precision is lower.
    - `mxstep`: the largest mean number of steps between two times: a solve fails after `mxstep`
      times the number of intervals. If it is infinite, after 65,536 steps.
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
    shape = real_array("t", t, TimesError).shape
    single, intervals = shape == (1,), max(shape[0] - 1, 1) if shape else 1

    unbounded = not is_traced(hmax) and math.isinf(real_number(hmax))
    return solve(
        _SwappedArguments(func),
        y0,
        t,
        args,
        t0=t[0] if single else None,  # pyright: ignore[reportIndexIssue]
        solver="dopri5",
        rtol=default_tolerance if rtol is None else rtol,
        atol=default_tolerance if atol is None else atol,
        controller=None if unbounded else PID(dtmax=hmax),
        max_steps=_MOST_STEPS if math.isinf(mxstep) else min(int(mxstep) * intervals, 2**31 - 1),
    ).ys


class _SwappedArguments:
    """A vector field `(t, y, args)` made from a function `(y, t, *args)`."""

    def __init__(self, func: Callable[..., PyTree]) -> None:
        self.func = func

    def __call__(self, t: Array, y: PyTree, args: tuple) -> PyTree:
        return _components_like(self.func(y, t, *args), y)


def _components_like(slope: PyTree, y: PyTree) -> PyTree:
    """`slope` as a pytree like `y`, component by component; as it is where that is impossible."""
    states, treedef = jax.tree.flatten(y)
    parts = [_as_float(x, states[0].dtype) for x in jax.tree.leaves(slope)] if states else []
    sizes = [x.size for x in states]
    dtypes = {x.dtype for x in (*parts, *states)}
    if len(dtypes) > 1 or sum(x.size for x in parts) != sum(sizes) or not parts:
        return slope
    if jax.tree.structure(slope) == treedef:
        lengths = [[n for n in x.shape if n != 1] for x in (*parts, *states)]
        if lengths[: len(parts)] != lengths[len(parts) :]:
            return slope
    flat = jnp.concatenate([x.reshape(-1) for x in parts])
    pieces = jnp.split(flat, np.cumsum(sizes)[:-1])
    shaped = [piece.reshape(x.shape) for piece, x in zip(pieces, states, strict=True)]
    return jax.tree.unflatten(treedef, shaped)


def _as_float(x: Any, dtype: Any) -> Array:
    """An array; of this dtype, if it holds integers or stems from a number of Python."""
    x = jnp.asarray(x)
    lower = jnp.issubdtype(dtype, jnp.complexfloating) or not jnp.iscomplexobj(x)
    return x.astype(dtype) if lower and (x.weak_type or x.dtype.kind in "iu") else x
