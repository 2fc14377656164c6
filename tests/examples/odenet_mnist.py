"""Handwritten digits, classified through an ODE block: `odenet_mnist` of torchdiffeq."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import jaxode as jo

STEPS, WIDTH = 200, 16

images, labels = jo.datasets.digits()
train, test = slice(0, 1500), slice(1500, None)
keys = jax.random.split(jax.random.key(0), 3)
network = eqx.nn.MLP(WIDTH, WIDTH, 32, 1, activation=jnp.tanh, key=keys[1])
layers = [
    eqx.nn.Lambda(jnp.ravel),
    eqx.nn.Linear(64, WIDTH, key=keys[0]),
    jo.NeuralODE(network, rtol=1e-2, atol=1e-3),
    eqx.nn.Linear(WIDTH, 10, key=keys[2]),
]
data, adam = (images[train], labels[train]), optax.adam(1e-2)
model = eqx.nn.Sequential(layers)
model, log = jo.fit(model, data, loss="cross_entropy", steps=STEPS, batch_size=64, optimizer=adam)
found = jnp.argmax(jax.vmap(model)(images[test]), axis=-1)
accuracy = float(jnp.mean(found == labels[test]))
assert accuracy > 0.8, accuracy
