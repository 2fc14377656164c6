"""The adjoint equation of one problem."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..control import Tolerance
from ..forward import Plan, Problem, packed_field
from ..integrate import Recorder, integrate
from ..problem import Packing
from ..solution import Status
from ..trajectory import Method, first_size


class Augmented(NamedTuple):
    """The state of the adjoint equation."""

    y: Array
    a: Array
    g: PyTree


class Adjoint(eqx.Module):
    """The adjoint equation of one problem; `moving` holds the parameters it is for."""

    moving: PyTree
    still: Problem
    problem: Problem
    plan: Plan

    def field(self, t: Array, state: Augmented) -> Augmented:
        """The right-hand side, on the pytree of its parts."""

        def slope(moving: PyTree, y: Array) -> Array:
            return packed_field(eqx.combine(moving, self.still), self.plan)(t, y)

        dy, pull = jax.vjp(slope, self.moving, state.y)
        dg, da = pull(-state.a)
        return Augmented(dy, da, dg)

    def packed(self, packing: Packing) -> Callable[[Array, Array], Array]:
        """The right-hand side on packed states."""

        def field(t: Array, flat: Array) -> Array:
            slope = self.field(t.astype(self.plan.packing.time_dtype), packing.unpack(flat))
            return packing.pack(slope).astype(packing.dtype)

        return field

    def backwards(self, ys: Array, ct_ys: Array) -> tuple[Array, PyTree, Array]:
        """Cotangents of the first state, the parameters and the times."""
        ts = self.problem.ts
        zero = Augmented(ys[-1], ct_ys[-1], jax.tree.map(jnp.zeros_like, self.moving))
        packing = Packing.of(zero)
        method = self.method(packing)

        packed = self.packed(packing)

        def one(state: Any) -> Any:
            j, a, g, ct_ts, h, status = state
            start = packing.pack(Augmented(ys[j], a, g))
            sized = dataclasses.replace(method, dt=h)
            out = integrate(
                sized, packed, start, ts[j], ts[j - 1], Recorder(lambda s, _: s), lambda _: ()
            )
            _, a, g = packing.unpack(jnp.where(ts[j] == ts[j - 1], start, out.y1))
            status = jnp.maximum(status, out.status)
            ct_ts = ct_ts.at[j].add(self.time_cotangent(ts[j], ys[j], ct_ys[j]))
            a_start = a + ct_ys[j - 1]
            ct_ts = jnp.where(j == 1, ct_ts.at[0].add(-self.time_cotangent(ts[0], ys[0], a)), ct_ts)
            h = jnp.where(ts[j] == ts[j - 1], h, out.h)
            return j - 1, a_start, g, ct_ts, h, status

        # Each interval goes on with the last step size of the one before it.
        h = first_size(method, packed, ts[-1], ts[0], packing.pack(zero))
        start = (jnp.int32(ts.shape[0] - 1), zero.a, zero.g, jnp.zeros_like(ts), h, jnp.int32(0))
        _, a, g, ct_ts, _, status = lax.while_loop(lambda s: s[0] > 0, one, start)
        good = status == Status.SUCCESS
        return jax.tree.map(lambda x: jnp.where(good, x, jnp.nan), (a, g, ct_ts))

    def time_cotangent(self, t: Array, y: Array, ct: Array) -> Array:
        """How the cotangent `ct` of a state moves with the time it is read at."""
        slope = packed_field(self.problem, self.plan)(t, y)
        return jnp.sum(ct * slope).real.astype(self.plan.packing.time_dtype)

    def method(self, packing: Packing) -> Method:
        """The forward method, its error norm over state and adjoint alone."""
        method = self.plan.method
        norm, shape, size = method.tolerance.norm, self.problem.y0.shape, self.problem.y0.size

        def seminorm(x: Array) -> Array:
            state, adjoint = x[:size].reshape(shape), x[size : 2 * size].reshape(shape)
            return jnp.maximum(norm(state), norm(adjoint))

        def spread(tolerance: Array) -> Array:
            if tolerance.ndim == 0:
                return tolerance.astype(jnp.finfo(packing.dtype).dtype)
            twice = jnp.concatenate([tolerance.reshape(-1)] * 2)
            rest = sum(jax.tree.leaves(jax.tree.map(jnp.size, self.moving)), 0)
            return jnp.concatenate([twice, jnp.ones(rest, twice.dtype)])

        tolerance = Tolerance(
            spread(method.tolerance.rtol), spread(method.tolerance.atol), seminorm
        )
        return dataclasses.replace(method, tolerance=tolerance, progress=None)
