"""When a ball bounces, and how that changes with its height: `bouncing_ball` of torchdiffeq."""

import jax
import jax.numpy as jnp

import jaxode as jo

HEIGHT, GRAVITY, KEPT, BOUNCES = 10.0, 9.81, 0.9, 5


def fall(t, y):
    return jnp.stack([y[1], -GRAVITY])


def reflect(t, y):
    return jnp.stack([y[0], -KEPT * y[1]])


def bounce_times(height):
    start, ends = jnp.stack([height, 0.0]), (0.0, jnp.inf)
    bounce = jo.Event(lambda t, y: y[0], direction="down", apply=reflect, terminal=BOUNCES)
    sol = jo.solve(fall, start, ends, events=bounce, max_events=BOUNCES)
    assert sol.events
    return sol.events.ts


times, slopes = bounce_times(HEIGHT), jax.jacobian(bounce_times)(HEIGHT)
flights = jnp.sqrt(2 * HEIGHT / GRAVITY) * jnp.array([1, *(2 * KEPT ** jnp.arange(1, BOUNCES))])
assert jnp.allclose(times, jnp.cumsum(flights), rtol=1e-3), times
assert jnp.allclose(slopes, times / (2 * HEIGHT), rtol=1e-3), slopes
