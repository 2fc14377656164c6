"""The peers, each as its own documents advise.

diffrax: one outer jit, no runtime checks, its defaults elsewhere. JAX's `odeint` and gradsolve are
there for ensembles alone; their functions take what `batches.Ends` says.
"""

from collections.abc import Callable
from importlib import metadata, util
from typing import Any, NamedTuple, cast

import diffrax
import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.ode import odeint

Field = Callable[[Any, Any, Any], Array]


def solution(
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
    """Tsit5, values at `ts` or the end alone.

    The PID controller at its defaults, from a step of `dt` or one of its own; or steps of `dt`.
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


def solve(
    f: Field, y0: Array, ts: Array, args: Any, rtol: float, atol: float, *, ends: bool = False
) -> Array:
    """The values of `solution`."""
    return cast(Array, solution(f, y0, ts, args, rtol, atol, ends=ends).ys)


def diffrax_ends(f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """The end states of many, by `vmap`."""

    def end(y0: Array, args: Array) -> Array:
        return solve(f, y0, ts, args, rtol, atol, ends=True)[-1]

    return jax.vmap(end)(y0, args)


def diffrax_steps(f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """How many steps each of many tried."""

    def steps(y0: Array, args: Array) -> Array:
        return solution(f, y0, ts, args, rtol, atol, ends=True).stats["num_steps"]

    return jax.vmap(steps)(y0, args)


def odeint_ends(f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """The end states of many by `jax.experimental.ode.odeint` (Dormand-Prince) and `vmap`."""

    def end(y0: Array, args: Array) -> Array:
        return odeint(lambda y, t, args: f(t, y, args), y0, ts, args, rtol=rtol, atol=atol)[-1]

    return jax.vmap(end)(y0, args)


def gradsolve_name() -> str | None:
    """gradsolve and its version, None where it is not installed."""
    found = util.find_spec("gradsolve")
    return None if found is None else f"gradsolve {metadata.version('gradsolve')}"


class _Problem(NamedTuple):
    """As much of a problem as gradsolve's replay reads."""

    f_jax: Field
    t0: float


def _record(
    f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float
) -> tuple[Any, Any]:
    from gradsolve.solvers.tsit5_replay import record_tsit5_jax

    t0, t1 = map(float, ts)
    return record_tsit5_jax(f, y0, args, t0, t1, rtol=rtol, atol=atol)[:2]


def gradsolve_ends(f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """The end states of many by gradsolve's recorder, its forward run without NVIDIA Warp."""
    return _record(f, args, y0, ts, rtol, atol)[0]


def gradsolve_gradient(f: Field, loss: Callable[[Array], Array]) -> Callable:
    """Value and gradient by `args` of `loss(ends)`: it records step sizes and replays them."""
    from gradsolve.warp.warp_replay import replay_solve_jax

    def replay(args: Array, y0: Array, t0: Array, steps: Array) -> Array:
        return loss(replay_solve_jax(_Problem(f, cast(float, t0)), y0, args, steps))

    compiled = jax.jit(jax.value_and_grad(replay))

    def run(args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Any:
        steps = _record(f, args, y0, ts, rtol, atol)[1]
        return compiled(args, y0, ts[0], jnp.asarray(steps))

    return run
