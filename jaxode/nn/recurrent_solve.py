"""Hidden states that follow an ODE between the observations of a series and are updated at each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from ..problem.errors import SolveError
from ..problem.state import is_traced
from ..problem.status import Status
from .batched_solve import solve_samples
from .series import Series
from .solve_options import Settings, run_with_settings


class RecurrentSolve(NamedTuple):
    """The hidden states at every place of the series, in the order of the places.

    - `before`, `after`: before and after the update at the place, shape `(batch, n, hidden)`.
    - `status`: of the solve that ends at the place, int32 of shape `(batch, n)`.
    """

    before: Array
    after: Array
    status: Array


def solve_series(
    field: Callable,
    update: Callable[[Array, Array, Array], Array],
    start: Float[Array, "batch hidden"],
    series: Series,
    settings: Settings,
    *,
    reverse: bool = False,
    key: Array | None = None,
) -> RecurrentSolve:
    """Solve `field` from place to place, with `update(h, x, mask)` where there is an observation.

    The state is `start` until the first observation; with `reverse` that is the last in time.
    """
    ts, xs, mask = (jnp.swapaxes(x, 0, 1) for x in series)
    if reverse:
        ts, xs, mask = ts[::-1], xs[::-1], mask[::-1]
    observed = jnp.any(mask, -1)
    started = jnp.cumsum(observed, 0)[:-1] > 0
    # A gap of zero length takes no step, so padding and the first place need no special case.
    gap_starts = jnp.concatenate([ts[:1], jnp.where(started, ts[:-1], ts[1:])])

    def next_place(h: Array, place: Any) -> tuple[Array, tuple[Array, Array, Array]]:
        span, x, mask = place
        gap = solve_samples(field, h, span, None, settings, in_axes=(0, 0, None), key=key)
        updated = jax.vmap(update)(gap.y1, x, mask)
        after = jnp.where(jnp.any(mask, -1, keepdims=True), updated, gap.y1)
        return after, (gap.y1, after, gap.status)

    places = jnp.stack([gap_starts, ts], -1), xs, mask
    states = lax.scan(next_place, start, places)[1]
    if reverse:
        states = jax.tree.map(lambda x: x[::-1], states)
    return RecurrentSolve(*(jnp.swapaxes(x, 0, 1) for x in states))


def states_at_times(
    hidden_states: Callable[[Series], RecurrentSolve],
    series: Series,
    times: Float[Array, "batch m"],
) -> tuple[Float[Array, "batch m hidden"], Array]:
    """The hidden states at `times`, given the observations up to each, and the solves' status."""
    series, places = insert_queries(series, times)
    states = hidden_states(series)
    return jnp.take_along_axis(states.after, places[..., None], 1), states.status


def insert_queries(series: Series, times: Float[Array, "batch m"]) -> tuple[Series, Array]:
    """The series with unobserved places at `times`, and the indices of these places.

    A query at the time of an observation comes after it.
    """
    batch, n = series.ts.shape
    ts = jnp.concatenate([series.ts, times], 1)
    order = jnp.argsort(ts, axis=1, stable=True)

    def insert_zeros(x: Array) -> Array:
        zeros = jnp.zeros((batch, times.shape[1], x.shape[2]), x.dtype)
        return jnp.take_along_axis(jnp.concatenate([x, zeros], 1), order[..., None], 1)

    ts = jnp.take_along_axis(ts, order, 1)
    merged = Series(ts, insert_zeros(series.xs), insert_zeros(series.mask))
    return merged, jnp.argsort(order, 1)[:, n:]


def run_checked(function: Callable, model: Any, *args: Any) -> Any:
    """Run `function(model, *args)`, which returns `(output, status)`, compiled; return the output.

    `args` are as in `run_with_settings`.

    **Raises:** as `raise_on_failed_solve`.
    """
    out, status = run_with_settings(function, model, *args)
    raise_on_failed_solve(status, model.settings)
    return out


def raise_on_failed_solve(status: Int[Array, "batch n"], settings: Settings) -> None:
    """Raise for the first solve that failed, unless `throw=False` or the status is traced.

    **Raises:** `SolveError`.
    """
    status = lax.stop_gradient(status)
    if is_traced(status) or not settings.throw:
        return
    failed = np.argwhere(np.asarray(status))
    if failed.size:
        sample, place = failed[0]
        reason = Status(int(status[sample, place]))
        raise SolveError(
            f"sample {sample}, in the gap before place {place} of its series: {reason.name}: the "
            f"solve {reason.message}. (throw=False returns NaN from there on.)"
        )
