"""Hidden states that follow an ODE from place to place of series, with an update at each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from ..problem.errors import SolveError
from ..problem.jit import jit_with_captures
from ..problem.state import is_traced
from ..problem.status import Status
from .batched_solve import solve_samples
from .series import Series
from .solve_options import Settings


class RecurrentSolve(NamedTuple):
    """Hidden states along series, in the order of their places.

    `before` and `after` what is observed there, shape `(batch, n, hidden)`; `status` of the solve
    that leads there, int32 of shape `(batch, n)`.
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
    """Follow `field` from place to place, and `update(h, x, mask)` where something is observed.

    It stands at `start` until the first observation that it meets.
    """
    ts, xs, mask = (jnp.swapaxes(x, 0, 1) for x in series)
    if reverse:
        ts, xs, mask = ts[::-1], xs[::-1], mask[::-1]
    seen = jnp.any(mask, -1)
    under_way = jnp.cumsum(seen, 0)[:-1] > 0
    # A gap of no length takes no step, so padding and the first place need no special case.
    froms = jnp.concatenate([ts[:1], jnp.where(under_way, ts[:-1], ts[1:])])

    def step(h: Array, place: Any) -> tuple[Array, tuple[Array, Array, Array]]:
        span, x, known = place
        moved = solve_samples(field, h, span, None, settings, in_axes=(0, 0, None), key=key)
        new = jax.vmap(update)(moved.y1, x, known)
        after = jnp.where(jnp.any(known, -1, keepdims=True), new, moved.y1)
        return after, (moved.y1, after, moved.status)

    places = jnp.stack([froms, ts], -1), xs, mask
    states = lax.scan(step, start, places)[1]
    if reverse:
        states = jax.tree.map(lambda x: x[::-1], states)
    return RecurrentSolve(*(jnp.swapaxes(x, 0, 1) for x in states))


def states_at_times(
    walk: Callable[[Series], RecurrentSolve], series: Series, times: Float[Array, "batch m"]
) -> tuple[Float[Array, "batch m hidden"], Array]:
    """The hidden states at `times`, by what was observed until then; and each solve's status."""
    series, places = insert_queries(series, times)
    states = walk(series)
    return jnp.take_along_axis(states.after, places[..., None], 1), states.status


def insert_queries(series: Series, times: Float[Array, "batch m"]) -> tuple[Series, Array]:
    """The series with places at `times` where nothing is observed, and which places these are.

    A query at the time of an observation comes behind it.
    """
    batch, n = series.ts.shape
    ts = jnp.concatenate([series.ts, times], 1)
    order = jnp.argsort(ts, axis=1, stable=True)

    def merged(x: Array) -> Array:
        none = jnp.zeros((batch, times.shape[1], x.shape[2]), x.dtype)
        return jnp.take_along_axis(jnp.concatenate([x, none], 1), order[..., None], 1)

    ts = jnp.take_along_axis(ts, order, 1)
    return Series(ts, merged(series.xs), merged(series.mask)), jnp.argsort(order, 1)[:, n:]


def run_checked(function: Callable, model: Any, *args: Any) -> Any:
    """What `function(model, *args)` returns before the status of its walk, compiled.

    **Raises:** as `raise_on_failed_solve`.
    """
    out, status = jit_with_captures(function, model, *args)
    raise_on_failed_solve(status, model.settings)
    return out


def raise_on_failed_solve(status: Int[Array, "batch n"], settings: Settings) -> None:
    """**Raises:** `SolveError` for the first solve that failed, if that is known and asked for."""
    status = lax.stop_gradient(status)
    if is_traced(status) or not settings.throw:
        return
    failed = np.argwhere(np.asarray(status))
    if failed.size:
        sample, place = failed[0]
        found = Status(int(status[sample, place]))
        raise SolveError(
            f"sample {sample}, in the gap before place {place} of its series: {found.name}: the "
            f"solve {found.message}. (throw=False returns NaN from there on.)"
        )
