"""The state of a backward pass, and the cotangents of one step."""

from typing import Any, NamedTuple

from jax import Array
from jaxtyping import PyTree

from .layout import StepLayout, tree_zeros
from .step_vjp import StepClock, StepParts


class ReplayedStep(NamedTuple):
    """An accepted step that is pulled back, of one trajectory or of each lane.

    `index` counts the accepted steps before it; `()` where nothing asks for it. `last`: whether it
    is the last step of its trajectory.
    """

    y: Array
    solver_state: Any
    t: Array
    h: Array
    index: Any
    last: Array


class BackwardState(NamedTuple):
    """The state of the backward pass of one trajectory or of lanes of many, between two steps.

    - `y`, `solver_state`: cotangents of those with which the step after them began.
    - `diff`: cotangents of the layout's `diff`, so far.
    - `t`, `t1`, `times`: cotangents of the time reached, of the last time, and of the times that
      values were saved at; None where times are not differentiated.
    - `saves_left`, `events_left`: how many saved values and events have not been pulled back.
    """

    y: Array
    solver_state: Any
    diff: PyTree
    t: Any
    t1: Any
    times: Any
    saves_left: Array
    events_left: Any


class StepCotangents(NamedTuple):
    """Cotangents of a step's start, end and dense output, and of its time and size.

    `clock` is None where times are not differentiated.
    """

    parts: StepParts
    clock: StepClock | None

    @classmethod
    def zeros(cls, layout: StepLayout, step: ReplayedStep, parts: StepParts) -> "StepCotangents":
        """Zeros for a step."""
        clock = tree_zeros((step.t, step.h)) if layout.with_times else None
        return cls(tree_zeros(parts), clock)
