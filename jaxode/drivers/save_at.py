"""Several things saved by one solve, each at times of its own; and every n-th step.

A solve has one list of save times. Here it is all times of all entries, in order, and what is saved
there is a tuple of the values of all entries; afterwards each gets back the rows of its own times.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ..integrate.solution import Solution
from ..problem.calling import taking_args
from ..problem.errors import OptionError, TimesError
from ..problem.state import is_traced
from ..problem.times import shown, weak_or_dtype
from ..problem.validation import check_count, real_array, shown_value


@dataclasses.dataclass(frozen=True)
class SaveAt:
    """One entry of `save=`: what to save, and at which times.

    **Arguments:**

    - `save`: "ts" for the state, or a function `(t, y, args)` or `(t, y)`; "steps" for the states
      at the ends of accepted steps.
    - `ts`: the times, shape `(k,)`, in any order; None for those of the solve.
    - `every`: of "steps", to keep every n-th one alone, the start first: `max_steps // n + 1` rows.

    **Raises:** `OptionError` for invalid arguments, `TimesError` for invalid times.
    """

    save: Literal["ts", "steps"] | Callable[..., PyTree] = "ts"
    ts: ArrayLike | Sequence[ArrayLike] | None = None
    every: int = 1

    def __post_init__(self) -> None:
        """Validate the arguments."""
        named = isinstance(self.save, str) and self.save in ("ts", "steps")
        if not named and not callable(self.save):
            shown = shown_value(self.save)
            raise OptionError(f'save of jo.SaveAt must be "ts", "steps" or a function, got {shown}')
        check_count("every of jo.SaveAt", self.every)
        if self.save != "steps" and self.every != 1:
            raise OptionError('every= of jo.SaveAt counts steps: it needs save="steps"')
        if self.ts is None:
            return
        if self.save == "steps":
            raise OptionError('jo.SaveAt("steps") has the times of the steps: it takes no ts=')
        times = real_array("ts of jo.SaveAt", self.ts, TimesError)
        if times.ndim != 1:
            raise TimesError(f"ts of jo.SaveAt must be one-dimensional, got shape {times.shape}")


class SavePlan(NamedTuple):
    """What the solve is to save and at which times, and how to give each entry its rows.

    `rows` holds for each entry the rows of its times; it is None for every `every`-th step.
    """

    save: Any
    ts: Any
    t0: Any
    t1: Any
    rows: list[Any] | None = None
    structure: Any = None
    every: int = 1

    def of_entries(self, solution: Solution) -> Solution:
        """Give each entry its rows: `ts` and `ys` get the structure of the user's `save`."""
        axis = solution.status.ndim
        if self.every != 1:
            every = lambda x: x[(slice(None),) * axis + (slice(None, None, self.every),)]  # noqa: E731
            ts, ys = jax.tree.map(every, (solution.ts, solution.ys))
            return dataclasses.replace(solution, ts=ts, ys=ys)
        if self.rows is None:
            return solution

        def at(values: PyTree, rows: Any) -> PyTree:
            return jax.tree.map(lambda x: x[(slice(None),) * axis + (rows,)], values)

        ys = [at(y, rows) for y, rows in zip(solution.ys, self.rows, strict=True)]
        ts = [solution.ts[rows] for rows in self.rows]
        unflatten = self.structure.unflatten
        return dataclasses.replace(solution, ts=unflatten(ts), ys=unflatten(ys))


