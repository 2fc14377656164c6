"""Time against the size of a batch, and against how unlike its trajectories are; two figures."""

import dataclasses
from functools import partial
from typing import NamedTuple

from jax import Array

from benchmarks.figures import batches as figures
from benchmarks.harness import peers
from benchmarks.harness.timing import Row, run_times
from benchmarks.speed.ensemble_solves import (
    Ensemble,
    batch,
    exact_ends,
    lockstep_share,
    lorenz,
    make,
    median_error,
    our_ends,
    useful_share,
    van_der_pol,
)

TITLE = "Batches of many sizes and spreads, Tsit5, end states (microseconds per trajectory)"

# How many Lorenz systems, and how often they are solved; by diffrax up to MOST_OF_PEER.
SIZES = {10: 101, 100: 51, 1_000: 21, 10_000: 7, 100_000: 5}
MOST_OF_PEER = 10_000
# mu of the Van der Pol oscillators is spread over 1/s to s.
SPREADS = (1, 3, 10, 30, 100)
COUNT = 2048


class Spread(NamedTuple):
    """A row, and of jaxode and diffrax the useful shares of steps and the ns per useful step."""

    row: Row
    shares: tuple[float, float]
    per_step: tuple[float, float]


def rows() -> list[Row]:
    sizes = by_size()
    spreads = {spread: by_spread(spread) for spread in SPREADS}
    figures.draw_batch_size({count: (row.ours, row.peer) for count, row in sizes.items()})
    figures.draw_useful_share(
        {spread: found.shares for spread, found in spreads.items()},
        {spread: found.per_step for spread, found in spreads.items()},
    )
    return [*sizes.values(), *(found.row for found in spreads.values())]


def by_size() -> dict[int, Row]:
    """Lorenz to t = 2; each batch is the first part of the largest."""
    largest = max(SIZES)
    exact = exact_ends(small_lorenz(largest))
    found = {
        count: measure(f"{count:,} Lorenz, t = 2", small_lorenz(count), exact[:count], repeats)
        for count, repeats in SIZES.items()
    }
    note = f"past 1,000 all within {100 * unevenness([1_000, 10_000, 100_000]):.0f}%, in turn"
    target = "flat within 30% past 1,000"
    return found | {largest: dataclasses.replace(found[largest], target=target, note=note)}


def unevenness(counts: list[int]) -> float:
    """How far the times per trajectory of these batches lie apart, as a share of the least."""
    makers = [make(our_ends, small_lorenz(count)) for count in counts]
    times = run_times(*(partial(function, *inputs) for function, inputs in makers), repeats=7)
    each = [time / count for time, count in zip(times, counts, strict=True)]
    return max(each) / min(each) - 1


def small_lorenz(count: int) -> Ensemble:
    return lorenz(count, t1=2.0, rtol=1e-6, atol=1e-8)


def by_spread(spread: int) -> Spread:
    """Van der Pol oscillators with mu log-uniform between 1/spread and spread."""
    ensemble = van_der_pol(COUNT, 1 / spread, spread)
    work = f"{COUNT:,} Van der Pol, " + (f"mu 1/{spread} to {spread}" if spread > 1 else "mu 1")
    row = measure(work, ensemble, exact_ends(ensemble), repeats=5)
    sols, (steps, inputs) = batch(*ensemble), make(peers.diffrax_steps, ensemble)
    theirs = steps(*inputs)
    shares = useful_share(sols), lockstep_share(theirs)
    means = float(sols.stats.num_steps.mean()), float(theirs.mean())
    note = f"useful share {shares[0]:.2f}; of diffrax {shares[1]:.2f}"
    per_step = 1e3 * row.ours / means[0], 1e3 * row.peer / means[1]
    return Spread(dataclasses.replace(row, note=note), shares, per_step)


def measure(work: str, ensemble: Ensemble, exact: Array, repeats: int) -> Row:
    """Times per trajectory and errors, of diffrax too if the batch is not too large for it."""
    makers = (our_ends, peers.diffrax_ends)[: 1 if len(exact) > MOST_OF_PEER else 2]
    functions = [make(ends, ensemble)[0] for ends in makers]
    calls = [partial(function, *ensemble.inputs) for function in functions]
    times = [1e3 * time / len(exact) for time in run_times(*calls, repeats=repeats)]
    errors = [median_error(call(), exact) for call in calls]
    if len(calls) == 1:
        return Row(work, times[0], float("nan"), "", errors[0])
    return Row(work, times[0], times[1], "", errors[0], errors[1])
