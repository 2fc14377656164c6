"""The continuous adjoint of a batch: its adjoint equations solved backwards, in lanes.

What each trajectory has for itself is part of its lane's adjoint equation. The integral for what
they share is no state of any lane: each accepted step adds its part by quadrature, summed over the
lanes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from ..batch import lanes as tiles
from ..batch.lanes import Tile, Work
from ..batch.run import Ensemble, Run
from ..control import Tolerance
from ..forward import Result, direction_of, packed_field, reading
from ..problem import Packing
from ..record import Step
from ..solution import Status
from ..trajectory import Method, Moving, attempt, begin
from .adjoint import Adjoint, Augmented
from .batch import cotangent, safe, spoiled, without
from .one_way import forwards_after


def solve_in_lanes(ensemble: Ensemble, tile: Tile) -> Result:
    """Run all of `ensemble`; its gradient is the adjoint equations'."""
    if ensemble.shared[0].read is None:
        return _continuous(ensemble, tile)
    # Values that a function reads off the states are differentiated outside the solve.
    own, shared = ensemble.own, ensemble.shared
    stateful = Ensemble(without(own, read=None), without(shared, read=None))
    states = _continuous(stateful, tile)

    def read(rows: PyTree, ys: Array) -> PyTree:
        problem, plan = ensemble.one(rows)
        return jax.vmap(reading(problem, plan).fn)(problem.ts, ys)

    return states._replace(ys=jax.vmap(read)(own, states.ys))


@eqx.filter_custom_vjp
def _continuous(ensemble: Ensemble, tile: Tile) -> Result:
    run = Run(ensemble, tile)
    return run.close(tiles.run(run.work(), tile, (run.open(), None)))


@_continuous.def_fwd
@forwards_after
def _forward(perturbed: PyTree, ensemble: Ensemble, tile: Tile) -> tuple[Result, Any]:
    run = Run(ensemble, tile)
    result = run.close(tiles.run(run.work(), tile, (run.open(), None)))
    return result, (result.ys, result.status, perturbed)


@_continuous.def_bwd
@forwards_after
def _backward(
    residuals: Any, cotangents: Result, _: PyTree, ensemble: Ensemble, tile: Tile
) -> PyTree:
    ys, status, perturbed = residuals
    good = status == Status.SUCCESS
    ct_ys = jnp.zeros_like(ys) if cotangents.ys is None else cotangents.ys
    if cotangents.y1 is not None:
        ct_ys = ct_ys.at[:, -1].add(cotangents.y1)
    lost = spoiled(cotangents, good)
    mask = good.reshape((-1,) + (1,) * (ys.ndim - 1))
    ct_ys, ys = jnp.where(mask, ct_ys, 0), jnp.where(mask, ys, ys[jnp.argmax(good)])
    flags = without(perturbed.own, y0=False, ts=False)
    shared = eqx.filter(ensemble.shared, without(perturbed.shared, ts=False))
    walk = _Walk(safe(ensemble, good), tile, flags, shared, ys, ct_ys)
    (a, own, ended), shared = walk.run()
    with_times = bool(perturbed.own[0].ts) or bool(perturbed.shared[0].ts)
    ts = walk.time_cotangents(a) if with_times else None
    y0, lost = a + ct_ys[:, 0], lost | jnp.any(~ended)
    ct = cotangent(
        ensemble, (own, eqx.filter(ensemble.own[1], False)), shared, y0, ts, good & ended, lost
    )
    return eqx.filter(ct, perturbed)


class _Lane(NamedTuple):
    """A trajectory on its way back, from its saved time `place` to the one before it, `target`."""

    rows: PyTree
    number: Array
    place: Array
    target: Array
    direction: Array
    moving: Moving


