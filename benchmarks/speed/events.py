"""Events and discontinuities: bouncing balls beside restarted solves, infusions beside diffrax."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import run_times
from benchmarks.problems.bouncing_balls import (
    COUNT,
    MAX_BOUNCES,
    Balls,
    bouncing_balls,
    exact_bounce_times,
)
from benchmarks.problems.infusions import DISCONTINUITIES, SPAN, exact_end_state, infusions
from benchmarks.speed.bounce_solves import (
    ATOL,
    RTOL,
    diffrax_in_while_loop,
    diffrax_restarted_from_python,
    our_bounce_times,
    scipy_ensemble_estimate,
)

TITLE = "Events and jumps (ms)"
SETTINGS = beside_diffrax(
    rtol="1e-8",
    atol="1e-10",
    solver=("Tsit5", "diffrax: Tsit5; SciPy: RK45"),
    adjoint="not differentiated",
    max_steps=("balls 4096, infusions 16,384", "256 a flight, infusions 16,384; SciPy no limit"),
    root_of_an_event=("on the dense output, to rounding", "Newton, 1e-10; SciPy: brentq"),
)


FLIGHTS = "a vmapped solve for each flight"
ESTIMATED = "estimated: one ball, times 1,000, over 50"


def rows() -> list[Comparison]:
    balls = bouncing_balls()
    return [*bounce_rows(balls), infusion_row()]


def bounce_rows(balls: Balls) -> list[Comparison]:
    """The bounce times of all balls, beside diffrax restarted in two ways, and beside SciPy."""
    exact = exact_bounce_times(balls)
    ours, in_loop = jax.jit(our_bounce_times), jax.jit(jax.vmap(diffrax_in_while_loop))
    from_python = diffrax_restarted_from_python()
    assert bool(jnp.all(jnp.isnan(ours(balls)) == jnp.isnan(exact)))
    our_time, loop_time, python_time = run_times(
        lambda: ours(balls), lambda: in_loop(balls), lambda: from_python(balls), repeats=9
    )
    our_error, loop_error, python_error = (
        float(jnp.nanmax(jnp.abs(f(balls) - exact))) for f in (ours, in_loop, from_python)
    )
    scipy_time, scipy_error = scipy_ensemble_estimate(balls, exact)
    work = f"{COUNT} balls, 1 to {MAX_BOUNCES} bounces"
    peers = (
        ("diffrax restarted from Python", python_time, ">= 10", python_error, FLIGHTS),
        ("diffrax restarted in a compiled loop", loop_time, "", loop_error, ""),
        ("SciPy on 50 processors", scipy_time, ">= 10", scipy_error, ESTIMATED),
    )
    return [
        Comparison(f"{work}; {peer}", our_time, peer_time, target, our_error, peer_error, note)
        for peer, peer_time, target, peer_error, note in peers
    ]


def infusion_row() -> Comparison:
    """Twenty infusions with steps that end at the discontinuities, in jaxode and in diffrax."""
    y0, exact = jnp.zeros(3), exact_end_state()
    options: dict[str, Any] = {"rtol": RTOL, "atol": ATOL, "max_steps": 16384}

    @jax.jit
    def ours(y0: Array) -> jo.Solution:
        return jo.solve(infusions, y0, SPAN, jumps=DISCONTINUITIES, **options)

    @jax.jit
    def peer(y0: Array) -> Array:
        controller = diffrax.ClipStepSizeController(
            diffrax.PIDController(rtol=RTOL, atol=ATOL), jump_ts=jnp.asarray(DISCONTINUITIES)
        )
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(infusions), diffrax.Tsit5(), *SPAN, None, y0,
            stepsize_controller=controller, max_steps=16384,
        )  # fmt: skip
        assert solution.ys is not None
        return solution.ys[-1]

    without_jumps = jo.solve(infusions, y0, SPAN, dt=0.1, **options).stats
    times = run_times(lambda: ours(y0), lambda: peer(y0), repeats=31)
    solution = ours(y0)
    note = f"{int(solution.stats.num_steps)} steps; {int(without_jumps.num_steps)} without jumps"
    errors = [float(jnp.max(jnp.abs(y / exact - 1))) for y in (solution.y1, peer(y0))]
    return Comparison("20 infusions", times[0], times[1], "", errors[0], errors[1], note)
