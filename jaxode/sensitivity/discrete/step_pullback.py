"""The backward pass over one step: cotangents at its end pulled back to its start."""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from .cotangents import BackwardState, ReplayedStep, StepClock
from .event_vjp import PostEventState
from .events import EventVJP
from .layout import StepLayout, tree_add
from .saved_values import SavedValuesVJP
from .stage_residuals import restored
from .step_vjp import StepStart, step_vjp


class StepPullback(eqx.Module):
    """Pulls cotangents back over a step, of one trajectory or of lanes of many.

    `events` is None where the problem has neither events nor jumps.
    """

    saved: SavedValuesVJP
    events: EventVJP | None

    def __call__(
        self,
        layout: StepLayout,
        back: BackwardState,
        step: ReplayedStep,
        end: Array | None = None,
        residuals: tuple[Array, ...] = (),
    ) -> BackwardState:
        """The state of the backward pass before `step`, from the one after it.

        `end`: the state at the step's end, where known. `residuals`: of its stages, where stored.
        """
        needs_dense = self.saved.needs_dense(layout, back.saves_left, step.t)
        start = StepStart(step.y, step.solver_state, step.t, step.h, needs_dense)
        (y1, dense, _), pull = (
            restored(layout, start, residuals) if residuals else step_vjp(layout, start, end)[:2]
        )
        step = step._replace(y1=y1, dense=dense)
        again = None if self.events is None else self.events.begins_again(layout, step)
        back, ct_step = self.saved.pull_back(layout, back, step, again)
        ct_after = self.after_step(layout, back, step)
        if self.events is not None:
            back, ct_after, ct_step = self.events.pull_back(layout, back, step, ct_after, ct_step)
        (ct_y, ct_y1, ct_dense), ct_clock = ct_step
        ct_diff, ct_start, ct_solver_state, ct_clock_of_step = pull(
            (ct_after.y + ct_y1, ct_dense, ct_after.solver_state)
        )
        back = back._replace(
            y=layout.update(ct_start + ct_y, back.y),
            solver_state=layout.update(ct_solver_state, back.solver_state),
            diff=tree_add(back.diff, ct_diff),
        )
        if ct_clock is None:
            return back
        return self.pull_back_times(
            layout, back, step, ct_after.t, tree_add(ct_clock, ct_clock_of_step)
        )

    def after_step(
        self, layout: StepLayout, back: BackwardState, step: ReplayedStep
    ) -> PostEventState:
        """Cotangents of what the next step began with; zeros in inactive lanes."""
        t = back.t + self.saved.of_end_time(layout, step) if layout.with_times else None
        return PostEventState(t, *layout.active_only((back.y, back.solver_state)))

    def pull_back_times(
        self,
        layout: StepLayout,
        back: BackwardState,
        step: ReplayedStep,
        ct_end: Array,
        ct_clock: StepClock,
    ) -> BackwardState:
        """The cotangents of times, from those of the step's end, start and size."""
        at_last_time = to_last = stretched = step.last & ~step.is_dead_end
        if self.events is not None:
            at_last_time = at_last_time & self.events.reaches_end(layout)
            to_jump, to_last = self.events.stretched(layout, step.t, step.h)
            stretched = to_jump | to_last
        # A step starts as much later as the one before ends; only a stretched one changes its size.
        ct_t, ct_h = ct_clock[0], jnp.where(stretched, ct_clock[1], 0)
        ct_t1 = jnp.where(at_last_time, ct_end, 0)
        back = back._replace(
            t=layout.update(ct_t - ct_h + ct_end - ct_t1, back.t),
            t1=back.t1 + jnp.where(to_last, ct_h, 0) + ct_t1,
        )
        if self.events is None or not layout.ensemble.has_jumps:
            return back
        ct_diff = self.events.of_discontinuity(layout, jnp.where(to_jump, ct_h, 0), step.t)
        return back._replace(diff=tree_add(back.diff, ct_diff))
