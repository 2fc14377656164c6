"""1,000 Lorenz systems and 2,048 Van der Pol oscillators: end states, gradients, compilation."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import peers
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import median_max_error, median_relative_error
from benchmarks.harness.gradsolve import gradsolve_ends, gradsolve_gradient, gradsolve_name
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import compile_times, run_times
from benchmarks.problems.ensembles import Ensemble, lorenz_ensemble, van_der_pol_ensemble
from benchmarks.speed.ensemble_solves import (
    exact_ends,
    lockstep_share,
    make_forward,
    make_gradient,
    our_ends,
    solve_ensemble,
    sum_of_squares,
    useful_share,
)
from benchmarks.speed.lorenz_in_c import make_lorenz_in_c

TITLE = "Ensembles, Tsit5, each trajectory with its own steps; errors are medians over them (ms)"
SETTINGS = beside_diffrax(
    rtol="Lorenz 1e-7, Van der Pol 1e-6",
    atol="Lorenz 1e-9, Van der Pol 1e-8",
    solver=("Tsit5", "Tsit5; odeint: Dormand-Prince; gradsolve: Tsit5; C: Tsit5"),
    max_steps=("4096", "4096; odeint has no limit; gradsolve, its default"),
    lanes=("64, the default", "all under vmap; C: SIMD lanes"),
)
CPU_NOTE = "made for GPUs: here without its Warp kernels"


class Case(NamedTuple):
    """An ensemble, and the time at which errors are measured."""

    name: str
    ensemble: Ensemble
    error_time: float

    @property
    def up_to_error_time(self) -> Ensemble:
        """The ensemble that ends at the time at which errors are measured."""
        return self.ensemble._replace(ts=jnp.array([0.0, self.error_time]))


class Peer(NamedTuple):
    """A peer's function of the ensemble's inputs, the targeted ratio, and how often it is timed."""

    name: str
    function: Callable
    target: str
    repeats: int
    note: str


def rows() -> list[Comparison]:
    # Chaos multiplies an error of Lorenz by e^0.9 per unit of time: at t = 20 there are no errors.
    chaotic = Case("1,000 Lorenz, t = 5", lorenz_ensemble(1000, 5.0), 5.0)
    varied = Case("2,048 Van der Pol, mu 0.1 to 100", van_der_pol_ensemble(2048, 0.1, 100.0), 20.0)
    found = end_states(chaotic, ">= 7", "")
    found += [
        against_c(chaotic.ensemble),
        *end_states(varied, ">= 20", useful_shares(varied.ensemble)),
    ]
    found += gradients(chaotic, ">= 8", "errors relative")
    found += gradients(varied, ">= 15", "errors relative")
    for case in (chaotic, varied):
        found += [compile_row(case, make_forward, "")]
        found += [compile_row(case, make_gradient, ", gradient")]
    return found


def end_states(case: Case, target: str, note: str) -> list[Comparison]:
    """End states, beside diffrax, JAX's odeint and gradsolve."""
    field, name = case.ensemble.field, gradsolve_name()
    odeint = jax.jit(partial(peers.odeint_ends, field), static_argnames=("rtol", "atol"))
    found = [
        Peer("", make_forward(peers.diffrax_ends, case.ensemble)[0], target, 11, note),
        Peer("odeint", odeint, "", 3, ""),
    ]
    if name:
        found.append(Peer(name, partial(gradsolve_ends, field), "", 3, CPU_NOTE))
    exact = exact_ends(case.up_to_error_time)
    ours = make_forward(our_ends, case.ensemble)[0]
    return compare(case, ours, found, lambda ends: median_max_error(ends, exact))


def gradients(case: Case, target: str, note: str) -> list[Comparison]:
    """Value and gradient by each trajectory's own parameters, beside diffrax and gradsolve."""
    name = gradsolve_name()
    found = [Peer("", make_gradient(peers.diffrax_ends, case.ensemble)[0], target, 3, note)]
    # gradsolve takes half a minute for the other ensemble.
    if name and len(case.ensemble.y0) <= 1000:
        function = gradsolve_gradient(case.ensemble.field, sum_of_squares)
        found.append(Peer(name, function, "", 3, CPU_NOTE))
    ours = make_gradient(our_ends, case.ensemble)[0]
    exact = ours(*case.up_to_error_time._replace(rtol=1e-11, atol=1e-13).inputs)[1]
    case = case._replace(name=f"{case.name}, value and gradient")
    return compare(case, ours, found, lambda found: median_relative_error(found[1], exact))


def compare(
    case: Case, ours: Callable, others: list[Peer], error: Callable[[Any], float]
) -> list[Comparison]:
    """A row for each peer."""
    inputs, shorter = case.ensemble.inputs, case.up_to_error_time.inputs
    our_error, found = error(ours(*shorter)), []
    for peer in others:
        our_time, peer_time = run_times(
            lambda: ours(*inputs),
            lambda: peer.function(*inputs),  # noqa: B023
            repeats=peer.repeats,
        )
        work = f"{case.name}; {peer.name}" if peer.name else case.name
        peer_error = error(peer.function(*shorter))
        found.append(
            Comparison(work, our_time, peer_time, peer.target, our_error, peer_error, peer.note)
        )
    return found


def against_c(ensemble: Ensemble) -> Comparison:
    """The Lorenz ensemble beside C, with the time of a step of one trajectory."""
    _, args, y0, ts, rtol, atol = ensemble
    work = "1,000 Lorenz, t = 5; vectorised C"
    ours, inputs = make_forward(our_ends, ensemble)
    c = make_lorenz_in_c(np.asarray(y0), np.asarray(args), float(ts[1]), rtol, atol)
    if c is None:
        (our_time,) = run_times(lambda: ours(*inputs), repeats=51)
        return Comparison(work, our_time, float("nan"), "<= 2.5x", note="no C compiler here")
    times = run_times(lambda: ours(*inputs), c, repeats=51)
    steps = int(solve_ensemble(*ensemble).stats.num_steps.sum()), c()[1]
    per_step = [1e6 * time / count for time, count in zip(times, steps, strict=True)]
    ratio = f"{times[0] / times[1]:.2f}x"
    note = f"{ratio}; a step of a trajectory {per_step[0]:.1f} ns, {per_step[1]:.1f} ns"
    return Comparison(work, times[0], times[1], "<= 2.5x", note=note)


def useful_shares(ensemble: Ensemble) -> str:
    """The useful share of the lane-steps (target: 0.9), and that of a `vmap`."""
    solution = solve_ensemble(*ensemble)
    lockstep = lockstep_share(solution.stats.num_steps)
    return f"useful share of lane-steps {useful_share(solution):.2f}, in lockstep {lockstep:.2f}"


def compile_row(case: Case, maker: Callable[..., tuple], what: str) -> Comparison:
    """The compile times of what `maker` makes of the case."""
    our_time, peer_time = compile_times(
        lambda: maker(our_ends, case.ensemble),
        lambda: maker(peers.diffrax_ends, case.ensemble),
        repeats=3,
    )
    work = f"compile, {case.name}{what}"
    return Comparison(work, our_time, peer_time, "<= 0.5x", note=f"{our_time / peer_time:.2f}x")
