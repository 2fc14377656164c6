"""Time against the size of a batch, and against the spread of its parameters; two figures."""

import dataclasses
from functools import partial
from typing import NamedTuple

from jax import Array

from benchmarks.figures.batches import draw_batch_size, draw_useful_share
from benchmarks.harness import peers
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import median_max_error
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import run_times
from benchmarks.problems.ensembles import Ensemble, lorenz_ensemble, van_der_pol_ensemble
from benchmarks.speed.ensemble_solves import (
    exact_ends,
    lockstep_share,
    make_forward,
    our_ends,
    solve_ensemble,
    useful_share,
)

TITLE = "Batches of many sizes and spreads, Tsit5, end states (microseconds per trajectory)"
SETTINGS = beside_diffrax(
    rtol="Lorenz 1e-6, Van der Pol 1e-6",
    atol="Lorenz 1e-8, Van der Pol 1e-8",
    adjoint="not differentiated",
    lanes=("64, the default", "all under vmap"),
)

# For each number of Lorenz systems, the repeats; diffrax solves at most MAX_SIZE_OF_PEER.
REPEATS = {10: 101, 100: 51, 1_000: 21, 10_000: 7, 100_000: 5}
MAX_SIZE_OF_PEER = 10_000
# mu of the Van der Pol oscillators lies between 1/s and s.
SPREADS = (1, 3, 10, 30, 100)
COUNT = 2048


class SpreadResult(NamedTuple):
    """A row, and for jaxode and diffrax the useful shares of steps and ns per useful step."""

    row: Comparison
    shares: tuple[float, float]
    per_step: tuple[float, float]


def rows() -> list[Comparison]:
    sizes = by_size()
    spreads = {spread: by_spread(spread) for spread in SPREADS}
    draw_batch_size({count: (row.ours, row.peer) for count, row in sizes.items()})
    draw_useful_share(
        {spread: found.shares for spread, found in spreads.items()},
        {spread: found.per_step for spread, found in spreads.items()},
    )
    return [*sizes.values(), *(found.row for found in spreads.values())]


def by_size() -> dict[int, Comparison]:
    """Lorenz to t = 2; each batch is the first part of the largest."""
    largest = max(REPEATS)
    exact = exact_ends(small_lorenz(largest))
    found = {
        count: measure(f"{count:,} Lorenz, t = 2", small_lorenz(count), exact[:count], repeats)
        for count, repeats in REPEATS.items()
    }
    variation = relative_variation([1_000, 10_000, 100_000])
    note = f"above 1,000 all within {variation:.0%}, interleaved"
    asked, is_met = "constant within 30% above 1,000", variation <= 0.3
    row = dataclasses.replace(found[largest], asked=asked, note=note, is_met=is_met)
    return found | {largest: row}


def relative_variation(counts: list[int]) -> float:
    """The relative difference of the largest and least time per trajectory of these batches."""
    makers = [make_forward(our_ends, small_lorenz(count)) for count in counts]
    times = run_times(*(partial(function, *inputs) for function, inputs in makers), repeats=7)
    per_trajectory = [time / count for time, count in zip(times, counts, strict=True)]
    return max(per_trajectory) / min(per_trajectory) - 1


def small_lorenz(count: int) -> Ensemble:
    """Lorenz systems to t = 2 at loose tolerances."""
    return lorenz_ensemble(count, t1=2.0, rtol=1e-6, atol=1e-8)


def by_spread(spread: int) -> SpreadResult:
    """Van der Pol oscillators with mu log-uniform between 1/spread and spread."""
    ensemble = van_der_pol_ensemble(COUNT, 1 / spread, spread)
    work = f"{COUNT:,} Van der Pol, " + (f"mu 1/{spread} to {spread}" if spread > 1 else "mu 1")
    row = measure(work, ensemble, exact_ends(ensemble), repeats=5)
    solution = solve_ensemble(*ensemble)
    count_steps, inputs = make_forward(peers.diffrax_steps, ensemble)
    peer_steps = count_steps(*inputs)
    shares = useful_share(solution), lockstep_share(peer_steps)
    means = float(solution.stats.num_steps.mean()), float(peer_steps.mean())
    note = f"useful share {shares[0]:.2f}; of diffrax {shares[1]:.2f}"
    per_step = 1e3 * row.ours / means[0], 1e3 * row.peer / means[1]
    return SpreadResult(dataclasses.replace(row, note=note), shares, per_step)


def measure(work: str, ensemble: Ensemble, exact: Array, repeats: int) -> Comparison:
    """Times per trajectory and errors; diffrax is left out of batches too large for it."""
    ways = (our_ends, peers.diffrax_ends)[: 1 if len(exact) > MAX_SIZE_OF_PEER else 2]
    functions = [make_forward(ends, ensemble)[0] for ends in ways]
    calls = [partial(function, *ensemble.inputs) for function in functions]
    times = [time.times(1e3 / len(exact)) for time in run_times(*calls, repeats=repeats)]
    errors = [median_max_error(call(), exact) for call in calls]
    if len(calls) == 1:
        return Comparison(work, times[0], float("nan"), "", errors[0])
    return Comparison(work, times[0], times[1], "", errors[0], errors[1])
