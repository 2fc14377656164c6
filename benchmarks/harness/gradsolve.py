"""gradsolve, where it is installed: it records the steps of an ensemble and replays them."""

from collections.abc import Callable
from importlib import metadata, util
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.harness.peers import Field


def gradsolve_name() -> str | None:
    """The name gradsolve with its version; None if it is not installed."""
    found = util.find_spec("gradsolve")
    return None if found is None else f"gradsolve {metadata.version('gradsolve')}"


class _ReplayProblem(NamedTuple):
    """The attributes of a problem that gradsolve's replay reads."""

    f_jax: Field
    t0: float


def _record(
    f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float
) -> tuple[Any, Any]:
    from gradsolve.solvers.tsit5_replay import record_tsit5_jax

    t0, t1 = map(float, ts)
    return record_tsit5_jax(f, y0, args, t0, t1, rtol=rtol, atol=atol)[:2]


def gradsolve_ends(f: Field, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """The end states of an ensemble by gradsolve's forward solve without NVIDIA Warp."""
    return _record(f, args, y0, ts, rtol, atol)[0]


def gradsolve_gradient(f: Field, loss: Callable[[Array], Array]) -> Callable:
    """A function that returns value and gradient of `loss(end_states)` by the parameters."""
    from gradsolve.warp.warp_replay import replay_solve_jax

    def replay(args: Array, y0: Array, t0: Array, steps: Array) -> Array:
        return loss(replay_solve_jax(_ReplayProblem(f, cast(float, t0)), y0, args, steps))

    compiled = jax.jit(jax.value_and_grad(replay))

    def record_and_replay(args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Any:
        steps = _record(f, args, y0, ts, rtol, atol)[1]
        return compiled(args, y0, ts[0], jnp.asarray(steps))

    return record_and_replay
