"""The adjoint equations of an ensemble, for one trajectory or in the lanes of a tile."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.ivp import packed_field
from ...integrate.save import StepRecord
from ...integrate.step import Field, IntegratorState, Method
from ...solvers.step_size import Tolerance
from ..batch_cotangents import replace_in_problem
from .adjoint_equation import AdjointEquation, StateFunction
from .backward_solver import BackwardConfig
from .checkpoints import interpolate_segment
from .quadrature import Integrand, integrate_step, integrate_steps_in_lanes


class AdjointLane(NamedTuple):
    """A trajectory in the backward pass, between saved time `save_index` and the one before it.

    - `rows`: its part of `ensemble.per_trajectory`; `number`: its index.
    - `target`: the time it integrates to; `integrator`: the state of its adjoint equation.
    - `g`: the integral for its own parameters, where that is no part of the equation.
    - `segment`: the segment of the forward solve that is recomputed, where segments are.
    - `num_kept`: the number of kept states ahead; `stops_at_kept`: its target is one of them.
    - `counts`: its attempted steps, and evaluations of the adjoint equation, where reported.
    """

    rows: PyTree
    number: Array
    save_index: Array
    target: Array
    direction: Array
    integrator: IntegratorState
    g: PyTree
    segment: Any
    num_kept: Any
    stops_at_kept: Any
    counts: Any = ()


class EnsembleAdjoint(eqx.Module):
    """The adjoint equations of all trajectories, in the lanes of `tile`.

    Without a `tile` there is one trajectory, and no array has an axis for lanes.

    - `perturbed`: which leaves of a trajectory's own problem are differentiated; `shared`: the
      values of the shared ones that are.
    - `ys`: the states at the saved times, shape `(trajectories, times, ...)`.
    """

    ensemble: Ensemble
    tile: LaneTile | None
    backward: BackwardConfig
    perturbed: PyTree
    shared: PyTree
    ys: Array

    def own_parameters(self, rows: PyTree) -> PyTree:
        """Return the parameters of a trajectory's own whose integral is found by quadrature."""
        if self.backward.kind == "backsolve":
            return ()
        return eqx.filter(rows, self.perturbed)[0]

    def equation(self, rows: PyTree) -> AdjointEquation:
        """Return the adjoint equation of a trajectory."""
        problem, config = self.ensemble.problem_of(rows)
        problem = dataclasses.replace(problem, y0=self.ys[0, 0])  # for its shape alone
        if self.tile is not None:
            problem = dataclasses.replace(problem, ts=None)
        in_equation = self.perturbed if self.backward.kind == "backsolve" else False
        diff = eqx.filter(rows, in_equation)[0]
        nondiff = eqx.filter(problem, jax.tree.map(_is_none, diff, is_leaf=_is_none))
        return AdjointEquation(diff, nondiff, config, self.backward)

    def constant_state(self, y: Array) -> StateFunction | None:
        """Return the state `y` as a function of time; None where the equation has the state."""
        return None if self.backward.with_y else lambda t: y

    def segment_state(self, lane: AdjointLane, steps: Any) -> StateFunction | None:
        """Return the state in a lane's segment as a function of time; None likewise."""
        if self.backward.with_y:
            return None
        interpolate = self.ensemble.config.method.solver.interpolate
        num_steps, direction = lane.segment.num_steps, -lane.direction
        return lambda t: interpolate_segment(steps, num_steps, direction, t, interpolate)

    def field(self, lanes: AdjointLane, buffers: Any) -> Field:
        """Return the right-hand side of the adjoint equations of all lanes."""
        return self.field_in_lanes(
            lambda lane, steps: self.equation(lane.rows).field(self.segment_state(lane, steps)),
            lanes,
            buffers,
        )

    def field_in_lanes(
        self, field_of: Callable[[AdjointLane, Any], Field], lanes: AdjointLane, buffers: Any
    ) -> Field:
        """Return the field on lanes whose part for one lane is `field_of(lane, steps)`."""
        segment = lanes.segment if self.backward.with_y else lanes.segment._replace(integrator=None)
        lanes = lanes._replace(integrator=None, segment=segment)  # pyright: ignore[reportArgumentType]
        barrier = lax.optimization_barrier
        if self.tile is None:
            field = field_of(lanes, buffers)
            return lambda t, y: field(t, barrier(y))
        in_lanes = jax.vmap(
            lambda lane, steps, t, y: field_of(lane, steps)(t, y),
            in_axes=(-1, 0, -1, -1),
            out_axes=-1,
        )
        return lambda t, y: in_lanes(lanes, buffers, t, barrier(y))

    def integral(
        self, accept: Array, lanes: AdjointLane, buffers: Any, steps: StepRecord
    ) -> tuple[PyTree, PyTree]:
        """Integrate over the accepted steps, for parameters of each trajectory and shared ones."""
        first = jax.tree.map(lambda x: x[0], self.ensemble.per_trajectory)
        rows = replace_in_problem(first, y0=None, ts=None)
        placeholder = rows, self.ensemble.ts(first)[0], self.ys[0, 0]

        def states(theta: Array) -> tuple[Array, Array, Array]:
            solver, t = self.backward.solver, steps.t + theta * steps.h
            flat = solver.interpolate(theta, steps.y, steps.h, steps.dense)
            unpack = self.equation(placeholder[0]).packing.unpack
            state = self.map_lanes(unpack)(flat)
            if self.backward.with_y:
                return t, state.y, state.a
            return t, self.field_in_lanes(state_field, lanes, buffers)(t, state.a), state.a

        def state_field(lane: AdjointLane, steps: Any) -> Field:
            state_at = self.segment_state(lane, steps)
            assert state_at is not None
            return lambda t, _: state_at(t)

        def rhs(own: PyTree, shared: PyTree, rows: PyTree, t: Array, y: Array) -> Array:
            rows = (eqx.combine(own, rows[0]), rows[1]) if jax.tree.leaves(own) else rows
            return packed_field(*eqx.combine(shared, self.ensemble.problem_of(rows)))(t, y)

        integrand = Integrand(
            states, rhs, self.own_parameters(lanes.rows), self.shared, self.backward.solver.order
        )
        if self.tile is None:
            return integrate_step(integrand, lanes.rows, accept, steps.h)
        return integrate_steps_in_lanes(integrand, lanes.rows, accept, steps.h, placeholder)

    def map_lanes(self, function: Callable) -> Callable:
        """Map a function of one trajectory over all lanes."""
        return function if self.tile is None else self.tile.map(function)

    def method(self, rows: PyTree) -> Method:
        """Return the method of the adjoint equations, with tolerances for each lane."""
        if self.tile is None:
            return self.equation(rows).method()

        def tolerances(rows: PyTree, _: Array) -> tuple[Array, Array]:
            tolerance = self.equation(rows).tolerance()
            return tolerance.rtol, tolerance.atol

        lanes = jnp.arange(self.tile.width, dtype=jnp.int32)
        rtol, atol = jax.vmap(tolerances, in_axes=-1, out_axes=-1)(rows, lanes)
        method = self.equation(self.tile.lane(rows, jnp.int32(0))).method()
        tolerance = Tolerance(rtol, atol, method.tolerance.norm, True)
        return dataclasses.replace(method, tolerance=tolerance)

    def save_time(self, number: Array, index: Array) -> Array:
        """Return the saved time `index` of trajectory `number`."""
        ts = self.ensemble.all_times
        return ts[index] if ts.ndim == 1 else ts[number, index]


def _is_none(x: Any) -> bool:
    return x is None
