"""A spiral, learned from short pieces of it: `ode_demo` of torchdiffeq."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import jaxode as jo

STEPS, LENGTH = 600, 20
MATRIX = jnp.array([[-0.1, 2.0], [-2.0, -0.1]])
TS = jnp.linspace(0.0, 5.0, 201)

truth = jo.solve(lambda t, y: y**3 @ MATRIX, jnp.array([2.0, 0.0]), TS, rtol=1e-5).ys
pieces = jnp.stack([truth[i : i + LENGTH] for i in range(len(TS) - LENGTH)])
network = eqx.nn.MLP(2, 2, 50, 1, activation=jnp.tanh, key=jax.random.key(0))


def loss(model, pieces):
    return jnp.mean(jnp.abs(model(pieces[:, 0], TS[:LENGTH]) - pieces))


adam = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))
layers = eqx.nn.Sequential([eqx.nn.Lambda(lambda y: y**3), network])
model = jo.NeuralODE(layers, rtol=1e-3, atol=1e-4)
model, log = jo.fit(model, pieces, loss=loss, steps=STEPS, batch_size=20, optimizer=adam)
error = float(jnp.mean(jnp.abs(model(truth[0], TS) - truth)))
assert error < 0.15, error
