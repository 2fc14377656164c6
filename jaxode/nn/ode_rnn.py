"""Recurrent networks whose hidden state follows an ODE between observations."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import ArrayLike, Float, Int, PyTree

from ..errors import DataError, FieldError, OptionError, SolveError, TimesError
from ..problem import is_traced
from ..solution import Status
from ..surroundings import compiled
from .flow import flow
from .series import Series, find_series
from .settings import Settings, SolveOptions


class ODERNN(eqx.Module):
    """A GRU whose hidden state follows an ODE between observations.

    The state begins at zero at a sample's first observation. Where nothing is observed there is no
    update, so such a place, and what pads a shorter sample, is as if it were not there.

    **Arguments:**

    - `channels`: of a series. `hidden`: size of the state. `out`: size of an output.
    - `field`: a network or function of `(h)` or `(t, h)` for one state; if None an MLP with `depth`
      hidden layers of `width` (`hidden` if None) and tanh.
    - `key`: for the weights.
    - `solver` and the other options of `solve`; each sample takes steps of its own in each gap.

    An update forgets what was there before it, so there is no `inverse`.

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
        check_sizes(channels=channels, hidden=hidden, out=out, width=width, depth=depth)
        keys = jax.random.split(key, 3)
        self.field = find_field(field, hidden, width, depth, jnp.tanh, keys[0])
        self.cell = eqx.nn.GRUCell(2 * channels, hidden, key=keys[1])
        self.readout = eqx.nn.Linear(hidden, out, key=keys[2])
        self.settings = Settings(options)
        self.channels = channels

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

        `ts`, `xs`, `mask` and `lengths` are as in `find_series`: times of all or of each sample,
        NaN or a mask for what is missing. `outputs`: "after" what is observed at a place; "before"
        it, which is a prediction of it; "last", the output behind the whole series alone, of shape
        `(batch, out)`. `key` is for what the field draws, once for a whole series.
        """
        if outputs not in ("after", "before", "last"):
            raise OptionError(f'outputs must be "after", "before" or "last", got {outputs!r}')
        series = find_series(ts, xs, mask, lengths, least=1)
        check_channels(series, self.channels)
        out, status = compiled(_outputs, self, series, outputs, key)
        raise_on_broken_walk(status, self.settings)
        return out

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
        """The output at `times` of all samples or of each, from what was observed until then.

        They need no order. Before its first observation a sample has the output of a zero state.
        """
        series = find_series(ts, xs, mask, lengths, least=1)
        check_channels(series, self.channels)
        times = find_times(times, series.ts.shape[0], series.ts.dtype)
        out, status = compiled(_predict, self, series, times, key)
        raise_on_broken_walk(status, self.settings)
        return out

    def walk(self, series: Series, *, reverse: bool = False, key: Array | None = None) -> "Walk":
        """The hidden state at every place, forwards or backwards in time."""
        field, cell = cast((self.field, self.cell), series.xs.dtype)

        def update(h: Array, x: Array, seen: Array) -> Array:
            return cell(jnp.concatenate([x, seen.astype(x.dtype)]), h)

        start = jnp.zeros((series.ts.shape[0], self.cell.hidden_size), series.xs.dtype)
        return walk(field, update, start, series, self.settings, reverse=reverse, key=key)

    def read(self, h: Float[Array, "*batch hidden"]) -> Float[Array, "*batch out"]:
        """The output of hidden states."""
        readout = cast(self.readout, h.dtype)
        return jnp.vectorize(readout, signature="(h)->(o)")(h)


def _outputs(model: ODERNN, series: Series, outputs: str, key: Array | None) -> Any:
    states = model.walk(series, key=key)
    if outputs == "last":
        return model.read(states.after[:, -1]), states.status
    return model.read(states.after if outputs == "after" else states.before), states.status


def _predict(model: ODERNN, series: Series, times: Array, key: Array | None) -> Any:
    series, places = with_queries(series, times)
    states = model.walk(series, key=key)
    return model.read(jnp.take_along_axis(states.after, places[..., None], 1)), states.status


class Walk(NamedTuple):
    """Hidden states along series, in the order of their places.

    `before` and `after` what is observed there, shape `(batch, n, hidden)`; `status` of the solve
    that leads there, int32 of shape `(batch, n)`.
    """

    before: Array
    after: Array
    status: Array


def walk(
    field: Callable,
    update: Callable[[Array, Array, Array], Array],
    start: Float[Array, "batch hidden"],
    series: Series,
    settings: Settings,
    *,
    reverse: bool = False,
    key: Array | None = None,
) -> Walk:
    """Follow `field` from place to place, and `update(h, x, mask)` where something is observed.

    It stands at `start` until the first observation that it meets.
    """
    ts, xs, mask = (jnp.swapaxes(x, 0, 1) for x in series)
    if reverse:
        ts, xs, mask = ts[::-1], xs[::-1], mask[::-1]
    seen = jnp.any(mask, -1)
    under_way = jnp.cumsum(seen, 0)[:-1] > 0
    # A gap of no length takes no step, so padding and the first place need no special case.
    froms = jnp.concatenate([ts[:1], jnp.where(under_way, ts[:-1], ts[1:])])

    def step(h: Array, place: Any) -> tuple[Array, tuple[Array, Array, Array]]:
        span, x, known = place
        moved = flow(field, h, span, None, settings, in_axes=(0, 0, None), key=key)
        new = jax.vmap(update)(moved.y1, x, known)
        after = jnp.where(jnp.any(known, -1, keepdims=True), new, moved.y1)
        return after, (moved.y1, after, moved.status)

    places = jnp.stack([froms, ts], -1), xs, mask
    states = lax.scan(step, start, places)[1]
    if reverse:
        states = jax.tree.map(lambda x: x[::-1], states)
    return Walk(*(jnp.swapaxes(x, 0, 1) for x in states))


def with_queries(series: Series, times: Float[Array, "batch m"]) -> tuple[Series, Array]:
    """The series with places at `times` where nothing is observed, and which places these are.

    A query at the time of an observation comes behind it.
    """
    batch, n = series.ts.shape
    ts = jnp.concatenate([series.ts, times], 1)
    order = jnp.argsort(ts, axis=1, stable=True)

    def merged(x: Array) -> Array:
        none = jnp.zeros((batch, times.shape[1], x.shape[2]), x.dtype)
        return jnp.take_along_axis(jnp.concatenate([x, none], 1), order[..., None], 1)

    ts = jnp.take_along_axis(ts, order, 1)
    return Series(ts, merged(series.xs), merged(series.mask)), jnp.argsort(order, 1)[:, n:]


def find_times(times: Any, batch: int, dtype: Any) -> Float[Array, "batch m"]:
    """The times of queries, shape `(m,)` or `(batch, m)`, for each sample.

    **Raises:** `DataError` for another shape, `TimesError` where they are not finite.
    """
    shape = np.shape(times)
    if len(shape) not in (1, 2) or 0 in shape or (len(shape) == 2 and shape[0] != batch):
        raise DataError(f"times must have shape (m,) or ({batch}, m), got {shape}")
    times = jnp.broadcast_to(jnp.asarray(times, dtype), (batch, shape[-1]))
    if not is_traced(times):
        bad = np.argwhere(~np.isfinite(np.asarray(times)))
        if bad.size:
            raise TimesError(f"times has {times[tuple(bad[0])]} for sample {bad[0][0]}")
    return times


def find_field(field: Any, size: int, width: int, depth: int, activation: Any, key: Array) -> Any:
    """The field given, or an MLP of `size` numbers."""
    if field is None:
        return eqx.nn.MLP(size, size, width, depth, activation, key=key)
    if not callable(field) or isinstance(field, type):
        raise FieldError(f"the field must be a callable such as an eqx.nn.MLP, got {field!r}")
    return field


def check_sizes(least: int = 1, **sizes: Any) -> None:
    """**Raises:** `OptionError` for a size that is not an integer, or below `least`."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise OptionError(f"{name} must be an integer of at least {least}, got {size!r}")


def check_channels(series: Series, channels: int) -> None:
    """**Raises:** `DataError` if the series have another number of channels than the model."""
    if series.xs.shape[-1] != channels:
        raise DataError(f"the model has {channels} channels, xs has {series.xs.shape[-1]}")


def cast(modules: PyTree, dtype: Any) -> Any:
    """The same modules with their real arrays in `dtype`, that of the data."""

    def of(x: Any) -> Any:
        real = isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(dtype) if real else x

    return jax.tree.map(of, modules)


def raise_on_broken_walk(status: Int[Array, "batch n"], settings: Settings) -> None:
    """**Raises:** `SolveError` for the first solve that failed, if that is known and asked for."""
    status = lax.stop_gradient(status)
    if is_traced(status) or not settings.throw:
        return
    failed = np.argwhere(np.asarray(status))
    if failed.size:
        sample, place = failed[0]
        found = Status(int(status[sample, place]))
        raise SolveError(
            f"sample {sample}, in the gap before place {place} of its series: {found.name}: the "
            f"solve {found.message}. (throw=False returns NaN from there on.)"
        )
