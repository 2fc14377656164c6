"""The turns of a trajectory and its neighbour in one loop over steps (see `neighbour`)."""

import jax.numpy as jnp
from jax import Array, lax

from ..problem.status import Status
from . import neighbour as nearby
from .neighbour import Neighbour, Own
from .step import IntegratorState, Method, select
from .xla_loops import cond_as_loop, host_controls_loops


def waits(s: IntegratorState) -> Array:
    """Tell whether a neighbour has to follow before the next iteration; per lane, in lanes."""
    if isinstance(s.neighbour, Neighbour):
        return s.neighbour.waits
    return jnp.zeros_like(s.status, bool)


def follow_up(
    method: Method, s: IntegratorState, direction: Array, t1: Array, mask: Array | bool = True
) -> IntegratorState:
    """Let the neighbour follow where it waits, and prepare the next turn: its own or not.

    `mask`: the lanes that have a trajectory. Before a neighbour's turn, its state and solver state
    take the place of those of the trajectory, which `own` keeps.
    """
    if not isinstance(s.neighbour, Neighbour):
        return s

    def follow(s: IntegratorState) -> IntegratorState:
        turn, kept = jnp.any(s.neighbour.due), s.neighbour.own
        own = select(turn, kept, Own(*(getattr(s, name) for name in Own._fields)))
        neighbour = _followed(method, s, own, turn)
        before_end = direction * (t1 - s.t) > 0
        runs = (
            before_end & (own.status == Status.SUCCESS) & (own.num_steps < method.max_steps) & mask
        )
        due = neighbour.active & ~neighbour.taken & runs
        scale = nearby.scale_of(neighbour, method.tolerance, lax.stop_gradient(own.y))
        neighbour = neighbour._replace(
            due=due,
            waits=jnp.zeros_like(due),
            begins=jnp.zeros_like(due),
            scale=jnp.where(neighbour.active, scale, 1),
            weight=jnp.where(neighbour.taken, 1 / scale, 0),
            own=own,
        )
        mine = neighbour.y, neighbour.solver_state
        y, solver_state = select(due, mine, (own.y, own.solver_state))
        next_turn = own._replace(
            y=y, solver_state=solver_state, h=nearby.turn_size(neighbour, own.h)
        )
        return s._replace(**next_turn._asdict(), neighbour=neighbour)

    if host_controls_loops():
        return follow(s)
    return cond_as_loop(jnp.any(s.neighbour.waits & mask), follow, s)


def _followed(method: Method, s: IntegratorState, own: Own, turn: Array) -> Neighbour:
    """The neighbour after the last iteration: its own turn, or a step of the trajectory."""
    solver, tolerance, neighbour = method.solver, method.tolerance, s.neighbour
    y, solver_state = lax.stop_gradient((own.y, own.solver_state))
    after_turn = nearby.after_turn(neighbour, *lax.stop_gradient((s.y, s.solver_state)))
    accepted = nearby.after_step(neighbour, tolerance, y, solver_state, solver)
    rejected = neighbour._replace(taken=jnp.zeros_like(neighbour.taken))
    after_step = select(neighbour.accepted, accepted, rejected)
    begun = nearby.begin(neighbour, tolerance, y, solver_state, solver)
    return select(neighbour.begins, begun, select(turn, after_turn, after_step))
