"""Every sensitivity mode of a solve: time, error, temporary memory, and a Hessian product."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import relative_error
from benchmarks.harness.peers import diffrax_tsit5
from benchmarks.harness.side_by_side import IN_ROW, beside_diffrax
from benchmarks.harness.timing import run_times
from benchmarks.problems.lotka_volterra import fit_problem, lotka_volterra
from benchmarks.problems.neural_ode import PARAMS, SAMPLES, TIMES, batch_field

TITLE = "Sensitivity modes: value and gradient by the parameters (ms)"
SETTINGS = beside_diffrax(
    rtol="Lotka-Volterra 1e-6, MLP 1e-4",
    atol="Lotka-Volterra 1e-8, MLP 1e-6",
    adjoint=IN_ROW,
    max_steps="Lotka-Volterra 256, MLP 16",
)
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
# diffrax's adjoint for each mode; modes that are not listed have RecursiveCheckpointAdjoint.
PEERS: dict[str, Callable[[], diffrax.AbstractAdjoint]] = {
    "Forward()": diffrax.ForwardMode,
    'Continuous("backsolve")': diffrax.BacksolveAdjoint,
}


class Problem(NamedTuple):
    """An initial value problem with tolerances and a bound on the number of steps."""

    name: str
    field: Callable
    y0: Array
    ts: Array
    args: PyTree
    rtol: float
    atol: float
    max_steps: int

    @property
    def inputs(self) -> tuple[PyTree, float, float]:
        """The arguments of a loss after problem and mode."""
        return self.args, self.rtol, self.atol


def problems() -> list[Problem]:
    """A small system and a network."""
    y0, _, p, _ = fit_problem()
    span = jnp.array([0.0, 10.0])
    return [
        Problem("Lotka-Volterra", lotka_volterra, y0, span, p, 1e-6, 1e-8, 256),
        Problem("MLP, 256 samples", batch_field, SAMPLES, TIMES, PARAMS, 1e-4, 1e-6, 16),
    ]


def our_loss(problem: Problem, mode: Any, args: PyTree, rtol: float, atol: float) -> Array:
    """The sum of squares of the end state by jaxode."""
    field, y0, ts = problem.field, problem.y0, problem.ts
    options = {"sensitivity": mode, "max_steps": problem.max_steps}
    return jnp.sum(jo.solve(field, y0, ts, args, rtol=rtol, atol=atol, **options).y1 ** 2)


def peer_loss(problem: Problem, mode: Any, args: PyTree, rtol: float, atol: float) -> Array:
    """The sum of squares of the end state by diffrax."""
    solution = diffrax_tsit5(
        problem.field, problem.y0, problem.ts, args, rtol, atol,
        ends=True, adjoint=mode, max_steps=problem.max_steps,
    )  # fmt: skip
    return jnp.sum(solution.ys[-1] ** 2)  # pyright: ignore[reportOptionalSubscript]


def derivative(function: Callable, name: str) -> Callable:
    """The gradient in forward or reverse mode, as the sensitivity mode called `name` needs it."""
    return jax.jacfwd(function) if name == "Forward()" else jax.grad(function)


def compiled_gradient(loss: Callable, problem: Problem, mode: Any, name: str) -> Any:
    """The compiled value and gradient."""
    function = partial(loss, problem, mode)
    if name == "Forward()":
        pair = lambda *x: (function(*x), derivative(function, name)(*x))  # noqa: E731
    else:
        pair = jax.value_and_grad(function)
    return jax.jit(pair).lower(*problem.inputs).compile()


def hessian_product_time(problem: Problem, mode: Any, name: str) -> str:
    """The time of a product of the Hessian by the parameters with a vector."""
    args, rtol, atol = problem.inputs
    gradient = derivative(partial(our_loss, problem, mode), name)

    def product(args: PyTree) -> PyTree:
        return jax.jvp(lambda p: gradient(p, rtol, atol), (args,), (args,))[1]

    compiled = jax.jit(product).lower(args).compile()
    time = run_times(lambda: compiled(args), repeats=21)[0]
    return f"Hessian product {time:.3g} ms"


def temporary_memory(compiled: Any) -> str:
    """The temporary memory that XLA allocates for a compiled function."""
    return f"{compiled.memory_analysis().temp_size_in_bytes / 2**10:.0f} KiB"


def rows() -> list[Comparison]:
    return [row for problem in problems() for row in problem_rows(problem)]


def problem_rows(problem: Problem) -> list[Comparison]:
    """A row for each sensitivity mode."""
    precise = problem._replace(max_steps=4096, rtol=1e-12, atol=1e-13)
    exact = jax.jit(jax.grad(partial(our_loss, precise, jo.Discrete())))(*precise.inputs)
    modes = DISCRETE | CONTINUOUS
    if problem.name != "Lotka-Volterra":
        # Forward mode takes a tangent for every weight of a network.
        del modes["Forward()"]
    return [mode_row(problem, mode, name, exact) for name, mode in modes.items()]


def mode_row(problem: Problem, mode: Any, name: str, exact: PyTree) -> Comparison:
    """The times, errors and memory of one sensitivity mode and of diffrax's counterpart."""
    adjoint = PEERS.get(name, diffrax.RecursiveCheckpointAdjoint)()
    ours = compiled_gradient(our_loss, problem, mode, name)
    peer = compiled_gradient(peer_loss, problem, adjoint, name)
    inputs = problem.inputs
    times = run_times(lambda: ours(*inputs), lambda: peer(*inputs), repeats=101)
    errors = [relative_error(f(*inputs)[1], exact) for f in (ours, peer)]
    memory = f"{temporary_memory(ours)}; {type(adjoint).__name__} {temporary_memory(peer)}"
    note = f"{memory}; {hessian_product_time(problem, mode, name)}"
    return Comparison(f"{problem.name}, {name}", times[0], times[1], "", errors[0], errors[1], note)
