"""diffrax and JAX's `odeint`, each called as its own documentation advises.

diffrax: one outer jit, no runtime checks, its defaults elsewhere; for stiff problems Kvaerno5 with
the PI controller that its documentation advises, which takes half as many steps as the default
controller. Functions named `..._ends` solve an ensemble: their arguments are the vector field, the
parameters `(trajectories, parameters)`, initial states, times, rtol and atol.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import diffrax
import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.ode import odeint

Field = Callable[[Any, Any, Any], Array]


def diffrax_tsit5(
    f: Field,
    y0: Array,
    ts: Array,
    args: Any,
    rtol: float,
    atol: float,
    *,
    ends: bool = False,
    adjoint: diffrax.AbstractAdjoint | None = None,
    max_steps: int = 4096,
    dt: float | None = None,
    fixed: bool = False,
    throw: bool = True,
) -> diffrax.Solution:
    """A solve by diffrax's Tsit5, saved at `ts` or, with `ends`, at the end alone.

    Steps are those of the PID controller at its defaults, the first one `dt` if that is given; with
    `fixed` all steps are `dt`.
    """
    adaptive = diffrax.PIDController(rtol=rtol, atol=atol)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(f),
        diffrax.Tsit5(),
        ts[0],
        ts[-1],
        dt,
        y0,
        args,
        saveat=diffrax.SaveAt(t1=True) if ends else diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.ConstantStepSize() if fixed else adaptive,
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        max_steps=max_steps,
        throw=throw,
    )


def diffrax_values(
    f: Field, y0: Array, ts: Array, args: Any, rtol: float, atol: float, *, ends: bool = False
) -> Array:
    """The states that `diffrax_tsit5` saves."""
    return cast(Array, diffrax_tsit5(f, y0, ts, args, rtol, atol, ends=ends).ys)


def diffrax_ends(f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """The end states of an ensemble by diffrax's Tsit5 under `vmap`."""

    def end_state(y0: Array, args: Array) -> Array:
        return diffrax_values(f, y0, ts, args, rtol, atol, ends=True)[-1]

    return jax.vmap(end_state)(y0, args)


def diffrax_steps(f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """The number of steps that diffrax's Tsit5 attempts in each trajectory of an ensemble."""

    def num_steps(y0: Array, args: Array) -> Array:
        return diffrax_tsit5(f, y0, ts, args, rtol, atol, ends=True).stats["num_steps"]

    return jax.vmap(num_steps)(y0, args)


def diffrax_stiff(
    f: Callable,
    args: Array,
    y0: Array,
    ts: Array,
    rtol: Any,
    atol: Any,
    max_steps: int,
    solver: diffrax.AbstractSolver | None = None,
) -> diffrax.Solution:
    """A solve of a stiff problem by diffrax, saved at the end alone; Kvaerno5 by default.

    KenCarp methods are for a sum of two fields, of which the explicit one is zero here.
    """
    solver, term = diffrax.Kvaerno5() if solver is None else solver, diffrax.ODETerm(f)
    if isinstance(solver, diffrax.KenCarp3 | diffrax.KenCarp4 | diffrax.KenCarp5):
        term = diffrax.MultiTerm(diffrax.ODETerm(lambda t, y, args: jnp.zeros_like(y)), term)
    return diffrax.diffeqsolve(
        term,
        solver,
        ts[0],
        ts[-1],
        None,
        y0,
        args,
        saveat=diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.3, icoeff=0.4),
        max_steps=max_steps,
        throw=False,
    )


def diffrax_stiff_end(
    f: Callable, *inputs: Any, max_steps: int = 100_000, solver: Any = None
) -> Array:
    """The end state by `diffrax_stiff`, NaN if the solve failed; `inputs`: its `args` to `atol`."""
    solution = diffrax_stiff(f, *inputs, max_steps=max_steps, solver=solver)
    end_state = cast(Array, solution.ys)[-1]
    return jnp.where(solution.result == diffrax.RESULTS.successful, end_state, jnp.nan)


def diffrax_stiff_ends(
    f: Callable, args: Array, y0: Array, ts: Array, rtol: Any, atol: Any
) -> Array:
    """The end states of a stiff ensemble under `vmap`, with `RecursiveCheckpointAdjoint`."""
    solve = partial(diffrax_stiff_end, f, max_steps=4096)
    return jax.vmap(lambda a, y: solve(a, y, ts, rtol, atol))(args, y0)


def odeint_ends(f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """The end states of an ensemble by `jax.experimental.ode.odeint` (Dormand-Prince), `vmap`."""

    def end_state(y0: Array, args: Array) -> Array:
        return odeint(lambda y, t, args: f(t, y, args), y0, ts, args, rtol=rtol, atol=atol)[-1]

    return jax.vmap(end_state)(y0, args)
