"""Switching: an explicit solver while the problem is not stiff, a Rosenbrock solver while it is."""

from functools import partial
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ..problem.field import Field
from ..problem.state import Packing
from .base import EvaluationCounts, Solver, StepResult
from .explicit.runge_kutta import ExplicitRungeKutta
from .explicit.stage_sums import stage_sum
from .explicit.tsit5 import Tsit5
from .implicit.rodas5p import Rodas5P
from .implicit.rosenbrock import Rosenbrock
from .step_size import PID, Controller, Tolerance, mean_square

# Share of the explicit solver's stability region beyond which a step is one for the other solver,
# and the number of steps in a row, of the explicit and of the implicit one, that settle it.
_SHARE, _VOTES_STIFF, _VOTES_BACK = 0.9, 10.0, 3.0


class SwitchingState(NamedTuple):
    """The slope at the start of a step, which solver takes it, and the votes for the other."""

    slope: Array
    stiff: Array
    votes: Array


class Switching(Solver):
    """`explicit` until its steps are bound by stability, then `implicit`, and back.

    `reach` is the length of the explicit solver's stability region on the negative real axis.
    Stiffness is seen in the last two stages of the explicit step, which lie at one time, and in the
    norm of the Jacobian in the implicit step. The stages are compared in units of the tolerance:
    a stiff component may be a millionth as large as the others.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II (1996), IV.2; the constants:
    Rackauckas, Nie, DifferentialEquations.jl, J. Open Research Software 5 (2017).
    """

    explicit: ClassVar[ExplicitRungeKutta]
    stiff: ClassVar[Rosenbrock]
    reach: ClassVar[float]
    implicit: ClassVar[bool] = True
    counts_evaluations: ClassVar[bool] = True
    stateless: ClassVar[bool] = False

    # That of the solve; steps of a fixed size have none.
    tolerance: Tolerance | None = eqx.field(default=None, kw_only=True)

    @property
    def order(self) -> int:
        return min(self.explicit.order, self.stiff.order)

    @property
    def error_exponent(self) -> int | None:
        return self.explicit.error_exponent

    @property
    def evaluations(self) -> EvaluationCounts:
        return EvaluationCounts(self.explicit.evaluations.init, 0, 0)

    @property
    def num_dense(self) -> int:
        return self.stiff.num_dense

    def default_controller(self) -> Controller:
        return PID(pcoeff=0.4, icoeff=0.3, factor_max_first=1e4)

    def check(self, packing: Packing) -> None:
        self.stiff.check(packing)

    def init(self, field: Field, t: Array, y: Array) -> SwitchingState:
        zero = jnp.zeros(t.shape, jnp.finfo(y.dtype).dtype)
        return SwitchingState(field(t, y), zero, zero)

    def slope(self, solver_state: SwitchingState) -> Array:
        return solver_state.slope

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: SwitchingState,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        def by_explicit() -> tuple[StepResult, Array]:
            return self._explicit(field, t, y, h, solver_state, needs_dense)

        def by_implicit() -> tuple[StepResult, Array]:
            return self._implicit(field, t, y, h, needs_dense)

        stiff = solver_state.stiff > 0.5
        if t.ndim == 0:
            stepped, votes_for = lax.cond(stiff, by_implicit, by_explicit)
        else:
            shapes = jax.eval_shape(by_explicit)
            blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            one = lax.cond(jnp.any(~stiff), by_explicit, lambda: blank)
            other = lax.cond(jnp.any(stiff), by_implicit, lambda: blank)
            stepped, votes_for = jax.tree.map(lambda a, b: jnp.where(stiff, a, b), other, one)
        votes = jnp.where(votes_for, solver_state.votes + 1, 0)
        switch = votes >= jnp.where(stiff, _VOTES_BACK, _VOTES_STIFF)
        votes = jnp.where(switch, 0, votes)
        after = SwitchingState(
            stepped.solver_state,
            jnp.where(switch, 1 - solver_state.stiff, solver_state.stiff),
            votes,
        )
        # Besides its stages an implicit step evaluates the slope at its end.
        each = self.explicit.evaluations.step, self.stiff.evaluations.step + 1
        return stepped._replace(
            solver_state=lax.stop_gradient(after)._replace(slope=stepped.solver_state),
            extra_evaluations=jnp.where(stiff, each[1], each[0]).astype(jnp.int32),
        )

    def _explicit(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: SwitchingState,
        needs_dense: Array | bool | None,
    ) -> tuple[StepResult, Array]:
        """An explicit step, and whether it is a vote for the implicit solver."""
        step = self.explicit.step_and_stages
        stepped, slopes, points = step(field, t, y, h, solver_state.slope, None)
        if self.tolerance is None:
            size = partial(mean_square, axes=tuple(range(y.ndim - t.ndim)))
        else:
            size = partial(self.tolerance.scaled_norm_squared, y=y, y1=stepped.y1)
        rise, run = (size(x[-1] - x[-2]) for x in (slopes, points))
        reach = jnp.abs(h).astype(run.dtype) * jnp.sqrt(rise / jnp.where(run > 0, run, 1))
        dense = None if needs_dense is None else self._powers(slopes, h.astype(run.dtype))
        trouble = jnp.zeros(t.shape, jnp.int32)
        vote = (run > 0) & (reach > _SHARE * self.reach)
        return stepped._replace(dense=dense, status=trouble), vote

    def _powers(self, slopes: list[Array], scale: Array) -> tuple[Array, ...]:
        """The explicit solver's dense output by powers of theta, as the implicit one has it."""
        rows = zip(*self.explicit.tableau.dense, strict=True)
        return tuple(scale * stage_sum(row, slopes) for row in rows)

    def _implicit(
        self, field: Field, t: Array, y: Array, h: Array, needs_dense: Array | bool | None
    ) -> tuple[StepResult, Array]:
        """An implicit step, and whether it is a vote for the explicit solver."""
        stepped, jacobian = self.stiff.step_and_jacobian(field, t, y, h, needs_dense)
        largest = jnp.max(jnp.sum(jnp.abs(jacobian), axis=0), axis=0)
        vote = jnp.abs(h).astype(largest.dtype) * largest < _SHARE * self.reach
        return stepped._replace(solver_state=field(t + h, stepped.y1)), vote

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return self.stiff.interpolate(theta, y, h, dense)


class Auto(Switching):
    """Tsit5 until its steps are bound by stability, then Rodas5P, and back. Dense output: quartic.

    For a problem of which it is not known whether it is stiff.
    """

    names: ClassVar[tuple[str, ...]] = ("auto",)
    explicit: ClassVar[ExplicitRungeKutta] = Tsit5()
    stiff: ClassVar[Rosenbrock] = Rodas5P()
    reach: ClassVar[float] = 3.5068
