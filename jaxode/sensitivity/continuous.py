"""The continuous adjoint: a second ODE, integrated backwards from the last time."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..control import Grid, Tolerance
from ..errors import OptionError
from ..forward import Plan, Problem, Result, packed_field, reading, run
from ..integrate import Recorder, integrate
from ..problem import Packing
from ..solution import Status
from ..trajectory import Method, first_size


class Continuous(eqx.Module):
    r"""The continuous adjoint, integrated backwards beside the state.

    With $a = \partial L / \partial y$ it solves $\dot y = f$, $\dot a = -a\, \partial f /
    \partial y$, $\dot g = -a\, \partial f / \partial \theta$ from the last time to the first, $a$
    jumping at each saved time. Memory does not grow with the number of steps. The gradient is that
    of the differential equation, not of the computed solution: its error falls with the
    tolerances, and fields that contract strongly forwards blow up backwards; `Discrete` has
    neither trouble. A backward solve that fails leaves NaN as the gradient. The parameters' part
    $g$ is kept out of the error norm. Works with values at `ts` and the state at the end.

    Source: Chen et al., Neural ordinary differential equations (2018), arXiv 1806.07366, appendix
    B; the norm: Kidger et al., "Hey, that's not an ODE" (2020), arXiv 2009.09457.
    """

    def solve(self, problem: Problem, plan: Plan) -> Result:
        """Run `problem`; its gradient is the adjoint equation's.

        **Raises:** `OptionError` for `save="steps"`, `save="dense"` and the controller `Grid`.
        """
        if plan.save not in ("ends", "ts"):
            raise OptionError(
                f'sensitivity="adjoint" gives gradients of values at ts, not of save="{plan.save}";'
                ' use save="ts" or sensitivity="discrete"'
            )
        if isinstance(plan.method.controller, Grid):
            raise OptionError(
                'sensitivity="adjoint" cannot walk jo.Grid backwards; use jo.Fixed(dt), an '
                'adaptive solver, or sensitivity="discrete"'
            )
        if problem.read is None:
            return _continuous(problem, plan)
        # Values that a function reads off the states are differentiated outside the solve.
        states = _continuous(dataclasses.replace(problem, read=None), plan)
        read = reading(problem, plan).fn
        return states._replace(ys=jax.vmap(read)(problem.ts, states.ys))


@eqx.filter_custom_vjp
def _continuous(problem: Problem, plan: Plan) -> Result:
    return run(problem, plan)[0]


@_continuous.def_fwd
def _forward(perturbed: PyTree, problem: Problem, plan: Plan) -> tuple[Result, Any]:
    result, _ = run(problem, plan)
    return result, (result.ys, perturbed)


@_continuous.def_bwd
def _backward(
    residuals: Any, cotangents: Result, _: PyTree, problem: Problem, plan: Plan
) -> PyTree:
    ys, perturbed = residuals
    ct_ys = jnp.zeros_like(ys) if cotangents.ys is None else cotangents.ys
    if cotangents.y1 is not None:
        ct_ys = ct_ys.at[-1].add(cotangents.y1)
    moving, still = eqx.partition(problem, dataclasses.replace(perturbed, y0=False, ts=False))
    adjoint = _Adjoint(moving, still, problem, plan)
    ct_y0, ct_moving, ct_ts = adjoint.backwards(ys, ct_ys)
    return eqx.filter(dataclasses.replace(ct_moving, y0=ct_y0, ts=ct_ts), perturbed)


class _Augmented(NamedTuple):
    """The state of the adjoint equation."""

    y: Array
    a: Array
    g: PyTree


class _Adjoint(eqx.Module):
    """The adjoint equation of one problem; `moving` holds the parameters it is for."""

    moving: PyTree
    still: Problem
    problem: Problem
    plan: Plan

    def field(self, t: Array, state: _Augmented) -> _Augmented:
        """The right-hand side, on the pytree of its parts."""

        def slope(moving: PyTree, y: Array) -> Array:
            return packed_field(eqx.combine(moving, self.still), self.plan)(t, y)

        dy, pull = jax.vjp(slope, self.moving, state.y)
        dg, da = pull(-state.a)
        return _Augmented(dy, da, dg)

    def backwards(self, ys: Array, ct_ys: Array) -> tuple[Array, PyTree, Array]:
        """Cotangents of the first state, the parameters and the times."""
        ts = self.problem.ts
        zero = _Augmented(ys[-1], ct_ys[-1], jax.tree.map(jnp.zeros_like, self.moving))
        packing = Packing.of(zero)
        method = self.method(packing)

        def packed(t: Array, flat: Array) -> Array:
            slope = self.field(t.astype(ts.dtype), packing.unpack(flat))
            return packing.pack(slope).astype(packing.dtype)

        def one(state: Any) -> Any:
            j, a, g, ct_ts, h, status = state
            start = packing.pack(_Augmented(ys[j], a, g))
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
        return jnp.sum(ct * slope).real.astype(self.problem.ts.dtype)

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