class _Walk(eqx.Module):
    """All adjoint equations. `flags` says what is differentiated of a trajectory's own problem."""

    ensemble: Ensemble
    tile: Tile
    flags: PyTree
    shared: PyTree
    ys: Array
    ct_ys: Array

    def run(self) -> tuple[tuple[Array, PyTree, Array], PyTree]:
        """Cotangents of each first state and own problem, whether its end was reached; the sum."""
        # Blank lanes are over as they are: their target is where they stand.
        work = Work(
            self.ensemble.count, lambda lanes: lanes, self.load, self.over, self.result, self.turn
        )
        results, total, _ = tiles.run(work, self.tile, jax.tree.map(jnp.zeros_like, self.shared))
        return results, total

    def adjoint(self, rows: PyTree) -> tuple[Adjoint, Packing]:
        """The adjoint equation of a trajectory, and the packing of its state."""
        problem, plan = self.ensemble.one(rows)
        problem = dataclasses.replace(problem, y0=self.ys[0, 0])  # for its shape alone
        moving = eqx.filter(rows, self.flags)[0]
        still = eqx.filter(problem, jax.tree.map(_is_none, moving, is_leaf=_is_none))
        like = Augmented(self.ys[0, 0], self.ys[0, 0], moving)
        return Adjoint(moving, still, problem, plan), Packing.of(like)

    def load(self, number: Array) -> _Lane:
        """A trajectory's adjoint equation at its last time."""
        rows = jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), self.ensemble.own
        )
        ts, rows = self.ensemble.ts(rows), without(rows, y0=None, ts=None)
        adjoint, packing = self.adjoint(rows)
        zero = jax.tree.map(jnp.zeros_like, adjoint.moving)
        start = packing.pack(Augmented(self.ys[number, -1], self.ct_ys[number, -1], zero))
        moving = begin(adjoint.method(packing), adjoint.packed(packing), start, ts[-1], ts[0])
        place = jnp.int32(ts.shape[0] - 1)
        return _Lane(rows, number, place, ts[-2], direction_of(ts[::-1]), moving)

    def arrived(self, lanes: _Lane) -> Array:
        """Which lanes stand at their targets."""
        return lanes.direction * (lanes.target - lanes.moving.t) <= 0

    def over(self, lanes: _Lane) -> Array:
        """Which lanes have come to their first time, or failed."""
        method = self.ensemble.plan.method
        failed = (lanes.moving.status != Status.SUCCESS) | (
            lanes.moving.num_steps >= method.max_steps
        )
        arrived = self.arrived(lanes)
        return (arrived & (lanes.place <= 1)) | (failed & ~arrived)

    def result(self, lane: _Lane) -> tuple[Array, PyTree, Array]:
        """Cotangents of the first state and of what is the trajectory's own; whether they are."""
        _, packing = self.adjoint(lane.rows)
        _, a, g = packing.unpack(lane.moving.y)
        return a, g, self.arrived(lane)

    def turn(self, numbers: Array, lanes: _Lane, total: PyTree) -> tuple[_Lane, PyTree]:
        """A step of every lane, and what it adds to the shared integral."""
        lanes = self.jump(lanes)

        def adjoint(rows: PyTree) -> Callable[[Array, Array], Array]:
            one, packing = self.adjoint(rows)
            return one.packed(packing)

        field = self.in_lanes(adjoint, lanes.rows)
        method = self.method(lanes.rows)
        moving, steps = attempt(
            method, field, lanes.moving, lanes.direction, lanes.target, lambda _: self.looks
        )
        accept = steps.accept & (numbers < self.ensemble.count)
        if self.looks:
            part = self.integral(accept, lanes.rows, steps)
            total = jax.tree.map(jnp.add, total, part)
        return lanes._replace(moving=moving), total

    @property
    def looks(self) -> bool | None:
        """Whether the steps' dense output is read: for the shared integral."""
        return True if jax.tree.leaves(self.shared) else None

    def jump(self, lanes: _Lane) -> _Lane:
        """Where a lane stands at a saved time, add its cotangent and aim at the time before it."""
        if self.ensemble.all_times.shape[-1] == 2:
            return lanes

        def due(lanes: _Lane) -> Array:
            return self.arrived(lanes) & (lanes.place > 1)

        def one(lane: _Lane) -> _Lane:
            place, moving = lane.place - 1, lane.moving
            adjoint, packing = self.adjoint(lane.rows)
            _, a, g = packing.unpack(moving.y)
            state = Augmented(self.ys[lane.number, place], a + self.ct_ys[lane.number, place], g)
            y, t = packing.pack(state), self.time(lane.number, place)
            carry = adjoint.method(packing).stepper.init(adjoint.packed(packing), t, y)
            moving = moving._replace(
                t=t, t_low=jnp.zeros_like(t), y=y, carry=carry, num_steps=jnp.int32(0)
            )
            target = self.time(lane.number, place - 1)
            return lane._replace(place=place, target=target, moving=moving)

        def again(lanes: _Lane) -> _Lane:
            mask = due(lanes)
            return jax.tree.map(
                lambda a, b: jnp.where(mask, a, b), self.tile.map(one)(lanes), lanes
            )

        return lax.while_loop(lambda lanes: jnp.any(due(lanes)), again, lanes)

    def integral(self, accept: Array, rows: PyTree, steps: Step) -> PyTree:
        """What the accepted steps add to the cotangent of what is shared: `-a df/dtheta` over h.

        By Gauss quadrature, at nodes inside the step where its dense output is read. The other
        lanes take a step of no length from a state that is harmless.
        """
        first = jax.tree.map(lambda x: x[0], self.ensemble.own)
        calm, t0 = without(first, y0=None, ts=None), self.ensemble.ts(first)[0]
        solver, (_, packing) = self.ensemble.plan.method.solver, self.adjoint(calm)
        nodes, weights = np.polynomial.legendre.leggauss(solver.order // 2 + 1)
        times, states, sizes = [], [], []
        for node, weight in zip(0.5 * (1 + nodes), 0.5 * weights, strict=True):
            theta = jnp.full_like(steps.t, node)
            times.append(steps.t + theta * steps.h)
            states.append(solver.interpolate(theta, steps.y, steps.h, steps.dense))
            sizes.append(weight * steps.h)

        def side_by_side(x: list[Array]) -> Array:
            return jnp.concatenate(x, axis=-1)

        accept = side_by_side([accept] * len(nodes))
        rows = jax.tree.map(lambda x: side_by_side([x] * len(nodes)), rows)
        size = side_by_side(sizes).astype(jnp.finfo(packing.dtype).dtype)
        y, a, _ = jax.vmap(packing.unpack, -1, -1)(side_by_side(states))
        rows, t, y, a = jax.tree.map(
            lambda at, b: jnp.where(accept, at, b[..., None]),
            (rows, side_by_side(times), y, a),
            (calm, t0, self.ys[0, 0], jnp.zeros_like(self.ys[0, 0])),
        )

        def added(shared: PyTree) -> Array:
            def slope(rows: PyTree) -> Callable[[Array, Array], Array]:
                return packed_field(*eqx.combine(shared, self.ensemble.one(rows)))

            part = a * self.in_lanes(slope, rows)(t, y)
            return -jnp.sum(jnp.where(accept, size, 0) * part).real

        return jax.grad(added)(self.shared)

    def in_lanes(
        self, field: Callable[[PyTree], Callable[[Array, Array], Array]], rows: PyTree
    ) -> Callable[[Array, Array], Array]:
        """The field of every lane, as one on lanes."""
        many = jax.vmap(lambda rows, t, y: field(rows)(t, y), in_axes=-1, out_axes=-1)
        return lambda t, y: many(rows, t, lax.optimization_barrier(y))

    def method(self, rows: PyTree) -> Method:
        """The method of the adjoint equations, its tolerances laid out for lanes."""

        def one(rows: PyTree, _: Array) -> tuple[Array, Array]:
            adjoint, packing = self.adjoint(rows)
            tolerance = adjoint.method(packing).tolerance
            return tolerance.rtol, tolerance.atol

        lanes = jnp.arange(self.tile.width)
        rtol, atol = jax.vmap(one, in_axes=-1, out_axes=-1)(rows, lanes)
        adjoint, packing = self.adjoint(self.tile.lane(rows, jnp.int32(0)))
        method = adjoint.method(packing)
        return dataclasses.replace(
            method, tolerance=Tolerance(rtol, atol, method.tolerance.norm, True)
        )

    def time(self, number: Array, place: Array) -> Array:
        """A saved time of a trajectory."""
        ts = self.ensemble.all_times
        return ts[place] if ts.ndim == 1 else ts[number, place]

    def time_cotangents(self, a: Array) -> Array:
        """Cotangents of each trajectory's times; `a` are those of its first state's flow."""

        def one(rows: PyTree, a: Array, ys: Array, ct_ys: Array) -> Array:
            adjoint, _ = self.adjoint(without(rows, y0=None, ts=None))
            ct_ys = ct_ys.at[0].set(-a)
            return jax.vmap(adjoint.time_cotangent)(self.ensemble.ts(rows), ys, ct_ys)

        return jax.vmap(one)(self.ensemble.own, a, self.ys, self.ct_ys)


def _is_none(x: Any) -> bool:
    return x is None