def plan_saves(save: Any, ts: Any, t0: Any, t1: Any, mapped: bool = False) -> SavePlan:
    """Plan what is saved: as it is, of one name or function; merged, of entries `jo.SaveAt`.

    `mapped`: the times `ts` are those of the trajectories of a batch.

    **Raises:** `OptionError` for entries that cannot be saved in one solve; `TimesError` for times
    outside of the solve.
    """
    if save is None or isinstance(save, str) or callable(save):
        return SavePlan(save, ts, t0, t1)
    entries, structure = jax.tree.flatten(save, is_leaf=_is_entry)
    entries = [_entry(x) for x in entries]
    if not entries:
        raise OptionError(f"save={shown_value(save)} saves nothing")
    if any(entry.save == "steps" for entry in entries):
        if not isinstance(save, SaveAt):
            raise OptionError('save="steps" goes with no other entries: it has times of its own')
        return SavePlan("steps", ts, t0, t1, every=save.every)
    if mapped or np.ndim(t0) or np.ndim(t1):
        raise OptionError("several entries of save= need times that all trajectories share")
    own = None if ts is None else real_array("ts", ts, TimesError)
    t0, t1 = _ends(own, t0, t1)
    times = [_times_of(entry, own, t0, t1) for entry in entries]
    merged, rows = _merge(times, t0, t1)
    functions = [None if e.save == "ts" else taking_args(e.save) for e in entries]  # pyright: ignore

    def values(t: Array, y: PyTree, args: PyTree) -> tuple[PyTree, ...]:
        return tuple([y if g is None else g(t, y, args) for g in functions])

    return SavePlan(values, merged, t0, t1, rows, structure)


def _is_entry(x: Any) -> bool:
    return x is None or isinstance(x, str | SaveAt) or callable(x)


def _entry(x: Any) -> SaveAt:
    """An entry of `save=` as a `SaveAt`. **Raises:** `OptionError`."""
    if isinstance(x, SaveAt):
        return x
    if isinstance(x, str) and x == "dense":
        raise OptionError('save="dense" goes with no other entries')
    if not callable(x) and not (isinstance(x, str) and x in ("ts", "steps")):
        raise OptionError(
            'save must be "ts", "steps", "dense" or a function, or hold several entries "ts", '
            f"functions and jo.SaveAt(...), got {shown_value(x)}"
        )
    return SaveAt(x)  # pyright: ignore[reportArgumentType]


def _ends(ts: Any, t0: Any, t1: Any) -> tuple[Any, Any]:
    """The ends of the solve, those of `ts` where they are not given. **Raises:** `TimesError`."""
    if (t0 is None or t1 is None) and (ts is None or ts.ndim != 1 or not ts.size):
        missing = "t0" if t0 is None else "t1"
        raise TimesError(f"neither ts nor {missing} is given: where does the solve end?")
    return ts[0] if t0 is None else t0, ts[-1] if t1 is None else t1


def _times_of(entry: SaveAt, ts: Any, t0: Any, t1: Any) -> Any:
    """The times of an entry, checked where they are known. **Raises:** `TimesError`."""
    if entry.ts is None and ts is not None:
        return ts
    if entry.ts is None:
        return jnp.stack([t0, t1]) if is_traced((t0, t1)) else np.asarray([t0, t1])
    times = real_array("ts of jo.SaveAt", entry.ts, TimesError)
    if is_traced((times, t0, t1)):
        return times
    first, last = sorted((float(t0), float(t1)))
    outside = times[~((times >= first) & (times <= last))]
    if outside.size:
        raise TimesError(
            f"a time of jo.SaveAt lies outside of the solve: {shown(float(outside[0]))}, where it "
            f"runs from {shown(float(t0))} to {shown(float(t1))}"
        )
    return times


def _merge(times: list[Any], t0: Any, t1: Any) -> tuple[Any, list[Any]]:
    """All times in the direction of the solve, and for each list the rows of its times."""
    space: Any = jnp if is_traced((times, t0, t1)) else np
    dtype = space.result_type(*map(weak_or_dtype, (*times, t0, t1)))
    given = space.concatenate([space.asarray(x, dtype) for x in times])
    backwards = space.asarray(t1, dtype) < space.asarray(t0, dtype)
    order = space.argsort(space.where(backwards, -given, given), stable=True)
    rows = space.argsort(order)
    splits = np.cumsum([len(x) for x in times])[:-1]
    return given[order], space.split(rows, splits)
