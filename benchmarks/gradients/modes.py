"""Every way to differentiate a solve, side by side: time, error, temporary memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness import peers
from benchmarks.harness.timing import Row, run_times
from benchmarks.speed import lotka_volterra, neural_ode
from benchmarks.speed.neural_ode import distance

TITLE = "Ways to differentiate: value and gradient by the parameters (ms)"
DISCRETE: dict[str, Any] = {
    "Discrete()": jo.Discrete(),
    "Discrete(memory=16)": jo.Discrete(memory=16),
    'Discrete(memory="stages")': jo.Discrete(memory="stages"),
    "Reversible()": jo.Reversible(),
    "Forward()": jo.Forward(),
}
CONTINUOUS: dict[str, Any] = {
    f'Continuous("{method}")': jo.Continuous(method=method)
    for method in ("backsolve", "quadrature", "interpolate")
}
# Of diffrax, the way that stands beside each; the others have RecursiveCheckpointAdjoint.
PEERS: dict[str, Callable[[], diffrax.AbstractAdjoint]] = {
    "Forward()": diffrax.ForwardMode,
    'Continuous("backsolve")': diffrax.BacksolveAdjoint,
}


def problems() -> dict[str, tuple]:
    """Field, start, times, parameters, tolerances, `max_steps`."""
    y0, _, p, _ = lotka_volterra.setting()
    small = lotka_volterra.field, y0, jnp.array([0.0, 10.0]), p, 1e-6, 1e-8, 256
    net = neural_ode.field, neural_ode.X, neural_ode.TS, neural_ode.PARAMS, 1e-4, 1e-6, 16
    return {"Lotka-Volterra": small, "MLP, 256 samples": net}


def our_loss(problem: tuple, how: Any, args: PyTree, rtol: float, atol: float) -> Array:
    field, y0, ts, *_, most = problem
    options = {"sensitivity": how, "max_steps": most}
    return jnp.sum(jo.solve(field, y0, ts, args, rtol=rtol, atol=atol, **options).y1 ** 2)


def peer_loss(problem: tuple, how: Any, args: PyTree, rtol: float, atol: float) -> Array:
    field, y0, ts, *_, most = problem
    found = peers.solution(field, y0, ts, args, rtol, atol, ends=True, adjoint=how, max_steps=most)
    return jnp.sum(found.ys[-1] ** 2)  # pyright: ignore[reportOptionalSubscript]


def derivative_of(function: Callable, name: str) -> Callable:
    """Its gradient in the direction that the mode called `name` has."""
    return jax.jacfwd(function) if name == "Forward()" else jax.grad(function)


def gradient(loss: Callable, problem: tuple, how: Any, name: str) -> Any:
    """The compiled value and gradient."""
    *_, args, rtol, atol, _ = problem
    function = partial(loss, problem, how)
    if name == "Forward()":
        pair = lambda *x: (function(*x), derivative_of(function, name)(*x))  # noqa: E731
    else:
        pair = jax.value_and_grad(function)
    return jax.jit(pair).lower(args, rtol, atol).compile()


def second_order(problem: tuple, how: Any, name: str) -> str:
    """The time of a product of the Hessian by the parameters with a vector."""
    *_, args, rtol, atol, _ = problem
    function = derivative_of(partial(our_loss, problem, how), name)

    def product(args: PyTree) -> PyTree:
        return jax.jvp(lambda p: function(p, rtol, atol), (args,), (args,))[1]

    compiled = jax.jit(product).lower(args).compile()
    time = run_times(lambda: compiled(args), repeats=21)[0]
    return f"Hessian product {time:.3g} ms"


def temporary(compiled: Any) -> str:
    return f"{compiled.memory_analysis().temp_size_in_bytes / 2**10:.0f} KiB"


def rows() -> list[Row]:
    found = []
    for title, problem in problems().items():
        *_, args, rtol, atol, _ = problem
        exact = jax.jit(jax.grad(partial(our_loss, (*problem[:-1], 4096), jo.Discrete())))(
            args, 1e-12, 1e-13
        )
        for name, how in (DISCRETE | CONTINUOUS).items():
            # Tangents by every weight of a network are no use.
            if name == "Forward()" and title != "Lotka-Volterra":
                continue
            beside = PEERS.get(name, diffrax.RecursiveCheckpointAdjoint)()
            ours = gradient(our_loss, problem, how, name)
            peer = gradient(peer_loss, problem, beside, name)
            mine, theirs = run_times(
                lambda: ours(args, rtol, atol),  # noqa: B023
                lambda: peer(args, rtol, atol),  # noqa: B023
                repeats=101,
            )
            errors = [distance(f(args, rtol, atol)[1], exact) for f in (ours, peer)]
            memory = f"{temporary(ours)}; {type(beside).__name__} {temporary(peer)}"
            note = f"{memory}; {second_order(problem, how, name)}"
            found.append(Row(f"{title}, {name}", mine, theirs, "", errors[0], errors[1], note))
    return found
