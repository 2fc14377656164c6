"""1,000 Lorenz systems and 2,048 Van der Pol oscillators: end states, gradients, compiling."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import peers
from benchmarks.harness.timing import Row, compile_times, run_times
from benchmarks.speed import lorenz_in_c as in_c
from benchmarks.speed.ensemble_solves import (
    Ensemble,
    batch,
    exact_ends,
    lockstep_share,
    lorenz,
    make,
    make_gradient,
    median_error,
    median_share,
    our_ends,
    sum_of_squares,
    useful_share,
    van_der_pol,
)

TITLE = "Ensembles, Tsit5, each trajectory with its own steps; errors are medians over them (ms)"
ON_CPU = "made for GPUs: here without its Warp kernels"


class Case(NamedTuple):
    """An ensemble, and the time at which errors are taken."""

    name: str
    ensemble: Ensemble
    error_time: float

    @property
    def judged(self) -> Ensemble:
        """The ensemble up to the time at which errors are taken."""
        return self.ensemble._replace(ts=jnp.array([0.0, self.error_time]))


class Peer(NamedTuple):
    """A peer's function of the ensemble's inputs, what is asked for beside it, and how it runs."""

    name: str
    function: Callable
    target: str
    repeats: int
    note: str


def rows() -> list[Row]:
    # Chaos makes an error of Lorenz e^0.9 times larger in a unit of time: judged at t = 5.
    chaotic = Case("1,000 Lorenz, t = 20", lorenz(1000), 5.0)
    varied = Case("2,048 Van der Pol, mu 0.1 to 100", van_der_pol(2048, 0.1, 100.0), 20.0)
    found = ends(chaotic, ">= 7", "errors at t = 5, before chaos drowns them")
    found += [against_c(chaotic.ensemble), *ends(varied, ">= 20", shares(varied.ensemble))]
    found += gradients(chaotic, ">= 8", "errors relative, at t = 5")
    found += gradients(varied, ">= 15", "errors relative")
    for case in (chaotic, varied):
        found += [compilation(case, make, ""), compilation(case, make_gradient, ", gradient")]
    return found


def ends(case: Case, target: str, note: str) -> list[Row]:
    """End states, beside diffrax, JAX's odeint and gradsolve."""
    field, name = case.ensemble.field, peers.gradsolve_name()
    odeint = jax.jit(partial(peers.odeint_ends, field), static_argnames=("rtol", "atol"))
    found = [
        Peer("", make(peers.diffrax_ends, case.ensemble)[0], target, 11, note),
        Peer("odeint", odeint, "", 3, ""),
    ]
    if name:
        found.append(Peer(name, partial(peers.gradsolve_ends, field), "", 1, ON_CPU))
    exact = exact_ends(case.judged)
    ours = make(our_ends, case.ensemble)[0]
    return compare(case, ours, found, lambda ends: median_error(ends, exact))


def gradients(case: Case, target: str, note: str) -> list[Row]:
    """Value and gradient by each trajectory's own arguments, beside diffrax and gradsolve."""
    name = peers.gradsolve_name()
    found = [Peer("", make_gradient(peers.diffrax_ends, case.ensemble)[0], target, 3, note)]
    # Of the other ensemble gradsolve takes half a minute.
    if name and len(case.ensemble.y0) <= 1000:
        function = peers.gradsolve_gradient(case.ensemble.field, sum_of_squares)
        found.append(Peer(name, function, "", 1, ON_CPU))
    ours = make_gradient(our_ends, case.ensemble)[0]
    exact = ours(*case.judged._replace(rtol=1e-11, atol=1e-13).inputs)[1]
    case = case._replace(name=f"{case.name}, value and gradient")
    return compare(case, ours, found, lambda found: median_share(found[1], exact))


def compare(
    case: Case, ours: Callable, others: list[Peer], error: Callable[[Any], float]
) -> list[Row]:
    """A row for each peer."""
    inputs, judged = case.ensemble.inputs, case.judged.inputs
    our_error, found = error(ours(*judged)), []
    for peer in others:
        mine, theirs = run_times(
            lambda: ours(*inputs),
            lambda: peer.function(*inputs),  # noqa: B023
            repeats=peer.repeats,
        )
        work = f"{case.name}; {peer.name}" if peer.name else case.name
        peer_error = error(peer.function(*judged))
        found.append(Row(work, mine, theirs, peer.target, our_error, peer_error, peer.note))
    return found


def against_c(ensemble: Ensemble) -> Row:
    """The Lorenz ensemble beside C, and how long a step of one trajectory takes."""
    _, args, y0, ts, rtol, atol = ensemble
    work = "1,000 Lorenz, t = 20; vectorised C"
    ours, inputs = make(our_ends, ensemble)
    c = in_c.lorenz(np.asarray(y0), np.asarray(args), float(ts[1]), rtol, atol)
    if c is None:
        (mine,) = run_times(lambda: ours(*inputs), repeats=51)
        return Row(work, mine, float("nan"), "<= 2.5x", note="no C compiler here")
    mine, theirs = run_times(lambda: ours(*inputs), c, repeats=51)
    steps = int(batch(*ensemble).stats.num_steps.sum()), c()[1]
    per_step = [1e6 * time / count for time, count in zip((mine, theirs), steps, strict=True)]
    note = (
        f"{mine / theirs:.2f}x; a step of a trajectory {per_step[0]:.1f} ns, {per_step[1]:.1f} ns"
    )
    return Row(work, mine, theirs, "<= 2.5x", note=note)


def shares(ensemble: Ensemble) -> str:
    """The useful share of the lanes' steps (>= 0.9 asked for), and that of a `vmap`."""
    sols = batch(*ensemble)
    lockstep = lockstep_share(sols.stats.num_steps)
    return f"useful share of lane-steps {useful_share(sols):.2f}, in lockstep {lockstep:.2f}"


def compilation(case: Case, maker: Callable[..., tuple], what: str) -> Row:
    mine, theirs = compile_times(
        lambda: maker(our_ends, case.ensemble),
        lambda: maker(peers.diffrax_ends, case.ensemble),
        repeats=3,
    )
    work = f"compile, {case.name}{what}"
    return Row(work, mine, theirs, "<= 0.5x", note=f"{mine / theirs:.2f}x")
