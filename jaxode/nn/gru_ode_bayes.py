"""GRU-ODE-Bayes: a filter whose hidden state follows an ODE and jumps at observations."""

from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float, Int

from ..problem.validation import check_counts, check_key
from .batch_axes import over_batch_axes
from .call_arguments import check_noise
from .networks import cast
from .recurrent_solve import RecurrentSolve, run_checked, solve_series, states_at_times
from .series import Series, prepare_series, prepare_times
from .solve_options import Settings, SolveOptions


class GRUODE(eqx.Module):
    """The continuous-time limit of a GRU: `h' = (1 - z) (g - h)`.

    `z` is the update gate and `g` the candidate, in `(-1, 1)`; so a state in `[-1, 1]` stays there.

    **Arguments:** `hidden`: size of the state. `key`: for the weights.

    Source: De Brouwer et al. (2019), arXiv 1905.12374, section 2.2, without inputs.
    """

    gates: eqx.nn.Linear
    candidate: eqx.nn.Linear

    def __init__(self, hidden: int, *, key: Array) -> None:
        first, second = jax.random.split(key)
        self.gates = eqx.nn.Linear(hidden, 2 * hidden, key=first)
        self.candidate = eqx.nn.Linear(hidden, hidden, key=second)

    def __call__(self, h: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
        """The time derivative at `h`."""
        r, z = jnp.split(jax.nn.sigmoid(self.gates(h)), 2)
        g = jnp.tanh(self.candidate(r * h))
        return (1 - z) * (g - h)


class GRUODEBayes(eqx.Module):
    """A model that predicts mean and variance of each channel of a sporadically observed series.

    Between observations the hidden state follows `GRUODE`. At each observation a GRU updates it,
    whose inputs are the value, the predicted mean and log variance, and the scaled error of every
    observed channel. The state at a sample's first observation is learned. Series are given as to
    `ODERNN`; each sample takes steps of its own, and there may be several batch axes.

    **Arguments:**

    - `channels`: of a series. `hidden`: size of the state.
    - `width`: of the hidden layer that predicts mean and log variance; `hidden` if None.
    - `features`: of each channel, the GRU's inputs.
    - `key`: for the weights.
    - `solver` and the other options of `solve`, of which `rtol` is 1e-3 by default.

    An update is not invertible, so there is no `inverse`.

    **Raises:** `OptionError` for bad options.

    Source: De Brouwer et al., GRU-ODE-Bayes: continuous modeling of sporadically-observed time
    series (2019), arXiv 1905.12374.
    """

    start: Float[Array, " hidden"]
    field: GRUODE
    cell: eqx.nn.GRUCell
    weight: Float[Array, "channels features 4"]
    bias: Float[Array, "channels features"]
    observe: eqx.nn.MLP
    settings: Settings
    channels: int = eqx.field(static=True)
    batched = True

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        width: int | None = None,
        features: int = 4,
        key: Array,
        **options: Unpack[SolveOptions],
    ) -> None:
        width = hidden if width is None else width
        channels, hidden, width, features = check_counts(
            channels=channels, hidden=hidden, width=width, features=features
        )
        keys = jax.random.split(check_key(key), 4)
        self.start = jnp.zeros(hidden)
        self.field = GRUODE(hidden, key=keys[0])
        self.cell = eqx.nn.GRUCell(channels * features, hidden, key=keys[1])
        self.weight = jax.random.normal(keys[2], (channels, features, 4)) / 2
        self.bias = jnp.full((channels, features), 0.1)
        self.observe = eqx.nn.MLP(hidden, 2 * channels, width, 1, jax.nn.relu, key=keys[3])
        self.settings = Settings(options)
        self.channels = channels

    @over_batch_axes("xs")
    def __call__(
        self,
        ts: Float[ArrayLike, "*batch n"],
        xs: Float[ArrayLike, "batch n channels"],
        mask: ArrayLike | None = None,
        lengths: Int[ArrayLike, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch n channels"], Float[Array, "batch n channels"]]:
        """Mean and log variance at every place, predicted from the observations before it."""
        series = self._series(ts, xs, mask, lengths)
        return run_checked(_predict_observations, self, series)

    @over_batch_axes("xs")
    def predict(
        self,
        ts: Float[ArrayLike, "*batch n"],
        xs: Float[ArrayLike, "batch n channels"],
        times: Float[ArrayLike, "*batch m"],
        mask: ArrayLike | None = None,
        lengths: Int[ArrayLike, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch m channels"], Float[Array, "batch m channels"]]:
        """Mean and log variance at `times`, predicted from the observations up to each.

        `times`, of all samples or per sample, need no order. Before the first observation the
        prediction is that of the learned initial state.
        """
        series = self._series(ts, xs, mask, lengths)
        times = prepare_times(times, series.ts.shape[0], series.ts.dtype)
        return run_checked(_predict, self, series, times)

    @over_batch_axes("xs")
    def loss(
        self,
        ts: Float[ArrayLike, "*batch n"],
        xs: Float[ArrayLike, "batch n channels"],
        mask: ArrayLike | None = None,
        lengths: Int[ArrayLike, " batch"] | None = None,
        *,
        noise: ArrayLike = 0.1,
        weight: ArrayLike = 1.0,
    ) -> Float[Array, ""]:
        """The mean loss over all observations, nats.

        It is the negative log likelihood of an observation under the prediction before the update,
        plus `weight` times the Kullback-Leibler divergence of Bayes' posterior from the prediction
        after it; the posterior takes `noise` as the standard deviation of an observation.
        """
        check_noise(noise, self.channels)
        series = self._series(ts, xs, mask, lengths)
        return run_checked(_loss, self, series, noise, weight)

    def hidden_states(self, series: Series) -> RecurrentSolve:
        """The hidden states before and after the update at every place."""
        model = cast((self.start, self.field, self.cell), series.xs.dtype)
        start, field, cell = model
        start = jnp.broadcast_to(jnp.tanh(start), (series.ts.shape[0], start.size))
        weight, bias, observe = cast((self.weight, self.bias, self.observe), series.xs.dtype)

        def jump(h: Array, x: Array, mask: Array) -> Array:
            mean, log_variance = jnp.split(observe(h), 2)
            error = (x - mean) * jnp.exp(-0.5 * log_variance)
            features = jnp.stack([x, mean, log_variance, error], -1)
            inputs = jax.nn.relu(jnp.einsum("cfi,ci->cf", weight, features) + bias)
            return cell(jnp.where(mask[:, None], inputs, 0).reshape(-1), h)

        return solve_series(field, jump, start, series, self.settings)

    def distribution(self, h: Float[Array, "*batch hidden"]) -> tuple[Array, Array]:
        """Mean and log variance of every channel, predicted from hidden states."""
        observe = cast(self.observe, h.dtype)
        mean, log_variance = jnp.split(jnp.vectorize(observe, signature="(h)->(o)")(h), 2, axis=-1)
        return mean, log_variance

    def _series(self, ts: Any, xs: Any, mask: Any, lengths: Any) -> Series:
        return prepare_series(ts, xs, mask, lengths, least=1, channels=self.channels)


def _predict_observations(model: GRUODEBayes, series: Series) -> Any:
    states = model.hidden_states(series)
    return model.distribution(states.before), states.status


def _predict(model: GRUODEBayes, series: Series, times: Array) -> Any:
    states, status = states_at_times(model.hidden_states, series, times)
    return model.distribution(states), status


def _loss(model: GRUODEBayes, series: Series, noise: ArrayLike, weight: ArrayLike) -> Any:
    states = model.hidden_states(series)
    dtype = series.xs.dtype
    noise, weight = jnp.asarray(noise, dtype), jnp.asarray(weight, dtype)
    mean, log_variance = model.distribution(states.before)
    squares = (series.xs - mean) ** 2 * jnp.exp(-log_variance)
    negative_log_likelihood = 0.5 * (squares + log_variance + jnp.log(2 * jnp.pi).astype(dtype))
    bayes_posterior = posterior(mean, log_variance, series.xs, noise)
    loss = negative_log_likelihood + weight * kl_of_normals(
        *bayes_posterior, *model.distribution(states.after)
    )
    return jnp.sum(jnp.where(series.mask, loss, 0)) / jnp.sum(series.mask), states.status


def posterior(mean: Array, log_variance: Array, x: Array, noise: Array) -> tuple[Array, Array]:
    """Mean and log variance of a normal variable given an observation `x` of deviation `noise`."""
    gain = jax.nn.sigmoid(log_variance - 2 * jnp.log(noise))  # the Kalman gain
    return mean + gain * (x - mean), jnp.log(gain) + 2 * jnp.log(noise)


def kl_of_normals(mean: Array, log_variance: Array, mean_2: Array, log_variance_2: Array) -> Array:
    """The Kullback-Leibler divergence KL(first || second) of two normal distributions, nats."""
    ratio = jnp.exp(log_variance - log_variance_2)
    shift = (mean - mean_2) ** 2 * jnp.exp(-log_variance_2)
    return 0.5 * (ratio + shift - 1 - log_variance + log_variance_2)
