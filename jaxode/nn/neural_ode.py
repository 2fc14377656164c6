"""The neural ODE: a vector field solved from t0 to t1 as one layer."""

from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float, PyTree

from ..integrate.solution import Solution
from ..problem.errors import DataError, FieldError, OptionError
from ..problem.state import is_traced
from ..problem.times import check_time
from ..problem.validation import check_count, shown_value
from .batch_axes import count_batch_axes, merge, merge_args, num_axes, part_solution
from .batched_solve import solve_samples
from .call_arguments import with_checked_arguments
from .fields.second_order import HigherOrder
from .integral_loss import WithIntegral
from .solve_options import Settings, SolveOptions


class NeuralODE(eqx.Module):
    """Maps `x` to the state at `t1` of the ODE that starts at `x` and follows `field`.

    **Arguments:**

    - `field`: a network or function of `(y)`, `(t, y)` or `(t, y, args)` for one sample, such as
      those of `jo.nn`; its output has the shape of `y`. Each sample of a batch takes steps of its
      own.
    - `t0`, `t1`: the span of time, the depth of the layer: numbers, or scalar arrays of floats,
      which are parameters of the model and so are learned.
    - `augment`: this many zeros are appended to the first axis of each sample (its features or
      channels) before the solve; `field` acts on the longer sample, and outputs have the added
      features too, so a loss such as the cross entropy sees them all.
    - `order`: of the ODE. A sample is then the value and its `order - 1` derivatives, one after the
      other along its first axis, and `field` returns the highest derivative, as in `HigherOrder`.
    - `integral_loss`: a function like `field`, or of `(t, y, args, slope)` with the value of
      `field`, that returns a scalar, whose integral along the trajectory is solved for beside the
      state, under the same tolerances. The states of `solve` are then pairs of state and integral,
      and `fit` adds the mean of the integrals to a loss by name.
    - `solver`, `rtol`, `atol`, `dt`, `controller`, `sensitivity`, `max_steps`, `throw`,
      `progress`: as in `solve`, but `rtol` is 1e-3 by default.

    **Raises:** `OptionError` and `FieldError` for bad options; what `solve` raises when called.

    Source: Chen et al., Neural ordinary differential equations (2018), arXiv 1806.07366;
    augmentation: Dupont et al. (2019), arXiv 1904.01681; order and integral loss: Massaroli et al.,
    Dissecting neural ODEs (2020), arXiv 2002.08071.
    """

    field: Callable[..., Array]
    t0: float | Array
    t1: float | Array
    augment: int = eqx.field(static=True)
    integral_loss: Callable[..., Array] | None
    settings: Settings
    batched = True
    # `fit` and `plotting.flow` then call `solve`, whose end state `y1` is the prediction.
    flow_map = True

    def __init__(
        self,
        field: Callable[..., Array],
        *,
        t0: float | Array = 0.0,
        t1: float | Array = 1.0,
        augment: int = 0,
        order: int = 1,
        integral_loss: Callable[..., Array] | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        if not callable(field) or isinstance(field, type):
            raise FieldError(
                f"the field must be a callable such as an eqx.nn.MLP instance, got {field!r}"
            )
        has_cost = integral_loss is not None
        if has_cost and (not callable(integral_loss) or isinstance(integral_loss, type)):
            raise OptionError(
                "integral_loss must be a function of (y), (t, y), (t, y, args) or (t, y, args, "
                f"slope), got {shown_value(integral_loss)}"
            )
        order = check_count("order", order)
        self.field = field if order == 1 else HigherOrder(field, order)
        self.t0, self.t1 = _number_or_parameter("t0", t0), _number_or_parameter("t1", t1)
        self.augment = check_count("augment", augment, least=0)
        self.integral_loss = integral_loss
        self.settings = Settings(options)

    @with_checked_arguments
    def __call__(
        self,
        x: Float[Array, "*batch features"],
        ts: Float[Array, "*batch times"] | None = None,
        args: PyTree = None,
        *,
        args_axes: Any = None,
        key: Array | None = None,
    ) -> Float[Array, "*batch_times features"]:
        """The state at `t1`, shaped like `x` with the augmented features.

        `x` is one sample if it has one axis, else a batch along the first, or along as many axes as
        the field does not take: an MLP takes features alone, a convolution images. With `ts` the
        result is the trajectory at these times, shape `(batch, times, ...)`; `ts[0]` is the time of
        `x`. Times of shape `(batch, times)` are per sample, and a shorter series repeats its last
        time. `args` are shared by the batch, except what `args_axes` maps, as an entry of `vmap`'s
        `in_axes`; of several batch axes it names the first. `key` is for the random values that the
        field draws once per solve, such as dropout.
        """
        solution = self.solve(x, ts, args, args_axes=args_axes, key=key)
        found = solution.y1 if ts is None else solution.ys
        return found if self.integral_loss is None else found[0]

    @with_checked_arguments
    def solve(
        self,
        x: Array,
        ts: ArrayLike | None = None,
        args: PyTree = None,
        *,
        args_axes: Any = None,
        key: Array | None = None,
    ) -> Solution:
        """The `Solution` from `x`, with `ys`, `stats` and `status`.

        `ys` is shaped as in a call, that of a batch `(batch, times, ...)`; of a batch `stats` and
        `status` have its axes. With `integral_loss` `ys` and `y1` are pairs of states and
        integrals.
        """
        times = (self.t0, self.t1) if ts is None else ts
        mapped = args, args_axes, self.augment
        return self._solve(_check_sample(x), times, mapped, self.integral_loss, key)

    @with_checked_arguments
    def inverse(
        self, y1: Array, args: PyTree = None, *, args_axes: Any = None, key: Array | None = None
    ) -> Array:
        """The state at `t0` that leads to `y1` at `t1`, by a solve backwards in time.

        `y1` and the result have the augmented features.
        """
        times, mapped = (self.t1, self.t0), (args, args_axes, 0)
        return self._solve(_check_sample(y1), times, mapped, None, key).y1

    def _solve(
        self, x: Array, ts: Any, mapped: tuple[PyTree, Any, int], cost: Any, key: Array | None
    ) -> Solution:
        args, args_axes, augment = mapped
        count = count_batch_axes(self.field, x, *mapped)
        batch, own_times = x.shape[:count], count > 0 and num_axes(ts) == count + 1
        if count > 1:
            x, args = merge(x, count), merge_args(args, args_axes, batch)
            ts = merge(ts, count) if own_times else ts
        y0, field = _append_zeros(x, min(1, count), augment), self.field
        if cost is not None:
            start = jnp.zeros(x.shape[: min(1, count)], jnp.real(x).dtype)
            field, y0 = WithIntegral(field, cost), (y0, start)
        axes = (0, 0 if own_times else None, args_axes) if count else None
        try:
            solution = solve_samples(field, y0, ts, args, self.settings, in_axes=axes, key=key)
        except FieldError as error:
            error.add_note(
                f"NeuralODE: each sample has {x.shape[min(1, count)] + augment} features, of which "
                f"augment={self.augment} are added; the field must take and return as many"
            )
            raise
        return part_solution(solution, batch, own_times) if count > 1 else solution


def _number_or_parameter(name: str, t: Any) -> float | Array:
    """A time: an array of floats or a traced one as it is, else a number of Python.

    **Raises:** `TimesError`.
    """
    check_time(name, t)
    if isinstance(t, Array) and jnp.issubdtype(t.dtype, jnp.floating):
        return t
    return jnp.asarray(t, jnp.result_type(float)) if is_traced(t) else float(t)


def _append_zeros(x: Array, axis: int, count: int) -> Array:
    if not count:
        return x
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return jnp.concatenate([x, jnp.zeros(shape, x.dtype)], axis)


def _check_sample(x: Any) -> Array:
    if not isinstance(x, Array) and not hasattr(x, "__array__"):
        raise DataError(f"x must be an array of samples, got {type(x).__name__}")
    x = jnp.asarray(x)
    if x.ndim == 0 or x.size == 0:
        raise DataError(f"x must be a sample (features,) or a batch, got shape {x.shape}")
    return x
