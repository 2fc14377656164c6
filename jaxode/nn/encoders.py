"""Encoders of a latent ODE: from an irregular series to the distribution of the latent state."""

from typing import Any, Literal, Protocol, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from ..problem.validation import check_count, check_counts, check_key, check_name
from .batched_solve import solve_samples
from .networks import cast
from .ode_rnn import ODERNN
from .series import Series
from .solve_options import SolveOptions


class Encoder(Protocol):
    """The interface of an encoder of `LatentODE`."""

    def __call__(
        self, series: Series, t0: Float[Array, " batch"], key: Array | None = None
    ) -> tuple[Array, Array, Array | None]:
        """Return mean and log variance of the state at `t0`, shape `(batch, latent)`, and status.

        The status of each solve is int32 of shape `(batch, n)`, or None if there was no solve.
        """
        ...


class RNNEncoder(eqx.Module):
    """A recurrent network that reads the observations backwards, with the times between them.

    Its inputs at each place are the values (zero where missing), the mask, and the time to the
    place read before; places without an observation are skipped. The readout also sees the time
    from `t0` to the first observation.

    **Arguments:**

    - `channels`: of a series. `latent`: size of the latent state. `hidden`: of the network's.
    - `cell`: "gru", or "tanh" for the plain recurrence `h = tanh(W [x, h] + b)`.
    - `key`: for the weights.

    **Raises:** `OptionError` for bad options.

    Source: Chen et al., Neural ordinary differential equations (2018), arXiv 1806.07366.
    """

    cell: eqx.nn.GRUCell | eqx.nn.Linear
    readout: eqx.nn.Linear
    hidden: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        latent: int,
        hidden: int = 25,
        *,
        cell: Literal["gru", "tanh"] = "gru",
        key: Array,
    ) -> None:
        sizes = {"channels": channels, "latent": latent, "hidden": hidden}
        channels, latent, hidden = check_counts(**sizes)
        check_name("cell", cell, ("gru", "tanh"))
        first, second = jax.random.split(check_key(key))
        size = 2 * channels + 1
        if cell == "gru":
            self.cell = eqx.nn.GRUCell(size, hidden, key=first)
        else:
            self.cell = eqx.nn.Linear(size + hidden, hidden, key=first)
        self.readout = eqx.nn.Linear(hidden + 1, 2 * latent, key=second)
        self.hidden = hidden

    def __call__(
        self, series: Series, t0: Float[Array, " batch"], key: Array | None = None
    ) -> tuple[Array, Array, None]:
        """Mean and log variance of the state at `t0`; see `Encoder`."""
        del key
        model = cast(self, series.xs.dtype)
        mean, log_variance = jax.vmap(model._encode_one)(series, t0)
        return mean, log_variance, None

    def _encode_one(self, series: Series, t0: Array) -> tuple[Array, Array]:
        ts, xs, mask = series
        observed = jnp.any(mask, -1)
        last_time = jnp.max(jnp.where(observed, ts, ts[0]))

        def read_place(carry: Any, place: Any) -> Any:
            h, next_time = carry
            t, x, mask = place
            inputs = jnp.concatenate([x, mask.astype(x.dtype), (next_time - t)[None]])
            is_observed = jnp.any(mask)
            return (
                jnp.where(is_observed, self._update(inputs, h), h),
                jnp.where(is_observed, t, next_time),
            ), None

        start = jnp.zeros(self.hidden, xs.dtype), last_time
        (h, first_time), _ = lax.scan(read_place, start, (ts, xs, mask), reverse=True)
        out = self.readout(jnp.concatenate([h, (first_time - t0)[None]]))
        mean, log_variance = jnp.split(out, 2)
        return mean, log_variance

    def _update(self, inputs: Array, h: Array) -> Array:
        if isinstance(self.cell, eqx.nn.GRUCell):
            return self.cell(inputs, h)
        return jnp.tanh(self.cell(jnp.concatenate([inputs, h])))


class ODERNNEncoder(eqx.Module):
    """An ODE-RNN that runs backwards from a series' last observation to `t0`.

    **Arguments:** `channels` of a series, `latent` the size of the latent state; `hidden`, `field`,
    `width`, `depth`, `key` and the options of `solve` as of `ODERNN`.

    **Raises:** `OptionError` and `FieldError` for bad options.

    Source: Rubanova et al. (2019), arXiv 1907.03907.
    """

    rnn: ODERNN

    def __init__(
        self,
        channels: int,
        latent: int,
        hidden: int = 25,
        *,
        field: Any = None,
        width: int | None = None,
        depth: int = 1,
        key: Array,
        **options: Unpack[SolveOptions],
    ) -> None:
        sizes = {"field": field, "width": width, "depth": depth}
        out = 2 * check_count("latent", latent)
        self.rnn = ODERNN(channels, hidden, out, **sizes, key=key, **options)

    def __call__(
        self, series: Series, t0: Float[Array, " batch"], key: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Mean and log variance of the state at `t0`; see `Encoder`."""
        states = self.rnn.hidden_states(series, reverse=True, key=key)
        spans = jnp.stack([series.ts[:, 0], t0], -1)
        field = cast(self.rnn.field, series.xs.dtype)
        axes = 0, 0, None
        end = solve_samples(
            field, states.after[:, 0], spans, None, self.rnn.settings, in_axes=axes, key=key
        )
        mean, log_variance = jnp.split(self.rnn.read(end.y1), 2, axis=-1)
        return mean, log_variance, jnp.concatenate([states.status, end.status[:, None]], 1)
