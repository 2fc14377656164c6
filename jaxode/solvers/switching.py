"""Automatic switching between an explicit and a Rosenbrock solver by stiffness detection."""

from collections.abc import Callable
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

# Share of the explicit solver's stability interval above which a step counts as stiff, and that
# above which it may be: there stability ends near the imaginary axis, while steps that accuracy
# limits are mostly shorter.
_STABILITY_SHARE, _SUSPICIOUS_SHARE = 0.9, 0.37
# Votes of an explicit step by these shares, or against. At so many votes the implicit solver steps,
# and after so many consecutive steps that are not stiff the explicit one, which then has a debt.
_STIFF, _SUSPICIOUS, _NOT_STIFF, _VOTES_TO_IMPLICIT = 2.5, 1.0, -1.5, 25.0
_VOTES_TO_EXPLICIT, _DEBT = 3.0, -50.0


class SwitchingState(NamedTuple):
    """The solver state: slope at the start, 1 if the implicit solver steps, votes for the other."""

    slope: Array
    stiff: Array
    votes: Array


class Switching(Solver):
    """Base class of solvers that step by `explicit` until stability limits it, then by `stiff`.

    `stability_interval` is the length of the explicit solver's stability region on the negative
    real axis. Stiffness is detected from the last two stages of the explicit step, which are at one
    time, and from the norm of the Jacobian of the implicit step. The stages are compared in units
    of the tolerance, as a stiff component may be a millionth of the size of the others. Where the
    eigenvalues are near the imaginary axis, steps are bound earlier and in no regular way: so votes
    are summed over many steps.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II (1996), IV.2; the constants:
    Rackauckas, Nie, DifferentialEquations.jl, J. Open Research Software 5 (2017).
    """

    explicit: ClassVar[ExplicitRungeKutta]
    stiff: ClassVar[Rosenbrock]
    stability_interval: ClassVar[float]
    implicit: ClassVar[bool] = True
    counts_evaluations: ClassVar[bool] = True
    varies: ClassVar[bool] = True
    stateless: ClassVar[bool] = False

    # The tolerance of the solve; None for fixed steps.
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

    def move_state(
        self,
        move: Callable[[Array, Array], Array],
        solver_state: SwitchingState,
        other: SwitchingState,
    ) -> SwitchingState:
        return solver_state._replace(slope=move(solver_state.slope, other.slope))

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
        def explicit_step() -> tuple[StepResult, Array]:
            return self._explicit(field, t, y, h, solver_state, needs_dense)

        def implicit_step() -> tuple[StepResult, Array]:
            return self._implicit(field, t, y, h, needs_dense)

        stiff = solver_state.stiff > 0.5
        if t.ndim == 0:
            stepped, vote = lax.cond(stiff, implicit_step, explicit_step)
        else:
            shapes = jax.eval_shape(explicit_step)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            explicit = lax.cond(jnp.any(~stiff), explicit_step, lambda: zeros)
            implicit = lax.cond(jnp.any(stiff), implicit_step, lambda: zeros)
            chosen = jax.tree.map(lambda a, b: jnp.where(stiff, a, b), implicit, explicit)
            stepped, vote = chosen
        votes = self._count(solver_state.votes, vote, stiff)
        switch = votes >= jnp.where(stiff, _VOTES_TO_EXPLICIT, _VOTES_TO_IMPLICIT)
        votes = jnp.where(switch, jnp.where(stiff, _DEBT, 0), votes)
        after = SwitchingState(
            stepped.solver_state,
            jnp.where(switch, 1 - solver_state.stiff, solver_state.stiff),
            votes,
        )
        # Besides its stages an implicit step evaluates the slope at its end.
        evaluations = self.explicit.evaluations.step, self.stiff.evaluations.step + 1
        return stepped._replace(
            solver_state=lax.stop_gradient(after)._replace(slope=stepped.solver_state),
            extra_evaluations=jnp.where(stiff, evaluations[1], evaluations[0]).astype(jnp.int32),
        )

    def _count(self, votes: Array, vote: Array, stiff: Array) -> Array:
        """The votes after a step; those of a stiff explicit step cancel any debt."""
        of_implicit = jnp.where(vote > 0, votes + 1, 0)
        in_favour = jnp.where(vote == _STIFF, jnp.maximum(votes, 0), votes) + vote
        # Votes against are not stored up beyond the debt.
        against = jnp.where(votes > 0, jnp.maximum(votes + vote, 0), votes)
        of_explicit = jnp.where(vote > 0, in_favour, against)
        return jnp.where(stiff, of_implicit, of_explicit)

    def _explicit(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: SwitchingState,
        needs_dense: Array | bool | None,
    ) -> tuple[StepResult, Array]:
        """An explicit step, and its votes for the implicit solver."""
        step = self.explicit.step_and_stages
        stepped, slopes, states = step(field, t, y, h, solver_state.slope, None)
        if self.tolerance is None:
            square = partial(mean_square, axes=tuple(range(y.ndim - t.ndim)))
        else:
            square = partial(self.tolerance.scaled_norm_squared, y=y, y1=stepped.y1)
        scale = h.astype(jnp.finfo(y.dtype).dtype)
        df, dy = square(scale * (slopes[-1] - slopes[-2])), square(states[-1] - states[-2])
        h_times_radius = jnp.sqrt(df / jnp.where(dy > 0, dy, 1))
        dense = None if needs_dense is None else self._dense(slopes, scale)
        status = jnp.zeros(t.shape, jnp.int32)
        share = jnp.where(dy > 0, h_times_radius, 0) / self.stability_interval
        vote = jnp.where(share > _SUSPICIOUS_SHARE, _SUSPICIOUS, _NOT_STIFF)
        vote = jnp.where(share > _STABILITY_SHARE, _STIFF, vote).astype(scale.dtype)
        return stepped._replace(dense=dense, status=status), vote

    def _dense(self, slopes: list[Array], scale: Array) -> tuple[Array, ...]:
        """The explicit solver's dense output in the implicit solver's form, by powers of theta."""
        rows = zip(*self.explicit.tableau.dense, strict=True)
        return tuple(scale * stage_sum(row, slopes) for row in rows)

    def _implicit(
        self, field: Field, t: Array, y: Array, h: Array, needs_dense: Array | bool | None
    ) -> tuple[StepResult, Array]:
        """An implicit step, and 1 if it is a vote for the explicit solver, else 0."""
        stepped, jacobian = self.stiff.step_and_jacobian(field, t, y, h, needs_dense)
        norm = jnp.max(jnp.sum(jnp.abs(jacobian), axis=0), axis=0)
        vote = jnp.abs(h).astype(norm.dtype) * norm < _STABILITY_SHARE * self.stability_interval
        return stepped._replace(solver_state=field(t + h, stepped.y1)), vote.astype(norm.dtype)

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        return self.stiff.interpolate(theta, y, h, dense)


class Auto(Switching):
    """Tsit5 until stability limits its steps, then Rodas5P, and back. Dense output: quartic.

    For a problem that may or may not be stiff.
    """

    names: ClassVar[tuple[str, ...]] = ("auto", "lsoda")
    explicit: ClassVar[ExplicitRungeKutta] = Tsit5()
    stiff: ClassVar[Rosenbrock] = Rodas5P()
    stability_interval: ClassVar[float] = 3.5068
