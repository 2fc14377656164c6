"""Hypersolvers: fixed-step solvers corrected by a network that has learned their local error."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, PyTree

from ..problem.errors import DataError, FieldError, OptionError
from ..problem.field import Field, call_field
from ..problem.validation import check_count, check_counts, check_key, check_name, shown_value
from ..solvers.base import EvaluationCounts, Solver, StepResult
from ..solvers.explicit.low_order import RK4, Euler, Midpoint
from ..solvers.explicit.runge_kutta import ExplicitRungeKutta

_BASES: dict[str, type[ExplicitRungeKutta]] = {"euler": Euler, "midpoint": Midpoint, "rk4": RK4}


class HyperSolver(Solver):
    """A fixed-step solver that adds to each step of `base` `h^(p + 1)` times a network's output.

    It is used as any solver: `solve(..., solver=HyperSolver(...), dt=0.1)`. Gradients of a solve do
    not reach its network; train that by `hypersolver_loss`, then `hypersolver_trajectory_loss`.

    **Arguments:**

    - `size`: of one sample's flattened state (a normalizing flow has one component more).
    - `base`: "euler", "midpoint" or "rk4", of order `p`.
    - `network`: maps `(2 size + 2,)`, the state, its slope, `t` and `h`, to `(size,)`; by default
      an MLP of `width` and `depth` with tanh, whose last layer is zero, so an
      untrained one equals `base`.
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
        check_name("base", base, _BASES)
        sizes = {"size": size, "width": width}
        size, width = check_counts("HyperSolver", **sizes)
        depth = check_count("HyperSolver: depth", depth, 0)
        if network is not None and (not callable(network) or isinstance(network, type)):
            raise FieldError(f"network must be a callable, got {shown_value(network)}")
        if network is None and key is None:
            raise OptionError("a hypersolver needs a network, or a key=jax.random.key(...) for one")
        if key is not None:
            check_key(key)
        self.base = _BASES[base]()
        self.network = (
            _zero_initialised_mlp(size, width, depth, key) if network is None else network
        )

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
        result, slopes, _ = self.base.step_and_stages(field, t, y, h, solver_state, needs_dense)
        correction = self._correction_term(t, y, slopes[0], h)
        dense = None if result.dense is None else (*result.dense, correction)
        return StepResult(result.y1 + correction, None, dense, result.solver_state)

    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        """The base's dense output; the correction grows as its error does, `theta^(p + 1)`."""
        weight = (theta ** (self.order + 1)).astype(y.dtype)
        return self.base.interpolate(theta, y, h, dense[:-1]) + weight * dense[-1]

    def _correction_term(self, t: Array, y: Array, slope: Array, h: Array) -> Array:
        """The correction added to the base's step, `h^(p + 1)` times the network's output."""
        batched = jnp.ndim(h) == 1  # the lane axis is the state's last
        correction = jax.vmap(self.correction, (0, -1, -1, 0), -1) if batched else self.correction
        h = h.astype(y.dtype)
        return h ** (self.order + 1) * correction(t, y, slope, h)

    def correction(self, t: Array, y: Array, slope: Array, h: Array) -> Array:
        """The network's estimate of the local error over `h^(p + 1)`, shaped like `y`."""
        inputs = [y.ravel(), slope.ravel(), jnp.atleast_1d(t), jnp.atleast_1d(h)]
        output = self.network(jnp.concatenate([x.astype(y.dtype) for x in inputs]))
        return output.reshape(y.shape).astype(y.dtype)


def hypersolver_loss(
    solver: HyperSolver,
    f: Callable,
    ts: Float[Array, " times"],
    ys: Float[Array, "times ..."],
    args: PyTree = None,
) -> Float[Array, ""]:
    """The mean squared error of the network as an estimate of the base's local errors.

    **Arguments:**

    - `f`: the field, of `(y)`, `(t, y)` or `(t, y, args)`.
    - `ts`: the grid of steps, shape `(times,)`; `ys`: an accurate solution there, one array; for
      many samples `vmap` over it.

    **Returns:** the mean squared difference, over steps and components, between the network and
    the residual `(y(t + h) - step(y(t))) / h^(p + 1)`.

    **Raises:** `DataError` if times and states disagree.

    Source: Poli et al. (2020), arXiv 2007.09601, equation 6 (residual fitting).
    """
    _check_solution(ts, ys)

    def residual_error(t: Array, y: Array, t1: Array, y1: Array) -> Array:
        h = t1 - t
        end, slope = _base_step_and_slope(solver, f, args, t, y, h)
        residual = (y1 - end) / h ** (solver.order + 1)
        return solver.correction(t, y, slope, h) - residual

    return jnp.mean(jax.vmap(residual_error)(ts[:-1], ys[:-1], ts[1:], ys[1:]) ** 2)


def hypersolver_trajectory_loss(
    solver: HyperSolver,
    f: Callable,
    ts: Float[Array, " times"],
    ys: Float[Array, "times ..."],
    args: PyTree = None,
) -> Float[Array, ""]:
    """The mean squared global error of the solver's steps from `ys[0]`.

    The gradient passes through all steps, so the network learns to correct earlier errors. It is
    best fitted by `hypersolver_loss` first.

    **Arguments:** those of `hypersolver_loss`.

    **Returns:** the mean squared difference, over `ts[1:]` and components.

    **Raises:** `DataError` if times and states disagree.

    Source: Poli et al. (2020), arXiv 2007.09601, section 3.2 (trajectory fitting).
    """
    _check_solution(ts, ys)

    def step(y: Array, span: tuple[Array, Array]) -> tuple[Array, Array]:
        t, h = span[0], span[1] - span[0]
        end, slope = _base_step_and_slope(solver, f, args, t, y, h)
        y1 = end + solver._correction_term(t, y, slope, h)
        return y1, y1

    return jnp.mean((lax.scan(step, ys[0], (ts[:-1], ts[1:]))[1] - ys[1:]) ** 2)


def _base_step_and_slope(
    solver: HyperSolver, f: Callable, args: PyTree, t: Array, y: Array, h: Array
) -> tuple[Array, Array]:
    """The end of a step of the base, and the field at its start."""
    field = lambda t, y: call_field(f, t, y, args)  # noqa: E731
    solver_state = solver.base.init(field, t, y)
    result, slopes, _ = solver.base.step_and_stages(field, t, y, h, solver_state, None)
    return result.y1, slopes[0]


def _check_solution(ts: Array, ys: Array) -> None:
    if jnp.ndim(ts) != 1 or jnp.shape(ys)[:1] != jnp.shape(ts):
        raise DataError(
            f"ts must have shape (times,) and ys (times, ...), got {jnp.shape(ts)} and "
            f"{jnp.shape(ys)}"
        )


def _zero_initialised_mlp(size: int, width: int, depth: int, key: Any) -> eqx.nn.MLP:
    network = eqx.nn.MLP(2 * size + 2, size, width, depth, jnp.tanh, key=key)
    last: Any = network.layers[-1]
    return eqx.tree_at(
        lambda n: (n.layers[-1].weight, n.layers[-1].bias),
        network,
        (jnp.zeros_like(last.weight), jnp.zeros_like(last.bias)),
    )
