"""What a solve reached, and what the cotangents of its result ask for: of values reached, or not.

A solve that fails leaves values before the failure. Their cotangents are pulled back like those of
a solve that succeeds; a cotangent of a value that was not reached makes the gradient NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..integrate.events.handling import EventLog
from ..integrate.forward import Result
from ..integrate.ivp import Save
from ..integrate.xla_loops import leading
from ..problem.status import Status


class SolveOutcome(NamedTuple):
    """How far a solve came: its status, the accepted steps, the time reached, the events."""

    status: Array
    num_accepted: Array
    t_reached: Array
    log: EventLog | None

    @classmethod
    def of(cls, result: Result) -> "SolveOutcome":
        """The outcome of a solve, or of each trajectory of a batch."""
        stats = result.stats
        return cls(result.status, stats.num_accepted, stats.t_reached, result.log)


class Reached(NamedTuple):
    """What the backward pass over a trajectory has to do.

    - `wanted`: it succeeded, or a value that it reached has a cotangent. Only then it is pulled
      back.
    - `asked`: any value has a cotangent. `poisoned`: one that was not reached has one.
    - `failed`: it did not succeed. Only those of its steps count that start before `until`, in the
      direction of the solve, or whose index is below `num_steps`: the others led to nothing saved.
    - `num_saves`: how many saved times it reached.
    """

    wanted: Array
    asked: Array
    poisoned: Array
    failed: Array
    until: Array
    num_steps: Array
    num_saves: Array

    def counts(self, t: Array, index: Array | None, direction: Array) -> Array:
        """Whether a step from `t` led to something saved; `index` as in `needs_index`."""
        needed = direction * t < self.until
        if index is not None:
            needed = needed | (index < self.num_steps)
        return needed | ~self.failed


def what_is_reached(
    save: Save, ts: Array, outcome: SolveOutcome, ct: Result, jumps: Array | None = None
) -> Reached:
    """What one trajectory reached, and what is asked of it.

    `ct`: the cotangents of its result, None for each value without one. `jumps`: their times, where
    the state after them is saved.
    """
    status, num_accepted, _, log = outcome
    succeeded, direction = status == Status.SUCCESS, jnp.sign(ts[-1] - ts[0])
    num_saves = _num_saves(ts, outcome, jumps)
    num_steps = num_accepted if save in ("steps", "dense") else jnp.zeros((), jnp.int32)
    asked = [_asked_of(ct.y1, lambda _: succeeded)]
    rows = lambda n: jnp.arange(n, dtype=jnp.int32)  # noqa: E731
    # Unused rows of a solve that succeeded do not count: `where(used, sin(ts), 0)` asks for NaN.
    if save == "steps":
        asked += [_asked_of((ct.ts, ct.ys), lambda n: succeeded | (rows(n) <= num_accepted))]
    elif save == "dense":
        asked += [_asked_of(ct.dense, lambda n: jnp.ones(n, bool))]
    elif save == "ends":
        asked += [_asked_of(ct.ys, lambda n: jnp.stack([jnp.asarray(True), succeeded]))]
    else:
        asked += [_asked_of(ct.ys, lambda n: rows(n) < num_saves)]
    if log is not None:
        count = jnp.minimum(log.count, log.ts.shape[0])
        last = jnp.where(count > 0, log.steps[jnp.maximum(count - 1, 0)] + 1, 0)
        num_steps = jnp.maximum(num_steps, last)
        log_ct = None if ct.log is None else (ct.log.ts, ct.log.ys)
        asked += [_asked_of(log_ct, lambda n: succeeded | (rows(n) < count))]
    there, missing = (jnp.any(jnp.stack(flags)) for flags in zip(*asked, strict=True))
    until = direction * ts[num_saves - 1] if save == "ts" else jnp.full_like(ts[0], -jnp.inf)
    return Reached(
        succeeded | there, there | missing, missing, ~succeeded, until, num_steps, num_saves
    )


def _num_saves(ts: Array, outcome: SolveOutcome, jumps: Array | None) -> Array:
    """How many of the times `ts` a solve reached; `jumps` as in `what_is_reached`."""
    come = jnp.sign(ts[-1] - ts[0]) * (ts - outcome.t_reached) <= 0
    if jumps is not None:
        # What is saved at a jump is read in the step after it.
        t = outcome.t_reached
        waits = jnp.any(jumps == t) & (t != ts[-1]) & (outcome.status != Status.SUCCESS)
        come = come & ~(waits & (ts == t))
    return leading(come | (ts == ts[0]))[1]


def _asked_of(cts: PyTree, there: Callable[[int], Array]) -> tuple[Array, Array]:
    """Whether a value that was reached has a cotangent, and whether one that was not has.

    `there(n)`: which of `n` rows were reached, or whether all were.
    """
    reached, missing = jnp.asarray(False), jnp.asarray(False)
    for ct in jax.tree.leaves(cts):
        rows = there(ct.shape[0] if ct.ndim else 0)
        asked = ct != 0
        if rows.ndim:
            asked = jnp.any(asked.reshape(ct.shape[0], -1), axis=1)
        reached, missing = reached | jnp.any(asked & rows), missing | jnp.any(asked & ~rows)
    return reached, missing


def with_poison(cotangent: PyTree, reached: Reached) -> PyTree:
    """The cotangent of a trajectory: exactly zero where it is not wanted, NaN where poisoned."""

    def asked_for(x: Array) -> Array:
        return poison(jnp.where(reached.wanted, x, 0), reached.poisoned)

    return jax.tree.map(asked_for, cotangent)


def poison(x: Array, poisoned: Array) -> Array:
    """`x`, but NaN where `poisoned`; its derivatives likewise."""
    return x * jnp.where(poisoned, jnp.nan, 1).astype(jnp.finfo(x.dtype).dtype)
