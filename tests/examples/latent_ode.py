"""Noisy spirals, reconstructed from a latent trajectory: `latent_ode` of torchdiffeq."""

import jax
import jax.numpy as jnp
import optax

import jaxode as jo

SERIES, STEPS = 32, 100

data = jo.datasets.latent_spirals(SERIES, key=jax.random.key(0), shown=50, noise=0.1)
model = jo.nn.LatentODE(2, 4, key=jax.random.key(1), rtol=1e-2, atol=1e-3)


def loss(model, batch, key):
    return model.elbo_loss(data.ts, *batch, key=key)


model, log = jo.fit(model, (data.xs, data.mask), loss=loss, steps=STEPS, optimizer=optax.adam(1e-2))
found = model.reconstruct(data.ts, data.xs, data.mask)
error = float(jnp.sqrt(jnp.mean((found - data.truth[:, :100]) ** 2)))
spread = float(jnp.std(data.truth[:, :100]))
assert error < 0.3 * spread, (error, spread)
