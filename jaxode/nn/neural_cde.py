"""Neural controlled differential equations: hidden states that are driven by data."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import ArrayLike, Float

from ..integrate.solution import Solution
from ..problem.errors import DataError, FieldError, OptionError, TimesError, unknown_name
from ..problem.field import call_field
from ..problem.state import is_traced
from ..problem.validation import check_count
from ..solvers.step_size import Grid
from .batched_solve import flow
from .controls import CONTROLS, Control
from .log_ode import LogODE, signature_channels
from .networks import cast
from .series import Series, find_series, spread_times
from .solve_options import Settings, SolveOptions

SMOOTH = "hermite", "natural_cubic"


class NeuralCDE(eqx.Module):
    """Reads a series: `z(t0) = initial(X(t0))`, `dz = field(z) dX`, and a readout of `z`.

    `X` is a path through the observations, whose channels are the time (if `time_channel`), the
    values, and (if `counts`) how often each value was observed so far. Each sample has times and
    steps of its own. What `augment` is to a `NeuralODE`, the hidden size is here.

    **Arguments:**

    - `field`: a network or function of `(z)` or `(t, z)` for one sample; its output is the matrix
      (hidden, driving), or as many numbers in a row, where `driving` counts the channels of the
      path, with "log_ode" those of its log-signature. Bounded outputs (an end by `tanh`) keep the
      hidden state finite.
    - `initial`: maps the path's first value, shape (channels,), to the hidden state.
    - `readout`: maps a hidden state to the output; None leaves it as it is.
    - `control`: "hermite", "linear", "natural_cubic", "rectilinear" or "log_ode" (a neural rough
      differential equation). Only "rectilinear" never looks ahead. All but the two cubics have
      corners, on which steps then end (`jumps` of `solve`): a step per piece at least, where a
      cubic may be run over in fewer at loose tolerances. `jo.Grid`, "adjoint" and "reversible"
      know no jumps: there the error control finds the corners, in more steps.
    - `window`: for "log_ode", how many observations a step of the path sums up.
    - `time_channel`: without it the result does not depend on how fast the series is run through.
    - `counts`: tells what was missing, where that means something.
    - `solver`, `rtol`, `atol`, `dt`, `controller`, `sensitivity`, `max_steps`, `throw`,
      `progress`: as in `solve`.

    **Raises:** `OptionError` and `FieldError` for bad options; what `solve` raises when called.

    Source: Kidger et al., Neural controlled differential equations for irregular time series
    (2020), arXiv 2005.08926; "log_ode": Morrill et al. (2021), arXiv 2009.08295.
    """

    field: Callable[..., Array]
    initial: Callable[[Array], Array]
    readout: Callable[[Array], Array] | None
    control: str = eqx.field(static=True)
    window: int = eqx.field(static=True)
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
        time_channel: bool = True,
        counts: bool = False,
        **options: Unpack[SolveOptions],
    ) -> None:
        for name, part in {"field": field, "initial": initial, "readout": readout}.items():
            given = part is not None or name != "readout"
            if given and (not callable(part) or isinstance(part, type)):
                raise FieldError(
                    f"{name} must be a callable such as an eqx.nn.MLP instance, got {part!r}"
                )
        _check_control(control, window, time_channel)
        self.field, self.initial, self.readout = field, initial, readout
        self.control, self.window = control, int(window)
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
        time_channel: bool = True,
        counts: bool = False,
        **options: Any,
    ) -> "NeuralCDE":
        """Of an `eqx.nn.MLP` (softplus within, tanh at its end), and two linear maps.

        **Arguments:** `channels` and `out` count the values of an observation and of the output,
        `hidden` those of the state; `width` and `depth` are the network's; the rest as of
        `NeuralCDE`.
        """
        _check_control(control, 1, time_channel)
        path = time_channel + channels * (2 if counts else 1)
        driving = signature_channels(path) if control == "log_ode" else path
        of_field, of_initial, of_readout = jax.random.split(key, 3)
        field = eqx.nn.MLP(
            hidden, hidden * driving, width, depth, jax.nn.softplus, jnp.tanh, key=of_field
        )
        initial = eqx.nn.Linear(path, hidden, key=of_initial)
        readout = eqx.nn.Linear(hidden, out, key=of_readout)
        named = {"control": control, "time_channel": time_channel, "counts": counts}
        return cls(field, initial, readout, **named, **options)

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
        """The readout at each sample's last time; at `times`, or if `evolving` at all of `ts`.

        **Arguments:**

        - `ts`: times, shape `(n,)` for all samples or `(batch, n)`, not decreasing.
        - `xs`: values, shape `(batch, n, channels)`. Without a mask NaN is a missing value.
        - `mask`: True where `xs` was observed, shape `(batch, n)` or `(batch, n, channels)`.
        - `lengths`: shape `(batch,)`: how many of the `n` places each sample uses.
        - `times`: shape `(m,)` or `(batch, m)`, not decreasing, none before a sample's first
          time; after its last one its state stays as it is.
        - `key`: for what a field draws once per solve, such as dropout.

        **Returns:** shape `(batch, out)`, or `(batch, m, out)`, or if evolving `(batch, n, out)`.
        """
        series = find_series(ts, xs, mask, lengths)
        solution = self._run(series, _asked(series, times, evolving), key)
        if times is None and not evolving:
            return self._read(solution.y1, 1)
        return self._read(solution.ys[:, 1:], 2)

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
        """The `Solution` of the hidden states, each sample's from its first time on.

        `ys` is `(batch, times, hidden)`, its first time the sample's first; `stats` and `status`
        have an axis of samples. Arguments as of a call.
        """
        series = find_series(ts, xs, mask, lengths)
        return self._run(series, _asked(series, times, evolving), key)

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
        series = find_series(ts, xs, mask, lengths)
        if jnp.ndim(z1) != 2 or jnp.shape(z1)[0] != len(series.ts):
            raise DataError(
                f"z1 must have shape ({len(series.ts)}, hidden), a state for each sample; got "
                f"{jnp.shape(z1)}"
            )
        backwards = series.ts[:, [-1, 0]]
        return self._flow(jax.vmap(self._path)(*series), jnp.asarray(z1), backwards, key).y1

    def path(
        self,
        ts: ArrayLike,
        xs: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> Control:
        """What drives the samples: their controls, with a first axis of samples in the arrays."""
        return jax.vmap(self._path)(*find_series(ts, xs, mask, lengths))

    def _path(self, ts: Array, xs: Array, mask: Array) -> Control:
        channels, known = [xs], [mask]
        if self.counts:
            channels.append(jnp.cumsum(mask, axis=0).astype(xs.dtype))
            known.append(jnp.ones_like(mask))
        if self.time_channel and self.control != "rectilinear":
            channels.insert(0, ts[:, None])
            known.insert(0, jnp.ones_like(mask[:, :1]))
        data = ts, jnp.concatenate(channels, axis=1), jnp.concatenate(known, axis=1)
        if self.control == "log_ode":
            return LogODE(*data, window=self.window)
        return CONTROLS[self.control](*data)

    def _run(self, series: Series, times: Array, key: Array | None) -> Solution:
        paths = jax.vmap(self._path)(*series)
        first = jax.vmap(lambda path, t: path.evaluate(t))(paths, series.ts[:, 0])
        channels = self.time_channel + series.xs.shape[2] * (2 if self.counts else 1)
        try:
            states = jax.vmap(cast(self.initial, first.dtype))(first[:, :channels])
        except TypeError as error:
            error.add_note(f"NeuralCDE: initial must take the {channels} channels of the path")
            raise
        on_path = jax.vmap(lambda path, row: jax.vmap(path.when)(row))(paths, times)
        solution = self._flow(paths, states, on_path, key)
        return dataclasses.replace(solution, ts=times)

    def _flow(self, paths: Control, states: Array, times: Array, key: Array | None) -> Solution:
        field = cast(self.field, states.dtype)
        driven, more = _Driven(field), self._at_knots(paths)
        return flow(driven, states, times, paths, self.settings, in_axes=(0, 0, 0), key=key, **more)

    def _at_knots(self, paths: Control) -> dict[str, Array]:
        """Where the path has corners a step ends on each, instead of being rejected around it.

        A batch of 100 points each then takes a quarter of the steps, and compiles a third longer.
        """
        settings = self.settings
        refused = isinstance(settings.controller, Grid)
        refused |= not settings.sensitivity.takes_events
        if self.control in SMOOTH or refused:
            return {}
        more = {"jumps": paths.knots[:, 1:-1]}
        adaptive = settings.solver.error_exponent is not None and settings.controller is None
        if adaptive and settings.dt is None:  # behind a corner, try the whole piece first
            longest = lax.stop_gradient(jnp.max(jnp.diff(paths.knots, axis=1)))
            more["dt"] = jnp.where(longest > 0, longest, 1)
        return more

    def _read(self, states: Array, axes: int) -> Array:
        read = cast(self.readout, states.dtype)
        if read is None:
            return states
        for _ in range(axes):
            read = jax.vmap(read)
        return read(states)


class _Driven(eqx.Module):
    """The field of the hidden state along its path."""

    field: Callable[..., Array]

    def __call__(self, t: Array, z: Array, path: Control) -> Array:
        speed = path.derivative(t)
        matrix = call_field(self.field, t, z, None)
        shape = z.shape[0], speed.shape[0]
        if jnp.size(matrix) != shape[0] * shape[1]:
            raise FieldError(
                f"NeuralCDE: the field must return a matrix of shape {shape}, hidden by channels "
                f"that drive it, or as many numbers in a row; got shape {jnp.shape(matrix)}"
            )
        return matrix.reshape(shape) @ speed


def _check_control(control: Any, window: Any, time_channel: bool) -> None:
    known = [*CONTROLS, "log_ode"]
    if control not in known:
        raise unknown_name("control", str(control), known)
    check_count("window", window)
    if control == "rectilinear" and not time_channel:
        raise OptionError('control="rectilinear" needs the time as a channel: time_channel=True')


def _asked(series: Series, times: Any, evolving: bool) -> Array:
    """The first time of each sample, and the times at which its state is wanted."""
    first, last = series.ts[:, :1], series.ts[:, -1:]
    if times is None:
        return jnp.concatenate([first, series.ts if evolving else last], axis=1)
    if evolving:
        raise OptionError("times says when the states are wanted, evolving=True at all of ts: one")
    wanted = spread_times(times, len(first), first.dtype)
    if not is_traced((wanted, first)):
        rows = np.asarray(jnp.concatenate([first, wanted], axis=1))
        bad = np.flatnonzero(~(rows[:, 1:] >= rows[:, :-1]).all(1))
        if bad.size:
            raise TimesError(
                f"times must not decrease nor begin before a sample's first time; those for "
                f"sample {bad[0]}, which begins at {rows[bad[0], 0]}, do"
            )
    return jnp.concatenate([first, jnp.minimum(wanted, last)], axis=1)
