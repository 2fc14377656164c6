"""Customers who visit at irregular times, at rates that hidden states set: a Markov chain.

Plain NumPy, event by event, without the solvers of this package: data to recover rates from.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, Int

from ..problem.errors import OptionError
from ..problem.validation import check_count, check_key, check_positive, real_array, shown_value
from .shop import numpy_generator

# Per day: regular customers become occasional ones and come back, either may be lost for good.
CHANGES = ((0.0, 1 / 90, 1 / 400), (1 / 120, 0.0, 1 / 100), (0.0, 0.0, 0.0))
RATES = (1 / 7, 1 / 40, 0.0)


class Visits(NamedTuple):
    """What `visits` returns. Times in days.

    - `ts`: when each customer came, increasing, shape `(n, most)`; beyond the `lengths`, shape
      `(n,)`, twice the time that was simulated, which `jo.Jumps` in it ignores. The first visit, at
      0, is that at which a customer became one.
    - `states`: the hidden state at each visit, `(n, most)`, -1 beyond; `last`: that at the end,
      `(n,)`.
    """

    ts: Float[Array, "n most"]
    lengths: Int[Array, " n"]
    states: Int[Array, "n most"]
    last: Int[Array, " n"]


def visits(
    n: int = 1000,
    *,
    key: Array,
    days: float = 365.0,
    changes: ArrayLike | Sequence[Sequence[float]] = CHANGES,
    rates: ArrayLike | Sequence[float] = RATES,
) -> Visits:
    """Simulate customers who come at random, at a rate that depends on a state that is not seen.

    The state is a Markov chain in continuous time; all begin in the first. While a customer is in
    the state `i`, visits are a Poisson process of the rate `rates[i]`.

    **Arguments:**

    - `n`: customers. `key`: of `jax.random`. Same key, same data. `days`: how long they are seen.
    - `changes`: the rates from each state (row) to each other (column) per day, shape `(k, k)`; the
      diagonal counts for nothing. `rates`: of visits in each state per day, shape `(k,)`. By
      default there are regular, occasional and lost customers.

    **Returns:** `Visits(ts, lengths, states, last)`.

    **Raises:** `OptionError` for counts and times that are not positive, negative rates, and shapes
    that disagree.

    Source: W. Fischer and K. Meier-Hellstern, The Markov-modulated Poisson process cookbook,
    Performance Evaluation 18 (1993).
    """
    check_count("n", n)
    check_key(key)
    check_positive("days", days, none=False)
    out, seen = _check_rates("changes", changes, 2), _check_rates("rates", rates, 1)
    if out.shape != (seen.size, seen.size):
        raise OptionError(
            f"changes must have shape ({seen.size}, {seen.size}), for there are {seen.size} rates; "
            f"got {out.shape}"
        )
    np.fill_diagonal(out, 0.0)
    return _simulate(numpy_generator(key), n, float(days), out, seen)


def _check_rates(name: str, rates: Any, axes: int) -> np.ndarray:
    array = np.array(real_array(name, rates), float)
    if array.ndim != axes or not array.size or not np.all((array >= 0) & np.isfinite(array)):
        raise OptionError(
            f"{name} must be an array of {axes} axes of rates that are not negative, got "
            f"{shown_value(rates)}"
        )
    return array


def _simulate(
    rng: np.random.Generator, n: int, days: float, changes: np.ndarray, rates: np.ndarray
) -> Visits:
    """One event of every customer at a time: a visit, or a change of the state."""
    t, state = np.zeros(n), np.zeros(n, int)
    times, states = [t], [state]
    # What may happen in each state: a change to each other one, or a visit.
    total = changes.sum(1) + rates
    upto = np.cumsum(np.column_stack([changes, rates]), axis=1)
    while np.any(t < days):
        with np.errstate(divide="ignore"):
            t = t + rng.exponential(size=n) / total[state]
        chosen = np.argmax(rng.uniform(size=n)[:, None] * total[state][:, None] < upto[state], 1)
        visited = (chosen == rates.size) & (t < days)
        times.append(np.where(visited, t, np.inf))
        states.append(np.where(visited, state, -1))
        state = np.where((chosen < rates.size) & (t < days), chosen, state)
    order = np.argsort(np.array(times).T, axis=1, kind="stable")
    ts, seen = (np.take_along_axis(np.array(x).T, order, axis=1) for x in (times, states))
    lengths = np.isfinite(ts).sum(1)
    most = lengths.max()
    return Visits(
        jnp.asarray(np.minimum(ts[:, :most], 2 * days), float),
        jnp.asarray(lengths, int),
        jnp.asarray(seen[:, :most], int),
        jnp.asarray(state, int),
    )
