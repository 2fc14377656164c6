"""Ensembles: trajectories of one field, solved by jaxode, and to how many digits."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.gpu.jobs import Outcome

# From arguments, start and times: end states, and the steps that each tried.
Ends = Callable[[PyTree, Array, Array], tuple[Array, Array]]
SAMPLE = 64


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Trajectories of `field(t, y, args)` from 0 to `t1`.

    `axes`: of `args` and `y0`, 0 where each trajectory has its own; a single one has none, and is
    solved by `jo.solve`. With `fixed` all steps are `dt`. `unlike`: all that come after so many
    trajectories repeat them; by default none do.
    """

    field: Callable[..., Array]
    args: PyTree
    y0: np.ndarray
    t1: float
    axes: tuple[int | None, int | None]
    rtol: float
    atol: float
    solver: str = "tsit5"
    dt: float | None = None
    fixed: bool = False
    dtype: Any = np.float32
    unlike: int | None = None
    sample: int = SAMPLE

    @property
    def single(self) -> bool:
        return self.axes == (None, None)

    @property
    def count(self) -> int:
        if self.single:
            return 1
        return len(self.y0) if self.axes[1] == 0 else len(jax.tree.leaves(self.args)[0])

    @property
    def inputs(self) -> tuple[PyTree, Array, Array]:
        """Arguments, start, times."""
        cast = lambda x: jnp.asarray(np.asarray(x, self.dtype))  # noqa: E731
        return jax.tree.map(cast, self.args), cast(self.y0), cast([0.0, self.t1])

    @property
    def one(self) -> tuple[PyTree, Any]:
        """Shapes of one trajectory's arguments and state."""

        def shape(x: Any, axis: int | None) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(np.shape(x)[axis is not None :], self.dtype)

        return jax.tree.map(lambda x: shape(x, self.axes[0]), self.args), shape(
            self.y0, self.axes[1]
        )

    @property
    def places(self) -> np.ndarray:
        """Of the trajectories that are looked at: a sample over all, or those that are unlike."""
        if self.unlike:
            return np.arange(min(self.count, self.unlike))
        return np.linspace(0, self.count - 1, self.sample).round().astype(int)

    def exactly(self) -> "Ensemble":
        """The sample, in float64, to a tight tolerance."""

        def pick(x: Any, axis: int | None) -> Any:
            return np.asarray(np.asarray(x, self.dtype), np.float64)[... if axis is None else at]

        at = self.places
        solver, rtol, atol = ("dopri8", 1e-12, 1e-13)
        if self.solver != "tsit5":
            solver, rtol, atol = self.solver, 1e-11, 1e-16
        return dataclasses.replace(
            self, args=jax.tree.map(lambda x: pick(x, self.axes[0]), self.args),
            y0=pick(self.y0, self.axes[1]), rtol=rtol, atol=atol, solver=solver, dt=None,
            fixed=False, dtype=np.float64,
        )  # fmt: skip


def by_jaxode(e: Ensemble, kernel: bool = False) -> Ends:
    """Each by itself, with the gradient of what is computed."""
    how: dict[str, Any] = {"rtol": e.rtol, "atol": e.atol, "dt": e.dt}
    if e.fixed and e.dt:
        how = {"controller": jo.Fixed(e.dt)}

    def ends(args: PyTree, y0: Array, ts: Array) -> tuple[Array, Array]:
        options = {"solver": e.solver, "max_steps": 16_384, **how}
        if e.single:
            sol = jo.solve(e.field, y0, ts, args, throw=False, **options)
        else:
            axes = (e.axes[1], None, e.axes[0])
            sol = jo.solve_batch(e.field, y0, ts, args, in_axes=axes, kernel=kernel, **options)
        return sol.y1, sol.stats.num_steps

    return ends


def forward(ends: Ends) -> Callable[..., Outcome]:
    """The end states."""

    def run(args: PyTree, y0: Array, ts: Array) -> Outcome:
        return outcome(*ends(args, y0, ts))

    return run


def gradient(ends: Ends) -> Callable[..., Outcome]:
    """Value and gradient of the mean square of the end states, by the arguments."""

    def run(args: PyTree, y0: Array, ts: Array) -> Outcome:
        def loss(args: PyTree) -> tuple[Array, Array]:
            y1, steps = ends(args, y0, ts)
            return jnp.mean(y1**2), steps

        (value, steps), found = jax.value_and_grad(loss, has_aux=True)(args)
        return outcome((value, jax.tree.leaves(found)), steps)

    return run


def outcome(value: Any, steps: Array) -> Outcome:
    return Outcome(value, jnp.mean(steps.astype(jnp.float32)), jnp.max(steps))


def error(e: Ensemble, what: Callable, found: Any) -> float:
    """How far what `forward` or `gradient` gave is from what is exact, over the norm of that.

    Of end states the largest of any component; of gradients that of all; infinite if not finite.
    """
    exact = on_host(lambda: _exact(e, what))
    if what is gradient:
        leaves = [_array(x) for x in found[1]]
        if e.axes[0] == 0:
            leaves = [x[e.places] * (e.count / len(e.places)) for x in leaves]
        pairs = [(vector(leaves), vector(exact[1]))]
    else:
        found, exact = (_array(x) for x in (found, exact))
        found, exact = (found[None], exact[None]) if e.single else (found[e.places], exact)
        pairs = [(found[:, i], exact[:, i]) for i in range(exact.shape[1])]
    largest = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)
    return largest if np.isfinite(largest) else np.inf


_KNOWN: dict[tuple, Any] = {}


def _exact(e: Ensemble, what: Callable) -> Any:
    """The same for those of one comparison: asked for once."""
    key = id(e), what
    if key not in _KNOWN:
        precise = e.exactly()
        # Not jitted once more: jaxode keeps its program, which serves ensembles of all sizes.
        _KNOWN[key] = jax.device_get(what(by_jaxode(precise))(*precise.inputs).value)
    return _KNOWN[key]


def on_host(function: Callable[[], Any]) -> Any:
    """What `function` gives in float64 on the processor; on the device where there is none."""
    try:
        place: Any = jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        place = contextlib.nullcontext()
    with place, jax.enable_x64(True):
        return function()


def _array(value: Any) -> np.ndarray:
    """An array of JAX or of torch in float64, here."""
    return np.asarray(value.cpu() if hasattr(value, "cpu") else value, np.float64)


def vector(leaves: Any) -> np.ndarray:
    """All numbers of arrays, end to end."""
    return np.concatenate([np.ravel(x) for x in leaves])
