"""Latent ODEs: variational autoencoders of irregular series with an ODE as the latent dynamics."""

from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, Int

from ..drivers.options import failure_advice
from ..integrate.solution import Solution, raise_on_failure
from ..problem.errors import FieldError, OptionError, StateError, TimesError
from ..problem.times import check_time
from ..problem.validation import (
    check_count,
    check_counts,
    check_key,
    check_name,
    real_array,
    shown_value,
)
from .batch_axes import over_batch_axes
from .batched_solve import solve_samples
from .call_arguments import check_noise, with_checked_arguments
from .encoders import Encoder, ODERNNEncoder, RNNEncoder
from .networks import cast, check_field_or_none, field_or_mlp
from .normal import kl_to_standard_normal, normal_log_density
from .recurrent_solve import raise_on_failed_solve
from .series import Series, prepare_series, prepare_times
from .solve_options import Settings, SolveOptions, run_with_settings

# The arguments `ts`, `xs`, `mask` and `lengths` of all methods are those of `prepare_series`.
Ts = Float[ArrayLike, "*batch n"]
Xs = Float[ArrayLike, "batch n channels"]
Lengths = Int[ArrayLike, " batch"]


class LatentODE(eqx.Module):
    """A variational autoencoder of series: an encoder to a latent state, an ODE, and a decoder.

    Series are given as `ts` (times, shape `(n,)` or `(batch, n)`), `xs` (values, shape
    `(batch, n, channels)`), and optionally `mask` (True where observed; without it NaN is
    missing) and `lengths` (places of each sample). Each sample takes steps of its own, and there
    may be several batch axes.

    **Arguments:**

    - `channels`: of a series. `latent`: size of the latent state. `hidden`: of the encoder's state.
    - `encoder`: "rnn" (a GRU), "ode_rnn", or an object such as `RNNEncoder(..., cell="tanh")`.
    - `field`: a network or function of `(z)` or `(t, z)` for one latent state with its augmented
      zeros; if None an MLP with `depth` hidden layers of `width` and ELU.
    - `decoder`: a network or function from a latent state with its augmented dimensions to the
      channels; if None an MLP with one hidden layer of `width` and ReLU.
    - `augment`: this many zeros are appended to the latent state before the solve.
    - `t0`: the time of the latent state; by default each sample's first time.
    - `key`: for the weights.
    - `solver` and the other options of `solve`, which an encoder "ode_rnn" takes as well; `rtol` is
      1e-3 by default.

    **Raises:** `OptionError` and `FieldError` for bad options; calls raise `DataError` and
    `TimesError` for bad series, and what `solve` raises.

    Source: Chen et al. (2018), arXiv 1806.07366; Rubanova et al. (2019), arXiv 1907.03907.
    """

    encoder: Encoder
    field: Callable[..., Array]
    decoder: Callable[[Array], Array]
    settings: Settings
    channels: int = eqx.field(static=True)
    latent: int = eqx.field(static=True)
    augment: int = eqx.field(static=True)
    t0: float | None = eqx.field(static=True)
    batched = True

    def __init__(
        self,
        channels: int,
        latent: int,
        hidden: int = 25,
        *,
        encoder: str | Encoder = "rnn",
        field: Callable[..., Array] | None = None,
        decoder: Callable[[Array], Array] | None = None,
        width: int = 20,
        depth: int = 2,
        augment: int = 0,
        t0: float | None = None,
        key: Array,
        **options: Unpack[SolveOptions],
    ) -> None:
        channels, latent, hidden, width, depth = check_counts(
            channels=channels, latent=latent, hidden=hidden, width=width, depth=depth
        )
        augment = check_count("augment", augment, least=0)
        if t0 is not None:
            t0 = float(check_time("t0", t0))
        check_field_or_none(field)
        if decoder is not None and (not callable(decoder) or isinstance(decoder, type)):
            raise FieldError(f"decoder must be a callable, got {shown_value(decoder)}")
        _check_encoder(encoder)
        keys = jax.random.split(check_key(key), 3)
        size = latent + augment
        self.encoder = _find_encoder(encoder, channels, latent, hidden, keys[0], options)
        self.field = field_or_mlp(field, size, width, depth, jax.nn.elu, keys[1])
        if decoder is None:
            decoder = eqx.nn.MLP(size, channels, width, 1, jax.nn.relu, key=keys[2])
        self.decoder = decoder
        self.settings = Settings(options)
        self.channels, self.latent, self.augment = channels, latent, augment
        self.t0 = t0

    def __call__(
        self,
        ts: Ts,
        xs: Xs,
        times: Float[ArrayLike, "*batch m"] | None = None,
        mask: ArrayLike | None = None,
        lengths: Lengths | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "batch m channels"]:
        """`predict`, or `reconstruct` where no `times` are given."""
        if times is None:
            return self.reconstruct(ts, xs, mask, lengths, key=key)
        return self.predict(ts, xs, times, mask, lengths, key=key)

    @over_batch_axes("xs")
    def encode(
        self,
        ts: Ts,
        xs: Xs,
        mask: ArrayLike | None = None,
        lengths: Lengths | None = None,
        *,
        key: Array | None = None,
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log variance of each sample's latent state at `t0`."""
        series = self._series(ts, xs, mask, lengths)
        mean, log_variance, encoder_status = run_with_settings(_encode, self, series, key)
        self._raise_on_failure(encoder_status)
        return mean, log_variance

    @over_batch_axes("z0")
    def decode(
        self,
        z0: Float[ArrayLike, "batch latent"],
        times: Float[ArrayLike, "*batch m"],
        t0: Float[ArrayLike, "*batch"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "batch m channels"]:
        """The decoded values at `times` of the trajectories that start from `z0` at `t0`.

        `times` need no order and may lie before `t0`, which is by default the model's, and if it
        has none the first of `times`.
        """
        z0 = self._check_latent(z0, self.latent)
        times = prepare_times(times, z0.shape[0], z0.dtype)
        t0 = self._initial_time(times) if t0 is None else _per_sample(t0, times)
        xs, solutions = run_with_settings(_decode, self, z0, t0, times, key)
        self._raise_on_failure(None, *solutions)
        return xs

    @over_batch_axes("xs")
    def predict(
        self,
        ts: Ts,
        xs: Xs,
        times: Float[ArrayLike, "*batch m"],
        mask: ArrayLike | None = None,
        lengths: Lengths | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "batch m channels"]:
        """The values at `times`, within, after or before the series, from the mean latent state.

        `times` are those of all samples or per sample, in any order.
        """
        series = self._series(ts, xs, mask, lengths)
        times = prepare_times(times, series.ts.shape[0], series.ts.dtype)
        return self._values_at(series, times, key)

    @over_batch_axes("xs")
    def reconstruct(
        self,
        ts: Ts,
        xs: Xs,
        mask: ArrayLike | None = None,
        lengths: Lengths | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "batch n channels"]:
        """The values at the places of the series, from the mean latent state.

        After a sample's length its last value is repeated.
        """
        series = self._series(ts, xs, mask, lengths)
        return self._values_at(series, series.ts, key)

    @over_batch_axes("xs")
    def impute(
        self,
        ts: Ts,
        xs: Xs,
        mask: ArrayLike | None = None,
        lengths: Lengths | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "batch n channels"]:
        """The series with its missing values replaced by those of `reconstruct`."""
        series = self._series(ts, xs, mask, lengths)
        return jnp.where(series.mask, series.xs, self._values_at(series, series.ts, key))

    @with_checked_arguments
    def sample(
        self, key: Array, n: int, times: Float[ArrayLike, "*n m"]
    ) -> Float[Array, "n m channels"]:
        """`n` series at `times`, from latent states drawn from the standard normal prior.

        They start at the model's `t0`, and if it has none at the first of `times`.
        """
        state_key, solve_key = jax.random.split(check_key(key))
        z0 = jax.random.normal(state_key, (n, self.latent), jnp.result_type(float, *_floats(times)))
        return self.decode(z0, times, key=solve_key)

    @over_batch_axes("xs")
    def elbo(
        self,
        ts: Ts,
        xs: Xs,
        mask: ArrayLike | None = None,
        lengths: Lengths | None = None,
        *,
        key: Array,
        noise: ArrayLike = 0.3,
        kl_weight: ArrayLike = 1.0,
    ) -> Float[Array, " batch"]:
        """The evidence lower bound of each sample, nats, from one draw of its latent state.

        The log likelihood of the observations, normal with standard deviation `noise`, less
        `kl_weight` times the Kullback-Leibler divergence of the latent state from its prior.
        """
        check_noise(noise, self.channels)
        series, key = self._series(ts, xs, mask, lengths), check_key(key)
        bounds, encoder_status, solutions = run_with_settings(
            _elbo, self, series, noise, kl_weight, key
        )
        self._raise_on_failure(encoder_status, *solutions)
        return bounds

    def elbo_loss(
        self,
        ts: Ts,
        xs: Xs,
        mask: ArrayLike | None = None,
        lengths: Lengths | None = None,
        *,
        key: Array,
        noise: ArrayLike = 0.3,
        kl_weight: ArrayLike = 1.0,
    ) -> Float[Array, ""]:
        """The negative of `elbo`, averaged over the samples: the loss to minimise."""
        bounds = self.elbo(ts, xs, mask, lengths, key=key, noise=noise, kl_weight=kl_weight)
        return -jnp.mean(bounds)

    @over_batch_axes("z")
    def inverse(
        self,
        z: Float[ArrayLike, "batch size"],
        t: Float[ArrayLike, "*batch"],
        t0: Float[ArrayLike, "*batch"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "batch size"]:
        """The latent state at `t0` that leads to `z` at `t`, both with their augmented dimensions.

        Encoder and decoder have no inverse: only the ODE is solved backwards.
        """
        if t0 is None and self.t0 is None:
            raise OptionError("the model has no t0 of its own: say which, inverse(z, t, t0)")
        z = self._check_latent(z, self.latent + self.augment)
        spans = jnp.stack([_per_sample(x, z) for x in (t, self.t0 if t0 is None else t0)], -1)
        solution = run_with_settings(LatentODE.solve_latent, self, z, spans, key)
        self._raise_on_failure(None, solution)
        return solution.y1

    def solve_latent(self, z0: Array, ts: Array, key: Array | None = None) -> Solution:
        """Solve for the latent trajectories from `z0`, zeros already appended, at monotone `ts`."""
        field = cast(self.field, z0.dtype)
        return solve_samples(field, z0, ts, None, self.settings, in_axes=(0, 0, None), key=key)

    def _series(self, ts: Any, xs: Any, mask: Any, lengths: Any) -> Series:
        return prepare_series(ts, xs, mask, lengths, least=1, channels=self.channels)

    def _values_at(self, series: Series, times: Array, key: Array | None) -> Array:
        """The values at `times`, from the mean latent state."""
        out, encoder_status, solutions = run_with_settings(_predict, self, series, times, key)
        self._raise_on_failure(encoder_status, *solutions)
        return out

    def _check_latent(self, z: Any, size: int) -> Array:
        if np.ndim(z) != 2 or np.shape(z)[1] != size:
            raise StateError(f"latent states must have shape (batch, {size}), got {np.shape(z)}")
        z = jnp.asarray(z)
        return z if jnp.issubdtype(z.dtype, jnp.floating) else z.astype(jnp.result_type(float))

    def _initial_time(self, ts: Array) -> Array:
        return ts[:, 0] if self.t0 is None else jnp.full(ts.shape[:1], self.t0, ts.dtype)

    def _raise_on_failure(self, encoder_status: Array | None, *solutions: Solution) -> None:
        if encoder_status is not None:
            raise_on_failed_solve(encoder_status, self.settings)
        for solution in solutions:
            if self.settings.throw:
                raise_on_failure(solution, failure_advice(self.settings.sensitivity))


def _encode(model: LatentODE, series: Series, key: Array | None) -> Any:
    return model.encoder(series, model._initial_time(series.ts), key)


def _decode(model: LatentODE, z0: Array, t0: Array, times: Array, key: Array | None) -> Any:
    """The values at `times`, and the two solves from `t0`, forwards and backwards in time."""
    zeros = jnp.zeros((z0.shape[0], model.augment), z0.dtype)
    z0, t0 = jnp.concatenate([z0, zeros], 1), t0[:, None]
    order = jnp.argsort(times, axis=1)
    ts = jnp.take_along_axis(times, order, 1)
    forwards = model.solve_latent(z0, jnp.concatenate([t0, jnp.maximum(ts, t0)], 1), key)
    backwards = model.solve_latent(z0, jnp.concatenate([t0, jnp.minimum(ts, t0)[:, ::-1]], 1), key)
    zs = jnp.where((ts >= t0)[..., None], forwards.ys[:, 1:], backwards.ys[:, :0:-1])
    zs = jnp.take_along_axis(zs, jnp.argsort(order, 1)[..., None], 1)
    return _decode_states(model, zs), (forwards, backwards)


def _decode_states(model: LatentODE, zs: Array) -> Array:
    """Decode latent states of shape `(batch, m, size)`."""
    decoder = cast(model.decoder, zs.dtype)
    return jax.vmap(jax.vmap(decoder))(zs)


def _predict(model: LatentODE, series: Series, times: Array, key: Array | None) -> Any:
    mean, _, encoder_status = _encode(model, series, key)
    out, solutions = _decode(model, mean, model._initial_time(series.ts), times, key)
    return out, encoder_status, solutions


def _elbo(
    model: LatentODE, series: Series, noise: ArrayLike, kl_weight: ArrayLike, key: Array
) -> Any:
    state_key, solve_key = jax.random.split(key)
    mean, log_variance, encoder_status = _encode(model, series, solve_key)
    z0 = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(state_key, mean.shape, mean.dtype)
    if model.t0 is None:  # then no observation precedes the latent state
        zeros = jnp.zeros((z0.shape[0], model.augment), z0.dtype)
        ts = jnp.concatenate([series.ts[:, :1], series.ts], 1)
        solutions = (model.solve_latent(jnp.concatenate([z0, zeros], 1), ts, solve_key),)
        xs = _decode_states(model, solutions[0].ys[:, 1:])
    else:
        xs, solutions = _decode(model, z0, model._initial_time(series.ts), series.ts, solve_key)
    noise = jnp.asarray(noise, xs.dtype)
    likelihood = normal_log_density(series.xs, xs, 2 * jnp.log(noise))
    likelihood = jnp.sum(jnp.where(series.mask, likelihood, 0), (1, 2))
    divergence = jnp.sum(kl_to_standard_normal(mean, log_variance), -1)
    return likelihood - jnp.asarray(kl_weight, xs.dtype) * divergence, encoder_status, solutions


def _per_sample(t: Any, like: Array) -> Array:
    if np.shape(t) not in ((), like.shape[:1]):
        raise TimesError(f"a time must have shape () or {like.shape[:1]}, got {np.shape(t)}")
    return jnp.broadcast_to(jnp.asarray(t, like.dtype), like.shape[:1])


def _floats(x: Any) -> tuple[Any, ...]:
    dtype = jnp.result_type(real_array("times", x, TimesError))
    return (dtype,) if jnp.issubdtype(dtype, jnp.floating) else ()


def _find_encoder(
    encoder: str | Encoder, channels: int, latent: int, hidden: int, key: Array, options: Any
) -> Encoder:
    if not isinstance(encoder, str):
        return encoder
    if encoder == "rnn":
        return RNNEncoder(channels, latent, hidden, key=key)
    return ODERNNEncoder(channels, latent, hidden, key=key, **options)


def _check_encoder(encoder: Any) -> None:
    if isinstance(encoder, str):
        check_name("encoder", encoder, ("rnn", "ode_rnn"))
    elif not callable(encoder) or isinstance(encoder, type):
        raise OptionError(
            f"encoder must be a name or an encoder such as RNNEncoder, got {shown_value(encoder)}"
        )
