"""Hypersolvers: a fixed-step solver whose leading error a network has learned."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, PyTree

from ..problem.errors import DataError, OptionError
from ..problem.field import Field, call_field
from ..solvers.base import EvaluationCounts, Solver, StepResult
from ..solvers.explicit.low_order import RK4, Euler, Midpoint
from ..solvers.explicit.runge_kutta import ExplicitRungeKutta

_BASES: dict[str, type[ExplicitRungeKutta]] = {"euler": Euler, "midpoint": Midpoint, "rk4": RK4}


class HyperSolver(Solver):
    """A step of `base`, and `h^(p + 1)` times what a network makes of its start.

    It is a solver like any other: `solve(..., solver=HyperSolver(...), dt=0.1)`. Its network is not
    differentiated through a solve; train it by `hypersolver_loss`,
    then `hypersolver_trajectory_loss`.

    **Arguments:**

    - `size`: of one sample's state, laid end to end (a normalizing flow has one component more).
    - `base`: "euler", "midpoint" or "rk4", of order `p`.
    - `network`: maps `(2 size + 2,)`, the state, its slope, `t` and `h`, to `(size,)`; by default
      an MLP of `width` and `depth` with tanh, whose last layer is zero: it begins as `base`.
    - `key`: of the default network.

    **Raises:** `OptionError` for another base, or without a network and a key.

    Source: Poli et al., Hypersolvers (2020), arXiv 2007.09601, equation 5.
    """

    base: ExplicitRungeKutta
    network: Callable[[Array], Array]

    def __init__(
        self,
        size: int,
        base: str = "euler",
        network: Callable[[Array], Array] | None = None,
        *,
        width: int = 64,
        depth: int = 2,
        key: Array | None = None,
    ) -> None:
        if base not in _BASES:
            raise OptionError(f"base must be one of {', '.join(map(repr, _BASES))}, got {base!r}")
        if network is None and key is None:
            raise OptionError("a hypersolver needs a network, or a key=jax.random.key(...) for one")
        self.base = _BASES[base]()
        self.network = _zero_at_first(size, width, depth, key) if network is None else network

    @property
    def order(self) -> int:
        return self.base.order

    @property
    def error_exponent(self) -> int | None:
        return None

    @property
    def evaluations(self) -> EvaluationCounts:
        return self.base.evaluations

    @property
    def num_dense(self) -> int:
        return self.base.num_dense + 1

    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        stepped, slopes, _ = self.base.step_and_stages(field, t, y, h, solver_state, needs_dense)
        last = self._last(t, y, slopes[0], h)
        dense = None if stepped.dense is None else (*stepped.dense, last)
        return StepResult(stepped.y1 + last, None, dense, stepped.solver_state)

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        """The base's dense output; the correction grows as its error does, `theta^(p + 1)`."""
        weight = (theta ** (self.order + 1)).astype(y.dtype)
        return self.base.interpolate(theta, y, h, dense[:-1]) + weight * dense[-1]

    def _last(self, t: Array, y: Array, slope: Array, h: Array) -> Array:
        """What is added to the base's step."""
        lanes = jnp.ndim(h) == 1  # their axis is the state's last
        one = jax.vmap(self.correction, (0, -1, -1, 0), -1) if lanes else self.correction
        h = h.astype(y.dtype)
        return h ** (self.order + 1) * one(t, y, slope, h)

    def correction(self, t: Array, y: Array, slope: Array, h: Array) -> Array:
        """What the network says of the error of one step over `h^(p + 1)`, shaped like `y`."""
        seen = [y.ravel(), slope.ravel(), jnp.atleast_1d(t), jnp.atleast_1d(h)]
        found = self.network(jnp.concatenate([x.astype(y.dtype) for x in seen]))
        return found.reshape(y.shape).astype(y.dtype)


def hypersolver_loss(
    solver: HyperSolver,
    f: Callable,
    ts: Float[Array, " times"],
    ys: Float[Array, "times ..."],
    args: PyTree = None,
) -> Float[Array, ""]:
    """How far the network is from the error that the base makes over each step of a solution.

    **Arguments:**

    - `f`: the field, of `(y)`, `(t, y)` or `(t, y, args)`.
    - `ts`: the grid of steps, shape `(times,)`; `ys`: an accurate solution there, one array; for
      many samples `vmap` over it.

    **Returns:** the mean squared difference, over steps and components, between the network and
    the residual `(y(t + h) - step(y(t))) / h^(p + 1)`.

    **Raises:** `DataError` if times and states disagree.

    Source: Poli et al. (2020), arXiv 2007.09601, equation 6 (residual fitting).
    """
    _check_path(ts, ys)

    def missed(t: Array, y: Array, t1: Array, y1: Array) -> Array:
        h = t1 - t
        end, slope = _base_step(solver, f, args, t, y, h)
        residual = (y1 - end) / h ** (solver.order + 1)
        return solver.correction(t, y, slope, h) - residual

    return jnp.mean(jax.vmap(missed)(ts[:-1], ys[:-1], ts[1:], ys[1:]) ** 2)


def hypersolver_trajectory_loss(
    solver: HyperSolver,
    f: Callable,
    ts: Float[Array, " times"],
    ys: Float[Array, "times ..."],
    args: PyTree = None,
) -> Float[Array, ""]:
    """How far the solver's own steps, from `ys[0]` on, are from an accurate solution.

    Through all of its steps the network learns to make good what it missed before. It is best
    fitted to residuals first.

    **Arguments:** those of `hypersolver_loss`.

    **Returns:** the mean squared difference, over `ts[1:]` and components.

    **Raises:** `DataError` if times and states disagree.

    Source: Poli et al. (2020), arXiv 2007.09601, section 3.2 (trajectory fitting).
    """
    _check_path(ts, ys)

    def step(y: Array, span: tuple[Array, Array]) -> tuple[Array, Array]:
        t, h = span[0], span[1] - span[0]
        end, slope = _base_step(solver, f, args, t, y, h)
        y1 = end + solver._last(t, y, slope, h)
        return y1, y1

    return jnp.mean((lax.scan(step, ys[0], (ts[:-1], ts[1:]))[1] - ys[1:]) ** 2)


def _base_step(
    solver: HyperSolver, f: Callable, args: PyTree, t: Array, y: Array, h: Array
) -> tuple[Array, Array]:
    """Where a step of the base ends, and the slope it began with."""
    field = lambda t, y: call_field(f, t, y, args)  # noqa: E731
    carry = solver.base.init(field, t, y)
    stepped, slopes, _ = solver.base.step_and_stages(field, t, y, h, carry, None)
    return stepped.y1, slopes[0]


def _check_path(ts: Array, ys: Array) -> None:
    if jnp.ndim(ts) != 1 or jnp.shape(ys)[:1] != jnp.shape(ts):
        raise DataError(
            f"ts must have shape (times,) and ys (times, ...), got {jnp.shape(ts)} and "
            f"{jnp.shape(ys)}"
        )


def _zero_at_first(size: int, width: int, depth: int, key: Any) -> eqx.nn.MLP:
    network = eqx.nn.MLP(2 * size + 2, size, width, depth, jnp.tanh, key=key)
    last: Any = network.layers[-1]
    return eqx.tree_at(
        lambda n: (n.layers[-1].weight, n.layers[-1].bias),
        network,
        (jnp.zeros_like(last.weight), jnp.zeros_like(last.bias)),
    )
