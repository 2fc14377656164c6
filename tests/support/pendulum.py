"""A forced pendulum, and losses of its solves through each kind of saved output."""

import jax.numpy as jnp

import jaxode as jo
from tests.support.differences import weighted

QUERIES = jnp.array([0.31, 0.77, 1.1, 1.33])


def pendulum(t, y, args):
    """A pendulum with a time-dependent force, a stiffness `k` and a speed per component."""
    bend = -args["k"] * jnp.sin(y[0]) + jnp.sin(3 * t) * y[0] ** 2
    return args["speed"] * jnp.stack([y[1], bend])


def point(ts=(0.2, 0.5, 0.9, 1.4)):
    """All that a loss is differentiated by; seven steps of 0.17 and one cut short."""
    return {
        "y0": jnp.array([0.7, -0.3]),
        "args": {"k": jnp.array(2.0), "speed": jnp.array([1.1, 0.9])},
        "ts": jnp.array(ts),
    }


def read_out(t, y, args):
    """A function of time, state and arguments for `save`."""
    return {"product": y[0] * y[1] * args["k"], "when": jnp.cos(t) * y}


def loss_of(mode, **options):
    """A loss as a function of `point()`, through one kind of saved output."""

    def loss(p):
        ts = p["ts"][jnp.array([0, -1])] if mode == "ends" else p["ts"]
        save = {"ends": "ts", "function": read_out}.get(mode, mode)
        sol = jo.solve(pendulum, p["y0"], ts, p["args"], save=save, throw=False, **options)
        reached = jnp.arange(sol.ts.shape[0])[:, None] <= sol.stats.num_accepted
        ys = jnp.where(reached, sol.ys, 0.0) if mode == "steps" else sol.ys
        queries = sol(QUERIES) if mode == "dense" else ()
        return weighted((ys, 2.0 * sol.y1, queries))

    return loss
