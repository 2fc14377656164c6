"""Field evaluations of the way back: without the parameters in the error norm, and with them.

The plain continuous adjoint of Chen et al. (2018) has the parameters' integral in its state and in
its error norm. The seminorm leaves it out of the norm, quadrature out of the state; its nodes count
as evaluations too. Counted as the gradient runs, the evaluations of the solve itself taken off.
"""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

import jaxode as jo

from .neural_ode import PARAMS as BATCH_PARAMS
from .neural_ode import X as BATCH
from .neural_ode import distance
from .neural_ode import field as batch_field
from .timing import Row

TITLE = "Field evaluations of the way back: seminorm and quadrature, against the plain adjoint"
PLAIN = jo.Continuous("backsolve", seminorm=False)
WAYS = {"seminorm": jo.Continuous("backsolve"), "quadrature": jo.Continuous("quadrature")}
ASKED = ">= 1.54 (35% fewer)"


@dataclasses.dataclass(frozen=True)
class Task:
    """A field, its parameters, a start and times; the loss is the sum of squares at the times."""

    name: str
    field: Callable[[Array, Array, PyTree], Array]
    params: PyTree
    y0: Array
    ts: Array
    rtol: float = 1e-4
    atol: float = 1e-6

    def loss(self, params: PyTree, field: Callable, sensitivity: Any, tighter: float = 1) -> Array:
        rtol, atol = self.rtol / tighter, self.atol / tighter
        options: dict[str, Any] = {"rtol": rtol, "atol": atol, "sensitivity": sensitivity}
        return jnp.sum(jo.solve(field, self.y0, self.ts, params, max_steps=8192, **options).ys ** 2)

    def gradient(self, sensitivity: Any, tighter: float = 1) -> PyTree:
        run = jax.grad(lambda params: self.loss(params, self.field, sensitivity, tighter))
        return jax.jit(run)(self.params)

    def evaluations(self, sensitivity: Any) -> int:
        """Evaluations of the field on the way back."""
        count = 0

        def tell() -> None:
            nonlocal count
            count += 1

        def counting(t: Array, y: Array, params: PyTree) -> Array:
            jax.debug.callback(tell)
            return self.field(t, y, params)

        def run(function: Callable) -> int:
            nonlocal count
            count = 0
            jax.block_until_ready(jax.jit(function)(self.params))
            jax.effects_barrier()
            return count

        def loss(params: PyTree) -> Array:
            return self.loss(params, counting, sensitivity)

        return run(jax.grad(loss)) - run(loss)


def lotka_volterra(t: Array, y: Array, k: Array) -> Array:
    return jnp.stack([k[0] * y[0] - k[1] * y[0] * y[1], k[2] * y[0] * y[1] - k[3] * y[1]])


def lorenz(t: Array, y: Array, k: Array) -> Array:
    return jnp.stack([k[0] * (y[1] - y[0]), y[0] * (k[1] - y[2]) - y[1], y[0] * y[1] - k[2] * y[2]])


def pendulum(t: Array, y: Array, k: Array) -> Array:
    return jnp.stack([y[1], -k[0] * y[1] - k[1] * jnp.sin(y[0])])


_NET = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, key=jax.random.key(7))
_PARAMS, _STATIC = eqx.partition(_NET, eqx.is_inexact_array)


def network(t: Array, y: Array, params: PyTree) -> Array:
    return eqx.combine(params, _STATIC)(y)


def tasks() -> list[Task]:
    double = jax.tree.map(lambda x: 2.0 * x.astype(jnp.float64), _PARAMS)
    return [
        Task(
            "Lotka-Volterra to t=10, 11 times",
            lotka_volterra, jnp.array([1.5, 1.0, 1.0, 3.0]), jnp.ones(2), jnp.linspace(0, 10, 11),
        ),
        Task(
            "Lorenz to t=5, 51 times",
            lorenz, jnp.array([10.0, 28.0, 8 / 3]), jnp.ones(3), jnp.linspace(0, 5, 51),
        ),
        Task(
            "damped pendulum to t=10, 11 times",
            pendulum, jnp.array([0.2, 4.0]), jnp.array([2.0, 0.0]), jnp.linspace(0, 10, 11),
        ),
        Task(
            "MLP 2-64-64-2 to t=5, 2 times",
            network, double, jnp.array([1.0, -0.5]), jnp.array([0.0, 5.0]),
        ),
        Task(
            "neural ODE 2-64-64-2 to t=1, 256 samples as one system",
            batch_field, BATCH_PARAMS, BATCH, jnp.array([0.0, 1.0]),
        ),
    ]  # fmt: skip


def rows() -> list[Row]:
    found, ratios = [], {name: [] for name in WAYS}
    for task in tasks():
        plain, exact = task.evaluations(PLAIN), task.gradient("discrete", 1e5)
        peer_error = distance(task.gradient(PLAIN), exact)
        for name, way in WAYS.items():
            mine, error = task.evaluations(way), distance(task.gradient(way), exact)
            ratios[name].append(mine / plain)
            note = _fewer(mine / plain)
            work = f"{task.name}: {name}"
            found.append(Row(work, mine, plain, "", error, peer_error, note))
    for name, of_tasks in ratios.items():
        middle = statistics.median(of_tasks)
        found.append(Row(f"median: {name}", middle, 1.0, ASKED, note=_fewer(middle)))
    return found


def _fewer(share: float) -> str:
    return f"{100 * abs(1 - share):.0f}% {'fewer' if share < 1 else 'more'}"
