"""The state of a backward pass, a step of it, and the cotangents of that step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from .layout import StepLayout, tree_zeros

StepParts = tuple[Array, Array, Any]  # start and end of a step, and its dense output
StepClock = tuple[Array, Array]  # start time and size of a step


class ReplayedStep(NamedTuple):
    """An accepted step that is pulled back, of one trajectory or of each lane.

    `index` counts the accepted steps before it; `()` where nothing asks for it. `last`: whether it
    is the last step of its trajectory, and `failed` if that failed after it; None if it cannot
    have. `y1`, `dense`: its end and dense output, once computed.
    """

    y: Array
    solver_state: Any
    t: Array
    h: Array
    index: Any
    last: Array
    y1: Any = None
    dense: Any = None
    failed: Any = None

    @property
    def is_dead_end(self) -> Array:
        """Whether nothing came after it, so that the state there need not be finite."""
        return jnp.zeros_like(self.last) if self.failed is None else self.last & self.failed

    @property
    def parts(self) -> StepParts:
        """Start, end and dense output."""
        return self.y, self.y1, self.dense

    @property
    def clock(self) -> StepClock:
        """Start time and size."""
        return self.t, self.h


class StepCotangents(NamedTuple):
    """Cotangents of a step's `parts` and `clock`; the latter None without cotangents of times."""

    parts: StepParts
    clock: StepClock | None

    @classmethod
    def zeros(cls, layout: StepLayout, step: ReplayedStep) -> "StepCotangents":
        """Zeros for a step."""
        return cls(tree_zeros(step.parts), tree_zeros(step.clock) if layout.with_times else None)


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
