"""Continuous normalizing flows: densities that an ODE transports from a base distribution."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float, PyTree

from ..integrate.solution import Solution
from ..problem.errors import DataError, FieldError, OptionError
from ..problem.field import call_field
from ..problem.times import check_time
from ..problem.validation import check_count, check_flag, check_key, python_int, shown_value
from .batch_axes import merge, merge_args, part_solution
from .batched_solve import solve_samples
from .call_arguments import with_checked_arguments
from .fields.concat_squash import ConcatSquash
from .fields.sequential import Sequential
from .solve_options import Settings, SolveOptions
from .traces import find_trace


class BaseDistribution(Protocol):
    """A distribution that can be sampled and has a known log density."""

    def log_prob(self, z: Float[Array, " size"]) -> Float[Array, ""]:
        """The log density at one point, nats."""
        ...

    def sample(self, key: Array, n: int) -> Float[Array, "n size"]:
        """Independent samples."""
        ...


class StandardNormal(eqx.Module):
    """The normal distribution in `size` dimensions with mean zero and unit covariance."""

    size: int = eqx.field(static=True, converter=python_int)

    def __check_init__(self) -> None:
        check_count("size", self.size)

    def log_prob(self, z: Float[Array, " size"]) -> Float[Array, ""]:
        """The log density at one point, nats."""
        return -0.5 * (jnp.sum(z**2) + self.size * jnp.log(2 * jnp.pi))

    def sample(self, key: Array, n: int) -> Float[Array, "n size"]:
        """Independent samples."""
        return jax.random.normal(key, (n, self.size))


class CNF(eqx.Module):
    """The density of `x(t1)` where `x` follows `field` and `x(t0)` has the density of `base`.

    State and log density are integrated together, each sample of a batch with steps of its own:
    along a trajectory the log density decreases at the rate of the field's divergence.

    **Arguments:**

    - `field`: a network or function of `(y)`, `(t, y)` or `(t, y, args)` for one sample `(size,)`.
    - `size`: features of a sample.
    - `augment`: this many dimensions of normal noise are appended to a sample; the flow of both
      can represent maps that no flow of the sample alone can. `field` and `base` are of
      `size + augment`; `log_prob` needs a key, and is a lower bound in expectation.
    - `t0`, `t1`: the times of the base and of the data.
    - `trace`: how the divergence is computed: "exact", `size` products with the Jacobian;
      "hutchinson", an unbiased estimate by one product, which needs a `key`; or an object such as
      `HutchinsonTrace("gaussian", samples=4)`.
    - `base`: an object with `log_prob(z)` of one point and `sample(key, n)`; the standard normal
      distribution if None.
    - `control_density`: whether the step size control includes the log density. If not, `rtol` and
      `atol` apply to the sample alone.
    - `solver`, `rtol`, `atol`, `dt`, `controller`, `sensitivity`, `max_steps`, `throw`,
      `progress`: as in `solve`, but `rtol` is 1e-3 by default.

    Methods take a batch `(n, size)`, of one axis or several, or one sample `(size,)`. Their `args`
    are shared by the batch, except what `args_axes` maps, as an entry of `vmap`'s `in_axes` (of
    several batch axes it names the first), for conditional densities. Their `key` is for the random
    values of a solve: the probe of a trace, or dropout. With `ts`, times between `t0` and `t1` in
    the direction of the solve, they return the trajectory at these times, with an axis of times
    after those of the batch.

    **Raises:** `OptionError` and `FieldError` for bad options; `DataError` for samples of another
    size, and what `solve` raises, when called.

    Source: Chen et al. (2018), arXiv 1806.07366; Grathwohl et al., FFJORD (2019), arXiv 1810.01367;
    `augment`: Huang, Dinh and Courville (2020), arXiv 2002.07101.
    """

    field: Callable[..., Array]
    trace: Any
    base: BaseDistribution
    size: int = eqx.field(static=True)
    augment: int = eqx.field(static=True)
    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)
    control_density: bool = eqx.field(static=True)
    settings: Settings
    batched = True

    def __init__(
        self,
        field: Callable[..., Array],
        size: int,
        *,
        augment: int = 0,
        t0: float = 0.0,
        t1: float = 1.0,
        trace: Literal["exact", "hutchinson"] | Callable = "exact",
        base: BaseDistribution | None = None,
        control_density: bool = True,
        **options: Unpack[SolveOptions],
    ) -> None:
        if not callable(field) or isinstance(field, type):
            raise FieldError(f"the field must be a callable such as a network, got {field!r}")
        size, augment = check_count("size", size), check_count("augment", augment, least=0)
        if base is not None and not (hasattr(base, "log_prob") and hasattr(base, "sample")):
            raise OptionError(f"base must have log_prob(z) and sample(key, n), got {base!r}")
        self.field, self.size, self.augment = field, size, augment
        self.trace = find_trace(trace, size + augment)
        self.base = StandardNormal(size + augment) if base is None else base
        self.t0, self.t1 = float(check_time("t0", t0)), float(check_time("t1", t1))
        self.control_density = check_flag("control_density", control_density)
        self.settings = Settings(options)

    @with_checked_arguments
    def log_prob(
        self,
        x: Float[Array, "*batch size"],
        args: PyTree = None,
        *,
        args_axes: Any = None,
        key: Array | None = None,
    ) -> Float[Array, "*batch"]:
        """The log density at each sample, nats.

        With `augment` it is a lower bound in expectation over the noise drawn by `key`. The mean of
        its exponential is the density, so the logarithm of an average over keys is tighter.
        """
        x = self._check_samples(x)
        if x.ndim == 1:
            return self.log_prob(x[None], args, key=key)[0]
        y, noise_log_density = self.append_noise(x, key)
        z, change = self.solve(y, args, args_axes=args_axes, key=key).y1
        return self._base_log_prob(z) + change - noise_log_density

    @with_checked_arguments
    def forward(
        self,
        x: Float[Array, "*batch size"],
        args: PyTree = None,
        *,
        ts: ArrayLike | None = None,
        args_axes: Any = None,
        key: Array | None = None,
    ) -> Float[Array, "*batch_times state"]:
        """Map data to the base: solve from `x` at `t1` to `t0`, or to its states at `ts`.

        With `augment` noise drawn by `key` is appended first; the result has `size + augment`
        features.
        """
        y, _ = self.append_noise(self._check_samples(x), key)
        return self._states(y, (self.t1, self.t0), ts, (args, args_axes), key)

    @with_checked_arguments
    def inverse(
        self,
        z: Float[Array, "*batch state"],
        args: PyTree = None,
        *,
        ts: ArrayLike | None = None,
        args_axes: Any = None,
        key: Array | None = None,
    ) -> Float[Array, "*batch_times size"]:
        """Map the base to data: solve from `z` at `t0` to `t1`, or to its states at `ts`.

        With `augment` `z` has `size + augment` features, the result those of the sample alone.
        """
        z = self._check_samples(z, self.augment)
        states = self._states(z, (self.t0, self.t1), ts, (args, args_axes), key)
        return states[..., : self.size]

    @with_checked_arguments
    def sample(
        self,
        key: Array,
        n: int,
        args: PyTree = None,
        *,
        ts: ArrayLike | None = None,
        args_axes: Any = None,
    ) -> Float[Array, "n *times size"]:
        """Draw independent samples, or their trajectories at `ts`; no divergence is computed."""
        base_key, key = jax.random.split(check_key(key))
        z = self.base.sample(base_key, n)
        return self.inverse(z, args, ts=ts, args_axes=args_axes, key=key)

    @with_checked_arguments
    def sample_and_log_prob(
        self, key: Array, n: int, args: PyTree = None, *, args_axes: Any = None
    ) -> tuple[Float[Array, "n size"], Float[Array, " n"]]:
        """Draw independent samples with their log densities, by one solve.

        **Raises:** `OptionError` with `augment`: then only a bound of the density is known.
        """
        if self.augment:
            raise OptionError(
                "with augment= only a bound of a sample's density is known: call sample(), "
                "then log_prob()"
            )
        base_key, key = jax.random.split(check_key(key))
        z = self._check_samples(self.base.sample(base_key, n))
        ends = self.solve(z, args, args_axes=args_axes, key=key, from_base=True).y1
        return ends[0], self._base_log_prob(z) - ends[1]

    @with_checked_arguments
    def solve(
        self,
        x: Float[Array, "*batch state"],
        args: PyTree = None,
        *,
        ts: ArrayLike | None = None,
        args_axes: Any = None,
        key: Array | None = None,
        from_base: bool = False,
    ) -> Solution:
        """The `Solution` from data at `t1` to `t0`, or if `from_base` from the base to data.

        The state is a pair: the sample, and the integral of the divergence in the direction of the
        solve, `(n,)`. So `log_prob(x)` is the base's at the end plus this integral. With `augment`
        `x` has the appended dimensions already, shape `(n, size + augment)`. `ys` has the states at
        `ts`, by default at both ends.
        """
        x = self._check_samples(x, self.augment)
        if x.ndim < 2:
            raise DataError(f"x must be a batch (n, {self.size + self.augment}), got {x.shape}")
        span = (self.t0, self.t1) if from_base else (self.t1, self.t0)
        settings = self.settings
        if not self.control_density:
            settings = eqx.tree_at(lambda s: s.atol, settings, (settings.atol, jnp.inf))
        field = _WithDivergence(self.field, self.trace)
        y0 = x, jnp.zeros(x.shape[:-1], x.dtype)
        return self._solve(field, y0, span, ts, (args, args_axes), settings, key)

    def _states(
        self,
        y0: Array,
        span: tuple[float, float],
        ts: Any,
        mapped: tuple[PyTree, Any],
        key: Array | None,
    ) -> Array:
        """The states at the end of `span`, or at `ts` if there are any."""
        solution = self._solve(self.field, y0, span, ts, mapped, self.settings, key)
        return solution.y1 if ts is None else solution.ys

    def _solve(
        self,
        field: Callable,
        y0: PyTree,
        span: tuple[float, float],
        ts: Any,
        mapped: tuple[PyTree, Any],
        settings: Settings,
        key: Array | None,
    ) -> Solution:
        """Solve over `span` from each state of a batch, or from one, saved at `ts`."""
        batch, (args, args_axes) = jax.tree.leaves(y0)[0].shape[:-1], mapped
        if len(batch) > 1:
            y0 = jax.tree.map(lambda x: merge(x, len(batch)), y0)
            args = merge_args(args, args_axes, batch)
        axes = (0, None, args_axes) if batch else None
        ends: Any = {} if ts is None else {"t0": span[0], "t1": span[1]}
        times = span if ts is None else ts
        solution = solve_samples(field, y0, times, args, settings, in_axes=axes, key=key, **ends)
        return part_solution(solution, batch, False) if len(batch) > 1 else solution

    def _base_log_prob(self, z: Float[Array, "*batch state"]) -> Float[Array, "*batch"]:
        return jnp.vectorize(self.base.log_prob, signature="(size)->()")(z)

    def append_noise(self, x: Array, key: Array | None) -> tuple[Array, Array | float]:
        """Append the `augment` dimensions of noise, and return their log density too.

        **Raises:** `OptionError` without a key, if `augment` is positive.
        """
        if not self.augment:
            return x, 0.0
        if key is None:
            raise OptionError("a CNF with augment= appends random noise: give it a key=")
        noise = jax.random.normal(
            jax.random.fold_in(key, 0), (*x.shape[:-1], self.augment), x.dtype
        )
        log_density = jnp.sum(jax.scipy.stats.norm.logpdf(noise), -1)
        return jnp.concatenate([x, noise], -1), log_density

    def _check_samples(self, x: Any, extra: int = 0) -> Array:
        if not isinstance(x, Array) and not hasattr(x, "__array__"):
            raise DataError(f"x must be an array of samples, got {type(x).__name__}")
        x, size = jnp.asarray(x), self.size + extra
        if x.ndim == 0 or x.shape[-1] != size or x.size == 0:
            raise DataError(
                f"x must be a batch (n, {size}) or one sample ({size},), got shape {x.shape}"
            )
        return x


class FFJORD(CNF):
    """A `CNF` whose field is a network of `ConcatSquash` layers with hyperbolic tangents between.

    **Arguments:**

    - `size`: features of a sample. `widths`: of the hidden layers.
    - `key`: of the weights. The others are as in `CNF`.

    **Raises:** what `CNF` raises.

    Source: Grathwohl et al., FFJORD (2019), arXiv 1810.01367.
    """

    def __init__(
        self,
        size: int,
        widths: Sequence[int] = (64, 64, 64),
        *,
        augment: int = 0,
        key: Array,
        **options: Any,
    ) -> None:
        size, augment = check_count("size", size), check_count("augment", augment, least=0)
        if not isinstance(widths, list | tuple) or not widths:
            raise OptionError(f"widths must be the sizes of layers, got {shown_value(widths)}")
        hidden_sizes = [check_count("each of widths", width) for width in widths]
        sizes = [size + augment, *hidden_sizes, size + augment]
        layers: list[Any] = []
        keys = jax.random.split(check_key(key), len(sizes) - 1)
        for size_in, size_out, layer_key in zip(sizes[:-1], sizes[1:], keys, strict=True):
            layers += [ConcatSquash(size_in, size_out, key=layer_key), jnp.tanh]
        super().__init__(Sequential(layers[:-1]), size, augment=augment, **options)


class _WithDivergence(eqx.Module):
    """The field of a pair: the state, and the integral of the divergence along it."""

    field: Callable[..., Array]
    trace: Any

    def __call__(self, t: Array, state: tuple[Array, Array], args: PyTree) -> tuple[Array, Array]:
        return self.trace(lambda y: call_field(self.field, t, y, args), state[0])


def negative_log_likelihood(
    model: CNF, x: Float[Array, "*batch size"], key: Array | None = None
) -> Float[Array, ""]:
    """The mean of `-log_prob`, nats: a loss for `fit`, whose data are the samples `x`."""
    return -jnp.mean(model.log_prob(x, key=key))
