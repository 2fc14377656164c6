"""The adjoint equation of one initial value problem, as a vector field on packed states."""

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

# The state of the forward solve as a function of time.
StateFunction = Callable[[Array], Array]


class AugmentedState(NamedTuple):
    """The state of the adjoint equation: state `y`, adjoint `a`, integral `g` for the parameters.

    A part that is not integrated with the equation is None.
    """

    y: Any
    a: Array
    g: PyTree


class AdjointEquation(eqx.Module):
    r"""The adjoint equation of one problem; `diff` holds the parameters $\theta$ that `g` is for.

    For $M \dot y = f$ it is $M^T \dot a = -f_y^T a$, $\dot g = -a^T f_\theta$, where $M^T a$ is the
    cotangent of the state. `nondiff` is the rest of the problem.
    """

    diff: PyTree
    nondiff: IVP
    config: SolveConfig
    backward: BackwardConfig

    def rhs(self, diff: PyTree, t: Array, y: Array) -> Array:
        """Evaluate the right-hand side $f$ of the problem with the parameters `diff`."""
        return packed_field(eqx.combine(diff, self.nondiff), self.config)(t, y)

    def field(self, state_at: StateFunction | None) -> Callable[[Array, Array], Array]:
        """Return the right-hand side of the adjoint equation on packed states.

        `state_at` gives the state of the problem where it is not integrated, else None.
        """
        packing, backward = self.packing, self.backward

        def adjoint_field(t: Array, flat: Array) -> Array:
            t = t.astype(self.config.packing.time_dtype)
            state = packing.unpack(flat)
            y = state.y if state_at is None else state_at(t)
            dy, pull = jax.vjp(lambda diff, y: self.rhs(diff, t, y), self.diff, y)
            dg, da = pull(-state.a)
            if backward.divided and backward.mass is not None:
                dy, da = backward.mass.solve(dy), backward.mass.solve_transposed(da)
            slope = AugmentedState(dy if state_at is None else None, da, dg)
            return packing.pack(slope).astype(packing.dtype)

        return adjoint_field

    @property
    def packing(self) -> Packing:
        """The layout of an augmented state as one array."""
        y = self.nondiff.y0
        return Packing.of(AugmentedState(y if self.backward.with_y else None, y, self.diff))

    def pack(self, y: Array, a: Array, g: PyTree) -> Array:
        """Pack the parts of an augmented state that are integrated into one array."""
        return self.packing.pack(AugmentedState(y if self.backward.with_y else None, a, g))

    def method(self) -> Method:
        """Return the method that steps the equation."""
        backward, solver, packing = self.backward, self.backward.solver, self.packing
        if backward.mass is not None and not backward.divided:
            num_parameters = packing.size - self.nondiff.y0.size * (1 + backward.with_y)
            mass = backward.mass.augmented(backward.with_y, num_parameters)
            solver = dataclasses.replace(solver, mass=mass)
        max_steps = self.config.method.max_steps
        return Method(solver, backward.controller, self.tolerance(), backward.dt, max_steps)

    def tolerance(self) -> Tolerance:
        """Return the tolerance of the augmented state.

        State and adjoint have the state's tolerance, parameters its smallest one.
        """
        backward, y0, packing = self.backward, self.nondiff.y0, self.packing
        of_state = backward.tolerance(self.config)
        norm = backward.norm or of_state.norm
        if len(packing.shapes) == 1:
            return dataclasses.replace(of_state, norm=norm)
        number = y0.size

        def largest_norm(x: Array) -> Array:
            # One mean over all components would hide the state among many parameters.
            state = packing.unpack(x)
            counted = state._replace(g=None) if backward.seminorm else state
            parts = [part for part in jax.tree.leaves(counted) if part.size]
            return jnp.max(jnp.stack([norm(part) for part in parts]))

        def spread(tolerance: Array) -> Array:
            if tolerance.ndim == 0:
                return tolerance.astype(jnp.finfo(packing.dtype).dtype)
            parts = [tolerance.reshape(-1)] * (1 + backward.with_y)
            rest = packing.size - len(parts) * number
            return jnp.concatenate([*parts, jnp.full(rest, jnp.min(tolerance), tolerance.dtype)])

        return Tolerance(spread(of_state.rtol), spread(of_state.atol), largest_norm)

    def diverged(self, y: Array, y_forward: Array) -> Array:
        """Return whether `y`, integrated backwards, is too far from the forward solution."""
        return self.backward.diverged(y, y_forward, self.config)

    def make_consistent(self, t: Array, y: Array, a: Array) -> Array:
        """Correct `a` so that it satisfies the adjoint's algebraic equations, where it has any."""
        mass = self.backward.mass
        if mass is None or mass.algebraic is None:
            return a
        correction = algebraic_correction(lambda y: self.rhs(self.diff, t, y), mass.algebraic, y)
        _, pull = jax.vjp(lambda y: self.rhs(self.diff, t, y), y)
        return a + correction(pull(a)[0])


def algebraic_correction(
    rhs: Callable[[Array], Array], algebraic: Algebraic, y: Array
) -> Callable[[Array], Array]:
    r"""Map `c` to the $v$ in the null space of $M^T$ that satisfies $U^T (c + f_y^T v) = 0$.

    $U$ spans the null space of $M$: the algebraic unknowns. `rhs` is $f$ as a function of `y`.

    Source: Cao, Li, Petzold, Serban, Adjoint sensitivity analysis for differential-algebraic
    equations, SIAM J. Sci. Comput. 24 (2003).
    """
    equations, unknowns = (x.astype(y.dtype) for x in algebraic)
    _, pull = jax.vjp(rhs, y)
    rows = jax.vmap(lambda v: pull(v.reshape(y.shape))[0].reshape(-1), 1, 1)(equations)
    matrix = unknowns.T @ rows

    def correction(c: Array) -> Array:
        coefficients = -jnp.linalg.solve(matrix, unknowns.T @ c.reshape(-1))
        return (equations @ coefficients).reshape(y.shape)

    return correction
