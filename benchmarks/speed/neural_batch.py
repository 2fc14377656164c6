"""A neural ODE 2-64-64-2 on 256 samples, each with its own steps: value and gradient, float32."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import relative_error
from benchmarks.harness.peers import Field, diffrax_tsit5
from benchmarks.harness.side_by_side import IN_ROW, beside_diffrax
from benchmarks.harness.timing import run_times

TITLE = (
    "Neural ODE 2-64-64-2 tanh, float32, 256 samples, each with its own steps, Tsit5, rtol 1e-4, "
    "atol 1e-6, value and gradient (ms)"
)
RTOL, ATOL = 1e-4, 1e-6
SETTINGS = beside_diffrax("1e-4", "1e-6", adjoint=IN_ROW, dtype="float32")

# A function of parameters, initial states, targets, times and tolerances.
Loss = Callable[[PyTree, Array, Array, Array, float, float], Any]

_NETWORK = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, dtype=jnp.float32, key=jax.random.key(0))
PARAMS, STATIC = eqx.partition(_NETWORK, eqx.is_inexact_array)


def field(t: Array, y: Array, params: PyTree) -> Array:
    return eqx.combine(params, STATIC)(y)


def training_data(dtype: DTypeLike = jnp.float32) -> tuple[PyTree, Array, Array, Array]:
    """Parameters, initial states, targets, times."""
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    y0, targets = jax.random.normal(jax.random.key(1), (2, 256, 2), jnp.float32).astype(dtype)
    return params, y0, targets, jnp.array([0.0, 1.0], dtype)


def solve_samples(
    params: PyTree, y0: Array, ts: Array, rtol: float, atol: float, sensitivity: str = "discrete"
) -> jo.Solution:
    return jo.solve_batch(
        lambda t, y, _: field(t, y, params), y0, ts, rtol=rtol, atol=atol, sensitivity=sensitivity
    )


def our_loss(sensitivity: str) -> Loss:
    def loss(params, y0, targets, ts, rtol, atol):
        return jnp.mean((solve_samples(params, y0, ts, rtol, atol, sensitivity).y1 - targets) ** 2)

    return loss


def peer_loss(adjoint: diffrax.AbstractAdjoint) -> Loss:
    def loss(params, y0, targets, ts, rtol, atol):
        def end_state(y0: Array) -> Array:
            solution = diffrax_tsit5(field, y0, ts, params, rtol, atol, ends=True, adjoint=adjoint)
            return cast(Array, solution.ys)[-1]

        return jnp.mean((jax.vmap(end_state)(y0) - targets) ** 2)

    return loss


def batch_field(t: Array, y: Array, params: PyTree) -> Array:
    """The field of all samples as one system, which have one step size."""
    return jax.vmap(lambda y: field(t, y, params))(y)


def one_system_loss(sensitivity: str) -> Loss:
    """The loss with all samples solved as one system."""

    def loss(params, y0, targets, ts, rtol, atol):
        y1 = jo.solve(batch_field, y0, ts, params, rtol=rtol, atol=atol, sensitivity=sensitivity).y1
        return jnp.mean((y1 - targets) ** 2)

    return loss


def peer_backsolve_loss(one_system: bool, seminorm: bool) -> Loss:
    """The peer's loss with `BacksolveAdjoint`, in each way that its documentation shows."""

    def loss(params, y0, targets, ts, rtol, atol):
        norm: dict[str, Any] = {"norm": diffrax.adjoint_rms_seminorm} if seminorm else {}
        steps = diffrax.PIDController(rtol=rtol, atol=atol, **norm)
        adjoint = diffrax.BacksolveAdjoint(stepsize_controller=steps)
        solve = partial(diffrax_tsit5, ends=True, adjoint=adjoint)

        def end_state(field: Field, y0: Array) -> Array:
            return cast(Array, solve(field, y0, ts, params, rtol, atol).ys)[-1]

        if one_system:
            y1 = end_state(batch_field, y0)
        else:
            y1 = jax.vmap(lambda y0: end_state(field, y0))(y0)
        return jnp.mean((y1 - targets) ** 2)

    return loss


def rows() -> list[Comparison]:
    inputs = (*training_data(), RTOL, ATOL)
    discrete, adjoint = gradient(our_loss("discrete")), gradient(our_loss("adjoint"))
    one_system = gradient(one_system_loss("discrete"))
    adjoint_of_one = gradient(one_system_loss("adjoint"))
    checkpointed = gradient(peer_loss(diffrax.RecursiveCheckpointAdjoint()))
    backsolve = {
        (one, seminorm): gradient(peer_backsolve_loss(one, seminorm))
        for one in (False, True)
        for seminorm in (False, True)
    }
    exact = discrete(*training_data(jnp.float64), 1e-11, 1e-13)[1]

    def row(
        work: str, target: str, ours: Loss, peer: Loss, repeats: int, note: str = ""
    ) -> Comparison:
        times = run_times(lambda: ours(*inputs), lambda: peer(*inputs), repeats=repeats)
        errors = [relative_error(f(*inputs)[1], exact) for f in (ours, peer)]
        return Comparison(work, times[0], times[1], target, errors[0], errors[1], note)

    return [
        row(
            "discrete; RecursiveCheckpointAdjoint", ">= 2", discrete, checkpointed, 51, step_range()
        ),
        row("adjoint; BacksolveAdjoint", "", adjoint, backsolve[False, False], 7),
        row("adjoint; BacksolveAdjoint, seminorm", "", adjoint, backsolve[False, True], 7),
        row(
            "adjoint, one system; BacksolveAdjoint", "", adjoint_of_one, backsolve[True, False], 21
        ),
        row(
            "adjoint, one system; BacksolveAdjoint, seminorm",
            "",
            adjoint_of_one,
            backsolve[True, True],
            21,
        ),
        row("adjoint; one system, by jo.solve", "", adjoint, adjoint_of_one, 21),
        row("discrete; one system, by jo.solve", "", discrete, one_system, 51),
    ]


def gradient(loss: Loss) -> Loss:
    """Value and gradient by the parameters, jitted."""
    return jax.jit(jax.value_and_grad(loss))


def step_range() -> str:
    """The smallest and largest number of steps of a sample."""
    params, y0, _, ts = training_data()
    steps = solve_samples(params, y0, ts, RTOL, ATOL).stats.num_steps
    return f"{int(steps.min())} to {int(steps.max())} steps"
