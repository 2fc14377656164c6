"""Ensembles on the GPU: their solves by jaxode, and the errors of a sample of trajectories."""

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

# A function of parameters, initial states and times that returns end states and numbers of steps.
EndStates = Callable[[PyTree, Array, Array], tuple[Array, Array]]
SAMPLE_SIZE = 64


@dataclasses.dataclass(frozen=True)
class GpuEnsemble:
    """Trajectories of `field(t, y, args)` from 0 to `t1`.

    `axes` are those of `args` and `y0`: 0 if each trajectory has its own, otherwise None; with two
    Nones there is a single trajectory, solved by `jo.solve`. With `fixed` all steps are `dt`. If
    `distinct` is given, the trajectories repeat after that many.
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
    distinct: int | None = None
    sample_size: int = SAMPLE_SIZE

    @property
    def single(self) -> bool:
        """True if there is one trajectory."""
        return self.axes == (None, None)

    @property
    def count(self) -> int:
        """The number of trajectories."""
        if self.single:
            return 1
        return len(self.y0) if self.axes[1] == 0 else len(jax.tree.leaves(self.args)[0])

    @property
    def inputs(self) -> tuple[PyTree, Array, Array]:
        """Parameters, initial states and times on the device."""
        cast = lambda x: jnp.asarray(np.asarray(x, self.dtype))  # noqa: E731
        return jax.tree.map(cast, self.args), cast(self.y0), cast([0.0, self.t1])

    @property
    def trajectory_shapes(self) -> tuple[PyTree, Any]:
        """The shapes of one trajectory's parameters and state."""

        def shape(x: Any, axis: int | None) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(np.shape(x)[axis is not None :], self.dtype)

        return jax.tree.map(lambda x: shape(x, self.axes[0]), self.args), shape(
            self.y0, self.axes[1]
        )

    @property
    def sample_indices(self) -> np.ndarray:
        """The trajectories whose errors are measured: a sample, or all distinct ones."""
        if self.distinct:
            return np.arange(min(self.count, self.distinct))
        return np.linspace(0, self.count - 1, self.sample_size).round().astype(int)

    def reference(self) -> "GpuEnsemble":
        """The sample in float64 with a tight tolerance."""

        def pick(x: Any, axis: int | None) -> Any:
            array = np.asarray(np.asarray(x, self.dtype), np.float64)
            return array if axis is None else array[self.sample_indices]

        solver, rtol, atol = ("dopri8", 1e-12, 1e-13)
        if self.solver != "tsit5":
            solver, rtol, atol = self.solver, 1e-11, 1e-16
        return dataclasses.replace(
            self, args=jax.tree.map(lambda x: pick(x, self.axes[0]), self.args),
            y0=pick(self.y0, self.axes[1]), rtol=rtol, atol=atol, solver=solver, dt=None,
            fixed=False, dtype=np.float64,
        )  # fmt: skip


def jaxode_ends(e: GpuEnsemble, kernel: bool = False) -> EndStates:
    """End states and numbers of steps by jaxode, with the discrete adjoint."""
    steps: dict[str, Any] = {"rtol": e.rtol, "atol": e.atol, "dt": e.dt}
    if e.fixed and e.dt:
        steps = {"controller": jo.Fixed(e.dt)}

    def ends(args: PyTree, y0: Array, ts: Array) -> tuple[Array, Array]:
        options = {"solver": e.solver, "max_steps": 16_384, **steps}
        if e.single:
            solution = jo.solve(e.field, y0, ts, args, throw=False, **options)
        else:
            options |= {"in_axes": (e.axes[1], None, e.axes[0]), "kernel": kernel}
            solution = jo.solve_batch(e.field, y0, ts, args, **options)
        return solution.y1, solution.stats.num_steps

    return ends


def forward(ends: EndStates) -> Callable[..., Outcome]:
    """A function that returns the end states as an outcome."""

    def solve(args: PyTree, y0: Array, ts: Array) -> Outcome:
        return _outcome(*ends(args, y0, ts))

    return solve


def gradient(ends: EndStates) -> Callable[..., Outcome]:
    """A function that returns the mean square of the end states and its gradient by parameters."""

    def value_and_gradient(args: PyTree, y0: Array, ts: Array) -> Outcome:
        def loss(args: PyTree) -> tuple[Array, Array]:
            y1, steps = ends(args, y0, ts)
            return jnp.mean(y1**2), steps

        (value, steps), gradients = jax.value_and_grad(loss, has_aux=True)(args)
        return _outcome((value, jax.tree.leaves(gradients)), steps)

    return value_and_gradient


def _outcome(value: Any, steps: Array) -> Outcome:
    """An outcome with the mean and the largest number of steps."""
    return Outcome(value, jnp.mean(steps.astype(jnp.float32)), jnp.max(steps))


def error(e: GpuEnsemble, quantity: Callable, found: Any) -> float:
    """The relative error of a value of `forward` or `gradient`, in norms over the sample.

    That of end states is the largest of their components; it is infinite if a value is not finite.
    """
    exact = on_host(lambda: _exact(e, quantity))
    sample = e.sample_indices
    if quantity is gradient:
        leaves = [_host_array(x) for x in found[1]]
        if e.axes[0] == 0:
            leaves = [x[sample] * (e.count / len(sample)) for x in leaves]
        pairs = [(concatenate(leaves), concatenate(exact[1]))]
    else:
        found, exact = (_host_array(x) for x in (found, exact))
        found, exact = (found[None], exact[None]) if e.single else (found[sample], exact)
        pairs = [(found[:, i], exact[:, i]) for i in range(exact.shape[1])]
    largest = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)
    return largest if np.isfinite(largest) else np.inf


_EXACT: dict[tuple, Any] = {}


def _exact(e: GpuEnsemble, quantity: Callable) -> Any:
    """The exact value, computed once for all methods of a comparison."""
    key = id(e), quantity
    if key not in _EXACT:
        precise = e.reference()
        # There is no outer jit, because jaxode caches a program that serves all ensemble sizes.
        _EXACT[key] = jax.device_get(quantity(jaxode_ends(precise))(*precise.inputs).value)
    return _EXACT[key]


def on_host(function: Callable[[], Any]) -> Any:
    """The value of `function` in float64 on the processor, or on the device if JAX has no other."""
    try:
        device: Any = jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        device = contextlib.nullcontext()
    with device, jax.enable_x64(True):
        return function()


def _host_array(value: Any) -> np.ndarray:
    """An array of JAX or of torch as one of NumPy in float64."""
    return np.asarray(value.cpu() if hasattr(value, "cpu") else value, np.float64)


def concatenate(leaves: Any) -> np.ndarray:
    """All elements of several arrays as one vector."""
    return np.concatenate([np.ravel(x) for x in leaves])
