"""Problems for the way back: equations of a few parameters, and networks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.speed.neural_ode import PARAMS as BATCH_PARAMS
from benchmarks.speed.neural_ode import X as BATCH
from benchmarks.speed.neural_ode import field as batch_field


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


def equations() -> list[Task]:
    """Equations of two to four parameters."""
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
    ]  # fmt: skip


def networks() -> list[Task]:
    """Networks of 720 to 4,500 parameters, as they come, their weights doubled at most."""
    return [mlp(), batch(), normalising_flow(), hamiltonian(), convolutions()]


def _network(inputs: int, outputs: int, width: int, scale: float, seed: int) -> tuple[PyTree, Any]:
    """The weights of a multilayer perceptron of two hidden layers, and the rest of it."""
    key = jax.random.key(seed)
    net = eqx.nn.MLP(inputs, outputs, width, 2, activation=jnp.tanh, key=key)
    params, rest = eqx.partition(net, eqx.is_inexact_array)
    return jax.tree.map(lambda x: scale * x.astype(jnp.float64), params), rest


def mlp() -> Task:
    params, rest = _network(2, 2, 64, 2.0, 7)

    def field(t: Array, y: Array, params: PyTree) -> Array:
        return eqx.combine(params, rest)(y)

    start, ts = jnp.array([1.0, -0.5]), jnp.array([0.0, 5.0])
    return Task("MLP 2-64-64-2 to t=5, its end", field, params, start, ts)


def batch() -> Task:
    name = "MLP 2-64-64-2 to t=1, 256 samples as one system"
    return Task(name, batch_field, BATCH_PARAMS, BATCH, jnp.array([0.0, 1.0]))


def normalising_flow() -> Task:
    """States and the logarithm of their density, by the trace of the Jacobian."""
    params, rest = _network(3, 2, 32, 1.5, 1)

    def field(t: Array, y: Array, params: PyTree) -> Array:
        net = eqx.combine(params, rest)

        def one(z: Array) -> Array:
            def velocity(x: Array) -> Array:
                return net(jnp.append(x, t))

            trace = jnp.trace(jax.jacfwd(velocity)(z[:2]))
            return jnp.append(velocity(z[:2]), -trace)

        return jax.vmap(one)(y)

    samples = jax.random.normal(jax.random.key(3), (100, 2), jnp.float64)
    start = jnp.concatenate([samples, jnp.zeros((100, 1))], 1)
    name = "continuous normalising flow 3-32-32-2, 100 samples"
    return Task(name, field, params, start, jnp.array([0.0, 1.0]))


def hamiltonian() -> Task:
    params, rest = _network(4, 1, 64, 2.0, 2)

    def field(t: Array, y: Array, params: PyTree) -> Array:
        slope = jax.grad(lambda z: eqx.combine(params, rest)(z)[0])(y)
        return jnp.concatenate([slope[2:], -slope[:2]])

    start, ts = jnp.array([1.0, 0.5, -0.3, 0.2]), jnp.linspace(0, 10, 11)
    return Task("Hamiltonian network 4-64-64-1 to t=10, 11 times", field, params, start, ts)


def convolutions() -> Task:
    keys = jax.random.split(jax.random.key(9))
    weights = [
        0.15 * jax.random.normal(key, shape, jnp.float64)
        for key, shape in zip(keys, [(8, 5, 3, 3), (5, 8, 3, 3)], strict=True)
    ]

    def convolve(y: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(y, kernel, (1, 1), "SAME")

    def field(t: Array, y: Array, weights: list[Array]) -> Array:
        return convolve(jnp.tanh(convolve(y, weights[0])), weights[1])

    start = jax.random.normal(jax.random.key(8), (8, 5, 8, 8), jnp.float64)
    name = "two convolutions, 8 images of 5x8x8"
    return Task(name, field, weights, start, jnp.array([0.0, 1.0]))
