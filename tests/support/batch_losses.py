"""Losses of batches and of their single solves: each save mode, with shared and own times."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import jaxode as jo
from tests.support.batches import one_by_one
from tests.support.differences import weighted

N = 7
TS = jnp.array([0.2, 0.5, 0.9, 1.4])
# Spans whose number of steps of 0.17 no perturbation of the tests changes.
OWN_TS = jnp.array([0.2, 1.4, 0.1, 0.3, 0.0, 1.1, -0.2])[:, None] + jnp.outer(
    jnp.array([1.2, -1.2, 0.5, 0.1, 2.0, -0.7, 0.9]), jnp.array([0.0, 0.3, 0.6, 1.0])
)
ENDS = (0.2, 0.2 + OWN_TS[:, -1] - OWN_TS[:, 0])
ODD_TS = jnp.array(
    [
        [0.3, 0.3, 0.3, 0.3],
        [1.4, 0.9, 0.5, 0.2],
        [0.2, 0.5, 0.9, 1.4],
        [0.0, 0.0, 0.6, 0.7],
        [0.5, 0.5, 0.5, 0.5],
        [0.1, 0.2, 0.4, 0.4],
        [3.0, 2.0, 2.0, 1.0],
    ]
)
MAPS_K = {"k": 0, "speed": None}
QUERY_SHARES = jnp.array([0.1, 0.45, 0.95])


class Field(eqx.Module):
    bend: Any
    inner: Any
    name: str = eqx.field(static=True, default="field")

    def __call__(self, t, y, args):
        bend = -args["k"] * jnp.sin(y[0]) + self.bend * jnp.sin(3 * t) * y[0] ** 2
        return args["speed"] * jnp.stack([y[1], bend]) + self.inner * y


def point(ts):
    return {
        "y0": 0.7 * jax.random.normal(jax.random.key(0), (N, 2)),
        "args": {"k": jnp.linspace(0.5, 4.0, N), "speed": jnp.array([1.1, 0.9])},
        "inner": jnp.array([-0.2, 0.1]),
        "bend": jnp.array(1.2),
        "ts": ts,
    }


@dataclasses.dataclass(frozen=True)
class BatchLoss:
    """A loss through one save mode, with one solver and one kind of times."""

    save: str
    solver: Any
    ts: str

    @property
    def point(self):
        ts = {"shared": TS, "own": OWN_TS, "odd": ODD_TS, "ends": ENDS}[self.ts]
        return point(ts)

    @property
    def axes(self):
        return {"shared": None, "ends": (None, 0)}.get(self.ts, 0)

    @property
    def options(self):
        if self.solver == "tsit5":
            return {"rtol": 1e-10, "atol": 1e-10, "max_steps": 512, "dt": 0.5}
        return {"controller": jo.Fixed(0.17), "max_steps": 16}

    def outputs(self, solve, p, y0, ts, args, **more):
        """The saved values and the end of a solve or a batch, of which the loss is made."""
        save = {"function": self.read_out(p), "ends": "ts"}.get(self.save, self.save)
        field = Field(p["bend"], p["inner"])
        # The field is a module, or a plain function that closes over one.
        f = field if self.save == "steps" else lambda t, y, args: p["inner"] * field(t, y, args)
        sol = solve(f, y0, ts, args, solver=self.solver, save=save, **self.options, **more)
        ys = sol.ys
        if self.save == "steps":
            reached = jnp.arange(sol.ts.shape[-1]) <= sol.stats.num_accepted[..., None]
            ys = jnp.where(reached[..., None], ys, 0.0), jnp.where(reached, sol.ts, 0.0)
        elif self.save == "dense":
            times = sol.ts[..., :1] + QUERY_SHARES * (sol.ts[..., -1:] - sol.ts[..., :1])
            is_batch = sol.status.ndim == 1
            axes = (0, None if times.ndim == 1 else 0)
            ys = jax.vmap(lambda d, t: d(t), axes)(sol.dense, times) if is_batch else sol(times)
        return ys, 2.0 * sol.y1

    def read_out(self, p):
        def read_out(t, y, args):
            return {"product": y[0] * y[1] * args["k"], "when": jnp.cos(t) * y * p["inner"]}

        return read_out

    def batch(self, p):
        """The loss of all trajectories, solved as a batch in three lanes."""
        in_axes = (0, self.axes, MAPS_K)
        inputs = p["y0"], p["ts"], p["args"]
        return weighted(self.outputs(jo.solve_batch, p, *inputs, in_axes=in_axes, lanes=3))

    def loop(self, p):
        """The same loss of single solves, one trajectory after another."""

        def solve_one(y0, ts, args):
            return self.outputs(jo.solve, p, y0, ts, args)

        inputs = p["y0"], p["ts"], p["args"]
        return weighted(one_by_one(solve_one, (0, self.axes, MAPS_K), *inputs))
