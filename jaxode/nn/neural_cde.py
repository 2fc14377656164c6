"""Neural controlled differential equations: hidden states driven by a path through the data."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from ..integrate.solution import Solution
from ..problem.errors import DataError, FieldError, OptionError, TimesError
from ..problem.state import is_traced
from ..problem.validation import check_count, check_counts, check_flag, check_key, check_name
from .batch_axes import over_batch_axes
from .cde import solve_cde
from .controls import CONTROLS, Control
from .log_ode import LogODE
from .log_signature import signature_channels
from .networks import cast
from .series import Series, broadcast_times, prepare_series
from .solve_options import Settings, SolveOptions


class NeuralCDE(eqx.Module):
    """A model of series: `z(t0) = initial(X(t0))`, `dz = field(z) dX`, and a readout of `z`.

    `X` is a path through the observations, whose channels are the time (if `time_channel`), the
    values, and (if `counts`) how often each value was observed so far. Each sample has times and
    steps of its own. The hidden size plays the part of a `NeuralODE`'s `augment`.

    **Arguments:**

    - `field`: a network or function of `(z)` or `(t, z)` for one sample; its output is the matrix
      (hidden, driving), or as many numbers in a row, where `driving` counts the channels of the
      path, with "log_ode" those of its log-signature. Bounded outputs (a final `tanh`) keep the
      hidden state finite.
    - `initial`: maps the path's first value, shape (channels,), to the hidden state.
    - `readout`: maps a hidden state to the output; None leaves it as it is.
    - `control`: "hermite", "linear", "natural_cubic", "rectilinear" or "log_ode" (a neural rough
      differential equation). Only "rectilinear" is causal. All but the two cubics have kinks, on
      which steps end (`jumps` of `solve`): at least one step per piece, where a cubic may take
      fewer at loose tolerances. `jo.Grid`, "adjoint" and "reversible" do not support jumps: there
      the step size control finds the kinks, in more steps.
    - `window`: for "log_ode", how many observations a piece of the path summarises, and
      `signature_depth`: how deep: at 1 by increments, at 2 by areas too, and so on.
    - `time_channel`: without it the result is invariant to reparametrisation of time.
    - `counts`: for series where it is informative which values are missing.
    - `solver`, `rtol`, `atol`, `dt`, `controller`, `sensitivity`, `max_steps`, `throw`,
      `progress`: as in `solve`, but `rtol` is 1e-3 by default.

    Methods take one batch axis or several.

    **Raises:** `OptionError` and `FieldError` for bad options; what `solve` raises when called.

    Source: Kidger et al., Neural controlled differential equations for irregular time series
    (2020), arXiv 2005.08926; "log_ode": Morrill et al. (2021), arXiv 2009.08295.
    """

    field: Callable[..., Array]
    initial: Callable[[Array], Array]
    readout: Callable[[Array], Array] | None
    control: str = eqx.field(static=True)
    window: int = eqx.field(static=True)
    signature_depth: int = eqx.field(static=True)
    time_channel: bool = eqx.field(static=True)
    counts: bool = eqx.field(static=True)
    settings: Settings
    batched = True

    def __init__(
        self,
        field: Callable[..., Array],
        initial: Callable[[Array], Array],
        readout: Callable[[Array], Array] | None = None,
        *,
        control: str = "hermite",
        window: int = 8,
        signature_depth: int = 2,
        time_channel: bool = True,
        counts: bool = False,
        **options: Unpack[SolveOptions],
    ) -> None:
        for name, function in {"field": field, "initial": initial, "readout": readout}.items():
            required = function is not None or name != "readout"
            if required and (not callable(function) or isinstance(function, type)):
                raise FieldError(
                    f"{name} must be a callable such as an eqx.nn.MLP instance, got {function!r}"
                )
        _check_control(control, window, signature_depth, time_channel, counts)
        self.field, self.initial, self.readout = field, initial, readout
        self.control, self.window = control, int(window)
        self.signature_depth = int(signature_depth)
        self.time_channel, self.counts = time_channel, counts
        self.settings = Settings(options)

    @classmethod
    def mlp(
        cls,
        channels: int,
        out: int,
        *,
        key: Array,
        hidden: int = 8,
        width: int = 64,
        depth: int = 1,
        control: str = "hermite",
        window: int = 8,
        signature_depth: int = 2,
        time_channel: bool = True,
        counts: bool = False,
        **options: Any,
    ) -> "NeuralCDE":
        """Make a model of an `eqx.nn.MLP` (softplus, then a final tanh) and two linear maps.

        **Arguments:** `channels` and `out` count the values of an observation and of the output,
        `hidden` those of the state; `width` and `depth` are the network's; the rest as of
        `NeuralCDE`.
        """
        _check_control(control, window, signature_depth, time_channel, counts)
        sizes = {"channels": channels, "out": out, "hidden": hidden, "width": width}
        channels, out, hidden, width = check_counts(**sizes)
        depth = check_count("depth", depth, 0)
        path_channels = time_channel + channels * (2 if counts else 1)
        driving_channels = path_channels
        if control == "log_ode":
            driving_channels = signature_channels(path_channels, signature_depth)
        field_key, initial_key, readout_key = jax.random.split(check_key(key), 3)
        field = eqx.nn.MLP(
            hidden,
            hidden * driving_channels,
            width,
            depth,
            jax.nn.softplus,
            jnp.tanh,
            key=field_key,
        )
        initial = eqx.nn.Linear(path_channels, hidden, key=initial_key)
        readout = eqx.nn.Linear(hidden, out, key=readout_key)
        return cls(
            field, initial, readout, control=control, window=window,
            signature_depth=signature_depth, time_channel=time_channel, counts=counts, **options,
        )  # fmt: skip

    @over_batch_axes("xs")
    def __call__(
        self,
        ts: ArrayLike,
        xs: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        times: ArrayLike | None = None,
        evolving: bool = False,
        key: Array | None = None,
    ) -> Float[Array, "batch *times out"]:
        """The readout at each sample's last time, or at `times`, or if `evolving` at all of `ts`.

        **Arguments:**

        - `ts`: times, shape `(n,)` for all samples or `(batch, n)`, not decreasing.
        - `xs`: values, shape `(batch, n, channels)`. Without a mask NaN is a missing value.
        - `mask`: True where `xs` was observed, shape `(batch, n)` or `(batch, n, channels)`.
        - `lengths`: shape `(batch,)`: how many of the `n` places each sample uses.
        - `times`: shape `(m,)` or `(batch, m)`, not decreasing, none before a sample's first
          time; after its last one the state is constant.
        - `key`: for the random values that a field draws once per solve, such as dropout.

        **Returns:** shape `(batch, out)`, or `(batch, m, out)`, or if evolving `(batch, n, out)`.
        """
        series = prepare_series(ts, xs, mask, lengths)
        solution = self._solve_series(series, _output_times(series, times, evolving), key)
        if times is None and not evolving:
            return self._apply_readout(solution.y1, 1)
        return self._apply_readout(solution.ys[:, 1:], 2)

    @over_batch_axes("xs")
    def solve(
        self,
        ts: ArrayLike,
        xs: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        times: ArrayLike | None = None,
        evolving: bool = False,
        key: Array | None = None,
    ) -> Solution:
        """The `Solution` of the hidden states, from each sample's first time.

        `ys` is `(batch, times, hidden)`, its first time the sample's first; `stats` and `status`
        have an axis of samples. Arguments as of a call.
        """
        series = prepare_series(ts, xs, mask, lengths)
        return self._solve_series(series, _output_times(series, times, evolving), key)

    @over_batch_axes("xs")
    def inverse(
        self,
        z1: Float[Array, "batch hidden"],
        ts: ArrayLike,
        xs: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "batch hidden"]:
        """The hidden states at the samples' first times that lead to `z1` at their last ones."""
        series = prepare_series(ts, xs, mask, lengths)
        if np.ndim(z1) != 2 or np.shape(z1)[0] != len(series.ts):
            raise DataError(
                f"z1 must have shape ({len(series.ts)}, hidden), a state for each sample; got "
                f"{np.shape(z1)}"
            )
        backwards = series.ts[:, [-1, 0]]
        return self._solve_hidden(jax.vmap(self._path)(*series), jnp.asarray(z1), backwards, key).y1

    @over_batch_axes("xs")
    def path(
        self,
        ts: ArrayLike,
        xs: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> Control:
        """The controls of the samples, with a first axis of samples in their arrays."""
        return jax.vmap(self._path)(*prepare_series(ts, xs, mask, lengths))

    def _path(self, ts: Array, xs: Array, mask: Array) -> Control:
        channels, masks = [xs], [mask]
        if self.counts:
            channels.append(jnp.cumsum(mask, axis=0).astype(xs.dtype))
            masks.append(jnp.ones_like(mask))
        if self.time_channel and self.control != "rectilinear":
            channels.insert(0, ts[:, None])
            masks.insert(0, jnp.ones_like(mask[:, :1]))
        data = ts, jnp.concatenate(channels, axis=1), jnp.concatenate(masks, axis=1)
        if self.control == "log_ode":
            return LogODE(*data, window=self.window, depth=self.signature_depth)
        return CONTROLS[self.control](*data)

    def _solve_series(self, series: Series, times: Array, key: Array | None) -> Solution:
        paths = jax.vmap(self._path)(*series)
        first_values = jax.vmap(lambda path, t: path.evaluate(t))(paths, series.ts[:, 0])
        channels = self.time_channel + series.xs.shape[2] * (2 if self.counts else 1)
        try:
            states = jax.vmap(cast(self.initial, first_values.dtype))(first_values[:, :channels])
        except TypeError as error:
            error.add_note(f"NeuralCDE: initial must take the {channels} channels of the path")
            raise
        path_times = jax.vmap(lambda path, row: jax.vmap(path.path_time)(row))(paths, times)
        solution = self._solve_hidden(paths, states, path_times, key)
        return dataclasses.replace(solution, ts=times)

    def _solve_hidden(
        self, paths: Control, states: Array, times: Array, key: Array | None
    ) -> Solution:
        field, axes = cast(self.field, states.dtype), (0, 0, (0, None))
        driving = paths, None
        return solve_cde(field, states, times, driving, self.settings, in_axes=axes, key=key)

    def _apply_readout(self, states: Array, axes: int) -> Array:
        readout = cast(self.readout, states.dtype)
        if readout is None:
            return states
        for _ in range(axes):
            readout = jax.vmap(readout)
        return readout(states)


def _check_control(
    control: Any, window: Any, signature_depth: Any, time_channel: Any, counts: Any
) -> None:
    check_name("control", control, [*CONTROLS, "log_ode"])
    check_count("window", window)
    check_count("signature_depth", signature_depth)
    check_flag("time_channel", time_channel)
    check_flag("counts", counts)
    if control == "rectilinear" and not time_channel:
        raise OptionError('control="rectilinear" needs the time as a channel: time_channel=True')


def _output_times(series: Series, times: Any, evolving: bool) -> Array:
    """The first time of each sample, then its output times."""
    first, last = series.ts[:, :1], series.ts[:, -1:]
    if times is None:
        return jnp.concatenate([first, series.ts if evolving else last], axis=1)
    if evolving:
        raise OptionError("give times=, or evolving=True for the states at all of ts, not both")
    output_times = broadcast_times(times, len(first), first.dtype)
    if not is_traced((output_times, first)):
        rows = np.asarray(jnp.concatenate([first, output_times], axis=1))
        bad = np.flatnonzero(~(rows[:, 1:] >= rows[:, :-1]).all(1))
        if bad.size:
            raise TimesError(
                f"times must not decrease nor begin before a sample's first time; those for "
                f"sample {bad[0]}, which begins at {rows[bad[0], 0]}, do"
            )
    return jnp.concatenate([first, jnp.minimum(output_times, last)], axis=1)
