"""The adjoint equation of one problem."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ...integrate.ivp import IVP, SolveConfig, packed_field
from ...integrate.step import Method
from ...problem.state import Packing
from ...solvers.implicit.consistent_initial import Algebraic
from ...solvers.step_size import Tolerance
from .backward_solver import BackwardConfig

StateFunction = Callable[[Array], Array]


class AugmentedState(NamedTuple):
    """The state of the adjoint equation; None what is no part of it."""

    y: Any
    a: Array
    g: PyTree


class AdjointEquation(eqx.Module):
    r"""The adjoint equation of one problem; `moving` holds the parameters that `g` is for.

    Of $M \dot y = f$ it is $M^T \dot a = -f_y^T a$, $\dot g = -a^T f_\theta$, where $M^T a$ is the
    cotangent of the state.
    """

    moving: PyTree
    still: IVP
    config: SolveConfig
    backward: BackwardConfig

    def slope(self, moving: PyTree, t: Array, y: Array) -> Array:
        """The field of the problem, with `moving` in the place of its own arrays."""
        return packed_field(eqx.combine(moving, self.still), self.config)(t, y)

    def packed(self, read: StateFunction | None) -> Callable[[Array, Array], Array]:
        """The right-hand side on packed states; `read` is the state where it is no part of them."""
        packing, back = self.packing, self.backward

        def field(t: Array, flat: Array) -> Array:
            t = t.astype(self.config.packing.time_dtype)
            state = packing.unpack(flat)
            y = state.y if read is None else read(t)
            dy, pull = jax.vjp(lambda moving, y: self.slope(moving, t, y), self.moving, y)
            dg, da = pull(-state.a)
            if back.divided and back.mass is not None:
                dy, da = back.mass.over(dy), back.mass.under(da)
            slope = AugmentedState(dy if read is None else None, da, dg)
            return packing.pack(slope).astype(packing.dtype)

        return field

    @property
    def packing(self) -> Packing:
        """How a state of the equation is one array."""
        y = self.still.y0
        return Packing.of(AugmentedState(y if self.backward.with_y else None, y, self.moving))

    def start(self, y: Array, a: Array, g: PyTree) -> Array:
        """A state of the equation, packed."""
        return self.packing.pack(AugmentedState(y if self.backward.with_y else None, a, g))

    def method(self) -> Method:
        """How the equation is stepped."""
        back, plan = self.backward, self.config
        solver, packing = back.solver, self.packing
        if back.mass is not None and not back.divided:
            number = packing.size - self.still.y0.size * (1 + back.with_y)
            solver = dataclasses.replace(solver, mass=back.mass.of_all(back.with_y, number))
        return Method(solver, back.controller, self.tolerance(), back.dt, plan.method.max_steps)

    def tolerance(self) -> Tolerance:
        """That of the state, for the state and its adjoint; for each parameter if they count."""
        back, y0, like = self.backward, self.still.y0, self.packing
        known = back.tolerance(self.config)
        if len(like.shapes) == 1:
            return known
        number = y0.size

        def norm(x: Array) -> Array:
            # The largest of the parts' norms: in a common mean, many parameters would hide a state.
            state = like.unpack(x)
            counted = state._replace(g=None) if back.seminorm else state
            parts = [part for part in jax.tree.leaves(counted) if part.size]
            return jnp.max(jnp.stack([known.norm(part) for part in parts]))

        def spread(tolerance: Array) -> Array:
            if tolerance.ndim == 0:
                return tolerance.astype(jnp.finfo(like.dtype).dtype)
            parts = [tolerance.reshape(-1)] * (1 + back.with_y)
            rest = like.size - len(parts) * number
            return jnp.concatenate([*parts, jnp.full(rest, jnp.min(tolerance), tolerance.dtype)])

        return Tolerance(spread(known.rtol), spread(known.atol), norm)

    def strayed(self, y: Array, known: Array) -> Array:
        """Whether a state that was integrated backwards is not the one it should be."""
        return self.backward.strayed(y, known, self.config)

    def consistent(self, t: Array, y: Array, a: Array) -> Array:
        """`a` moved until the algebraic equations of the adjoint hold, where there are any."""
        mass = self.backward.mass
        if mass is None or mass.algebraic is None:
            return a
        move = algebraic_correction(lambda y: self.slope(self.moving, t, y), mass.algebraic, y)
        _, pull = jax.vjp(lambda y: self.slope(self.moving, t, y), y)
        return a + move(pull(a)[0])


def algebraic_correction(
    slope: Callable[[Array], Array], algebraic: Algebraic, y: Array
) -> Callable[[Array], Array]:
    r"""`c` to the $v$ in the null space of $M^T$ with $U^T (c + f_y^T v) = 0$.

    $U$ spans the null space of $M$: the algebraic unknowns. Source: Cao, Li, Petzold, Serban,
    Adjoint sensitivity analysis for differential-algebraic equations, SIAM J. Sci. Comput. 24
    (2003).
    """
    equations, unknowns = (x.astype(y.dtype) for x in algebraic)
    _, pull = jax.vjp(slope, y)
    rows = jax.vmap(lambda v: pull(v.reshape(y.shape))[0].reshape(-1), 1, 1)(equations)
    matrix = unknowns.T @ rows

    def move(c: Array) -> Array:
        found = -jnp.linalg.solve(matrix, unknowns.T @ c.reshape(-1))
        return (equations @ found).reshape(y.shape)

    return move
