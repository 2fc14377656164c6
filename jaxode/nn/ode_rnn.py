"""Recurrent networks whose hidden state follows an ODE between observations."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float, Int

from ..problem.validation import check_counts, check_key, check_name
from .batch_axes import over_batch_axes
from .networks import cast, check_field_or_none, field_or_mlp
from .recurrent_solve import RecurrentSolve, run_checked, solve_series, states_at_times
from .series import Series, prepare_series, prepare_times
from .solve_options import Settings, SolveOptions


class ODERNN(eqx.Module):
    """A GRU whose hidden state follows an ODE between observations.

    The state is zero until a sample's first observation. Places without an observation, and the
    padding of shorter samples, update nothing and so do not change the result.

    **Arguments:**

    - `channels`: of a series. `hidden`: size of the state. `out`: size of an output.
    - `field`: a network or function of `(h)` or `(t, h)` for one state; if None an MLP with `depth`
      hidden layers of `width` (`hidden` if None) and tanh.
    - `key`: for the weights.
    - `solver` and the other options of `solve`, of which `rtol` is 1e-3 by default; each sample
      takes steps of its own in each gap.

    An update is not invertible, so there is no `inverse`.

    **Raises:** `OptionError` and `FieldError` for bad options.

    Source: Rubanova et al., Latent ODEs for irregularly-sampled time series (2019), arXiv
    1907.03907.
    """

    field: Callable[..., Array]
    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear
    settings: Settings
    channels: int = eqx.field(static=True)
    batched = True

    def __init__(
        self,
        channels: int,
        hidden: int,
        out: int,
        *,
        field: Callable[..., Array] | None = None,
        width: int | None = None,
        depth: int = 1,
        key: Array,
        **options: Unpack[SolveOptions],
    ) -> None:
        width = hidden if width is None else width
        channels, hidden, out, width, depth = check_counts(
            channels=channels, hidden=hidden, out=out, width=width, depth=depth
        )
        check_field_or_none(field)
        keys = jax.random.split(check_key(key), 3)
        self.field = field_or_mlp(field, hidden, width, depth, jnp.tanh, keys[0])
        self.cell = eqx.nn.GRUCell(2 * channels, hidden, key=keys[1])
        self.readout = eqx.nn.Linear(hidden, out, key=keys[2])
        self.settings = Settings(options)
        self.channels = channels

    @over_batch_axes("xs")
    def __call__(
        self,
        ts: Float[ArrayLike, "*batch n"],
        xs: Float[ArrayLike, "batch n channels"],
        mask: ArrayLike | None = None,
        lengths: Int[ArrayLike, " batch"] | None = None,
        *,
        outputs: Literal["after", "before", "last"] = "after",
        key: Array | None = None,
    ) -> Float[Array, "batch *n out"]:
        """The output at every place of each series.

        `ts`, `xs`, `mask` and `lengths` are as in `prepare_series`: times of all samples or per
        sample, NaN or a mask for missing values. `outputs`: "after" the update at each place;
        "before" it, a prediction of the observation; or "last", after the whole series only, of
        shape `(batch, out)`. There may be several batch axes. `key` is for the field's random
        values, one draw for a whole series.
        """
        check_name("outputs", outputs, ("after", "before", "last"))
        series = prepare_series(ts, xs, mask, lengths, least=1, channels=self.channels)
        return run_checked(_outputs, self, series, outputs, key)

    @over_batch_axes("xs")
    def predict(
        self,
        ts: Float[ArrayLike, "*batch n"],
        xs: Float[ArrayLike, "batch n channels"],
        times: Float[ArrayLike, "*batch m"],
        mask: ArrayLike | None = None,
        lengths: Int[ArrayLike, " batch"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "batch m out"]:
        """The output at `times`, from the observations up to each.

        `times`, of all samples or per sample, need no order. Before a sample's first observation
        the output is that of a zero state.
        """
        series = prepare_series(ts, xs, mask, lengths, least=1, channels=self.channels)
        times = prepare_times(times, series.ts.shape[0], series.ts.dtype)
        return run_checked(_predict, self, series, times, key)

    def hidden_states(
        self, series: Series, *, reverse: bool = False, key: Array | None = None
    ) -> RecurrentSolve:
        """The hidden states at every place, by a solve forwards or backwards in time."""
        field, cell = cast((self.field, self.cell), series.xs.dtype)

        def update(h: Array, x: Array, mask: Array) -> Array:
            return cell(jnp.concatenate([x, mask.astype(x.dtype)]), h)

        start = jnp.zeros((series.ts.shape[0], self.cell.hidden_size), series.xs.dtype)
        return solve_series(field, update, start, series, self.settings, reverse=reverse, key=key)

    def read(self, h: Float[Array, "*batch hidden"]) -> Float[Array, "*batch out"]:
        """The outputs of hidden states."""
        readout = cast(self.readout, h.dtype)
        return jnp.vectorize(readout, signature="(h)->(o)")(h)


def _outputs(model: ODERNN, series: Series, outputs: str, key: Array | None) -> Any:
    states = model.hidden_states(series, key=key)
    if outputs == "last":
        return model.read(states.after[:, -1]), states.status
    return model.read(states.after if outputs == "after" else states.before), states.status


def _predict(model: ODERNN, series: Series, times: Array, key: Array | None) -> Any:
    states, status = states_at_times(partial(model.hidden_states, key=key), series, times)
    return model.read(states), status
