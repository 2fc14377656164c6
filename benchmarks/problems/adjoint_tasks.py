"""Problems whose gradients are measured: equations of a few parameters, and neural networks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.problems import lotka_volterra, neural_ode
from benchmarks.problems.lorenz import PARAMETERS, lorenz


@dataclasses.dataclass(frozen=True)
class GradientTask:
    """An initial value problem whose loss is the sum of squares at the times `ts`."""

    name: str
    field: Callable[[Array, Array, PyTree], Array]
    params: PyTree
    y0: Array
    ts: Array
    rtol: float = 1e-4
    atol: float = 1e-6

    def loss(self, params: PyTree, field: Callable, sensitivity: Any, tighten: float = 1) -> Array:
        """The loss by `field`, with tolerances divided by `tighten`."""
        rtol, atol = self.rtol / tighten, self.atol / tighten
        options: dict[str, Any] = {"rtol": rtol, "atol": atol, "sensitivity": sensitivity}
        return jnp.sum(jo.solve(field, self.y0, self.ts, params, max_steps=8192, **options).ys ** 2)

    def gradient(self, sensitivity: Any, tighten: float = 1) -> PyTree:
        """The gradient of the loss by the parameters."""
        gradient = jax.grad(lambda params: self.loss(params, self.field, sensitivity, tighten))
        return jax.jit(gradient)(self.params)

    def backward_evaluations(self, sensitivity: Any) -> int:
        """The number of evaluations of the vector field in the backward pass."""
        count = 0

        def increment() -> None:
            nonlocal count
            count += 1

        def counting(t: Array, y: Array, params: PyTree) -> Array:
            jax.debug.callback(increment)
            return self.field(t, y, params)

        def evaluations(function: Callable) -> int:
            nonlocal count
            count = 0
            jax.block_until_ready(jax.jit(function)(self.params))
            jax.effects_barrier()
            return count

        def loss(params: PyTree) -> Array:
            return self.loss(params, counting, sensitivity)

        return evaluations(jax.grad(loss)) - evaluations(loss)


def pendulum(t: Array, y: Array, k: Array) -> Array:
    """The vector field of a damped pendulum."""
    return jnp.stack([y[1], -k[0] * y[1] - k[1] * jnp.sin(y[0])])


def equations() -> list[GradientTask]:
    """Gradient tasks of equations with two to four parameters."""
    return [
        GradientTask(
            "Lotka-Volterra to t=10, 11 times",
            lotka_volterra.lotka_volterra, jnp.array(lotka_volterra.PARAMETERS), jnp.ones(2),
            jnp.linspace(0, 10, 11),
        ),
        GradientTask(
            "Lorenz to t=5, 51 times",
            lorenz, jnp.array(PARAMETERS), jnp.ones(3), jnp.linspace(0, 5, 51),
        ),
        GradientTask(
            "damped pendulum to t=10, 11 times",
            pendulum, jnp.array([0.2, 4.0]), jnp.array([2.0, 0.0]), jnp.linspace(0, 10, 11),
        ),
    ]  # fmt: skip


def networks() -> list[GradientTask]:
    """Gradient tasks of networks with 720 to 4,500 parameters."""
    return [mlp(), mlp_on_batch(), normalising_flow(), hamiltonian(), convolutions()]


def _network(inputs: int, outputs: int, width: int, scale: float, seed: int) -> tuple[PyTree, Any]:
    """Weights and static part of a multilayer perceptron with two hidden layers."""
    key = jax.random.key(seed)
    net = eqx.nn.MLP(inputs, outputs, width, 2, activation=jnp.tanh, key=key)
    params, static = eqx.partition(net, eqx.is_inexact_array)
    return jax.tree.map(lambda x: scale * x.astype(jnp.float64), params), static


def mlp() -> GradientTask:
    """A multilayer perceptron and the end of one trajectory."""
    params, static = _network(2, 2, 64, 2.0, 7)

    def field(t: Array, y: Array, params: PyTree) -> Array:
        return eqx.combine(params, static)(y)

    y0, ts = jnp.array([1.0, -0.5]), jnp.array([0.0, 5.0])
    return GradientTask("MLP 2-64-64-2 to t=5, its end", field, params, y0, ts)


def mlp_on_batch() -> GradientTask:
    """A multilayer perceptron on a batch, solved as one system."""
    name = "MLP 2-64-64-2 to t=1, 256 samples as one system"
    return GradientTask(
        name, neural_ode.batch_field, neural_ode.PARAMS, neural_ode.SAMPLES, neural_ode.TIMES
    )


def normalising_flow() -> GradientTask:
    """A continuous normalising flow: states and log densities, by the trace of the Jacobian."""
    params, static = _network(3, 2, 32, 1.5, 1)

    def field(t: Array, y: Array, params: PyTree) -> Array:
        net = eqx.combine(params, static)

        def state_and_log_density(z: Array) -> Array:
            def velocity(x: Array) -> Array:
                return net(jnp.append(x, t))

            trace = jnp.trace(jax.jacfwd(velocity)(z[:2]))
            return jnp.append(velocity(z[:2]), -trace)

        return jax.vmap(state_and_log_density)(y)

    samples = jax.random.normal(jax.random.key(3), (100, 2), jnp.float64)
    y0 = jnp.concatenate([samples, jnp.zeros((100, 1))], 1)
    name = "continuous normalising flow 3-32-32-2, 100 samples"
    return GradientTask(name, field, params, y0, jnp.array([0.0, 1.0]))


def hamiltonian() -> GradientTask:
    """A Hamiltonian neural network with 11 save points."""
    params, static = _network(4, 1, 64, 2.0, 2)

    def field(t: Array, y: Array, params: PyTree) -> Array:
        dh = jax.grad(lambda z: eqx.combine(params, static)(z)[0])(y)
        return jnp.concatenate([dh[2:], -dh[:2]])

    y0, ts = jnp.array([1.0, 0.5, -0.3, 0.2]), jnp.linspace(0, 10, 11)
    return GradientTask("Hamiltonian network 4-64-64-1 to t=10, 11 times", field, params, y0, ts)


def convolutions() -> GradientTask:
    """Two convolutions on a batch of images."""
    keys = jax.random.split(jax.random.key(9))
    weights = [
        0.15 * jax.random.normal(key, shape, jnp.float64)
        for key, shape in zip(keys, [(8, 5, 3, 3), (5, 8, 3, 3)], strict=True)
    ]

    def convolve(y: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(y, kernel, (1, 1), "SAME")

    def field(t: Array, y: Array, weights: list[Array]) -> Array:
        return convolve(jnp.tanh(convolve(y, weights[0])), weights[1])

    y0 = jax.random.normal(jax.random.key(8), (8, 5, 8, 8), jnp.float64)
    name = "two convolutions, 8 images of 5x8x8"
    return GradientTask(name, field, weights, y0, jnp.array([0.0, 1.0]))
