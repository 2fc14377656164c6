"""Events and jumps: the objects by which a user describes them."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ...problem.errors import EventError, unknown_name
from ...problem.validation import check_positive, is_count

DIRECTIONS = {"both": 0, "up": 1, "down": -1}
Condition = Callable[..., ArrayLike | Sequence[ArrayLike]]
Apply = Callable[..., PyTree]
SIDES = ("before", "after")
ENDS = ("both", "first", "last", "neither")


def _direction_name(direction: Any) -> Any:
    """The name of a direction that is given by its sign; any other value as it is."""
    signs = {sign: name for name, sign in DIRECTIONS.items()}
    known = is_count(direction, -1) and direction <= 1
    return signs[int(direction)] if known else direction


def _plain(terminal: Any) -> Any:
    """A boolean or an integer of NumPy as one of Python; any other value as it is."""
    return terminal.item() if isinstance(terminal, np.bool_ | np.integer) else terminal


class Event(eqx.Module):
    """An event, which occurs where `condition(t, y, args)` crosses zero or becomes true.

    **Arguments:**

    - `condition`: a function `(t, y, args)` or `(t, y)`. It returns a real scalar, whose zero
      crossings are located on the dense output of each step, to rounding; or a boolean scalar,
      whose event is where it becomes true; or a vector of either, shape `(k,)`, each entry of which
      is an event of its own. The condition is sampled at four points of a step: two zero crossings
      between neighbouring points are not detected.
    - `direction`: "up" or 1 for crossings from negative to positive, "down" or -1 for the opposite,
      in the direction of integration; "both" or 0. "down" of a boolean is where it becomes false.
    - `apply`: a function `(t, y)`, `(t, y, args)` or `(t, y, args, entry)` that returns the state,
      like `y`, with which the solve continues. `entry` is the place in a vector of conditions, an
      int32 scalar; it is given where three arguments do not suffice. If the new state has another
      condition across zero, that event occurs at the same time; the event's own condition is
      exempt.
    - `terminal`: True to end the solve (of a batch: that trajectory) at the event; `sol.y1` is the
      state then, after `apply`. A boolean that is true at the start ends the solve there, after no
      step. An integer `n` ends it at the n-th occurrence (of an entry, where there are several).

    Derivatives flow through the times of events, by the implicit function theorem, and through
    `apply`, with the sensitivities "discrete", "forward" and "adjoint". The time at which a boolean
    becomes true is treated as a constant.

    **Raises:** `EventError` if `condition` or `apply` is no function, or `terminal` neither a
    boolean nor an integer of at least 1; `OptionError` for an unknown direction.
    """

    condition: Condition
    direction: Literal["both", "up", "down", -1, 0, 1] = eqx.field(
        static=True, default="both", converter=_direction_name
    )
    apply: Apply | None = None
    terminal: bool | int = eqx.field(static=True, default=False, converter=_plain)

    def __check_init__(self) -> None:
        if not isinstance(self.direction, str) or self.direction not in DIRECTIONS:
            raise unknown_name("direction of jo.Event", str(self.direction), DIRECTIONS)
        if not isinstance(self.terminal, bool) and not is_count(self.terminal):
            raise EventError(
                "terminal of jo.Event must be True, False or the number of occurrences after which "
                f"the solve ends, at least 1; got {self.terminal!r}"
            )
        for name, function in (("condition", self.condition), ("apply", self.apply)):
            if not callable(function) and not (name == "apply" and function is None):
                raise EventError(
                    f"{name} of jo.Event must be a function (t, y, args), got {function!r}"
                )


class AtRest(eqx.Module):
    """A terminal event, for `events=`, that ends a solve once its state has come to rest.

    It occurs where the root mean square of `change / (atol + rtol * |y|)` is at most one. The
    change of a component is the larger of `|h f|`, that in a step of the current size, and of
    `f**2 / |df/dt|` along the solution, all that is left of an exponential decay: so it does not
    depend on the unit of time, nor on how small a step is. The start counts too: the solve then
    takes no step. `sol.y1` is the state then, and its derivatives are those at that fixed time.
    `steady_state` computes the root of `f` itself, with derivatives that do not depend on the path
    to it.

    **Arguments:** `rtol`, `atol`: positive numbers.

    **Raises:** `OptionError` unless both are positive numbers.
    """

    rtol: ArrayLike = 1e-4
    atol: ArrayLike = 1e-6

    def __check_init__(self) -> None:
        check_positive("rtol of jo.AtRest", self.rtol, none=False)
        check_positive("atol of jo.AtRest", self.atol, none=False)


class Jumps(eqx.Module):
    """Times of discontinuities, for `jumps=`: a step ends on each, and the integrator restarts.

    A jump at the first time of a solve changes the state before the first step, one at the last
    time after the last step; `sol.y1` is the state after all of them. So a course that is solved in
    two parts needs a dose at their joint in one of the parts, or `ends="first"` in both.

    **Arguments:**

    - `times`: shape `(k,)`, in any order; of a batch also `(trajectories, k)`. Times outside of
      the solve are ignored. Jumps at one time all apply, in the order in which they stand here.
    - `apply`: a function `(t, y)`, `(t, y, args)` or `(t, y, args, index)` that returns the state,
      like `y`, with which the solve continues: a dose, for example. `index` is the place of the
      jump in `times`, an int32 scalar; it is given where three arguments do not suffice. None if
      only the field is discontinuous.
    - `saved`: "before" or "after", the side of a jump whose state is saved in `sol.ys` at its very
      time. `sol(t)` is the state after a jump, but at the last time that before it.
    - `ends`: "both", "first", "last" or "neither", those of the solve's two ends at which jumps
      apply. With "first" a solve has the jumps from its first time on and before its last.

    In a solve over no time they apply once, unless `ends` is "neither". Derivatives by the time of
    a jump at an end are those of moving it into the solve.

    **Raises:** `OptionError` for an unknown `saved` or `ends`.
    """

    times: ArrayLike | Sequence[float]
    apply: Apply | None = None
    saved: Literal["before", "after"] = eqx.field(static=True, default="before")
    ends: Literal["both", "first", "last", "neither"] = eqx.field(static=True, default="both")

    def __check_init__(self) -> None:
        for name, value, known in (("saved", self.saved, SIDES), ("ends", self.ends, ENDS)):
            if not isinstance(value, str) or value not in known:
                raise unknown_name(f"{name} of jo.Jumps", str(value), known)


def check_events(events: Any) -> tuple[Event | AtRest, ...]:
    """Make one event, several or None a tuple of events. **Raises:** `EventError` otherwise."""
    if events is None:
        return ()
    checked = tuple(events) if isinstance(events, list | tuple) else (events,)
    for event in checked:
        if not isinstance(event, Event | AtRest):
            raise EventError(
                f"events= takes jo.Event(...), jo.AtRest() or several of them, got {event!r}"
            )
    return checked


def may_end(events: Any) -> bool:
    """True if one of the events of the option `events=` can end a solve."""
    return any(isinstance(event, AtRest) or event.terminal for event in check_events(events))
