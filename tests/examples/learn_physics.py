"""Gravity and bounce of a ball, learned from when it was heard: `learn_physics` of torchdiffeq."""

import jax.numpy as jnp
import optax

import jaxode as jo

STEPS, BOUNCES = 300, 4


def fall(t, y, p):
    return jnp.stack([y[1], -p["gravity"]])


def reflect(t, y, p):
    return jnp.stack([y[0], -p["kept"] * y[1]])


def bounce_times(p, start=(2.0, 0.0)):
    bounce = jo.Event(lambda t, y: y[0], direction="down", apply=reflect, terminal=BOUNCES)
    sol = jo.solve(fall, jnp.array(start), (0.0, jnp.inf), p, events=bounce, max_events=BOUNCES)
    assert sol.events
    return sol.events.ts


heard = bounce_times({"gravity": jnp.array(9.81), "kept": jnp.array(0.8)})[None]
guess = {"gravity": jnp.array(6.0), "kept": jnp.array(0.6)}
loss = lambda p, heard: jnp.mean((bounce_times(p) - heard) ** 2)  # noqa: E731
found, log = jo.fit(guess, heard, loss=loss, steps=STEPS, optimizer=optax.adam(1e-1))
assert abs(found["gravity"] - 9.81) < 0.05 and abs(found["kept"] - 0.8) < 0.01, found
