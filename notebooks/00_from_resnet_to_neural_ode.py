# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · From a residual network to a neural ODE
#
# A residual block adds a small change to its input, `x + g(x)`. So does one step of Euler's method
# for the differential equation `dx/dt = f(x)`: `x + dt * f(x)`. A network with many residual
# blocks that share their weights *is* a differential equation, solved with fixed steps. Once it is
# one, better solvers can do the stepping.
#
# This is where we get to: spirals that neither model has seen, for four times as long as in the
# training. Grey is the truth.

# %%
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.integrate import solve_ivp

import jaxode as jo

FAST = os.environ.get("JAXODE_FAST") == "1"  # a short run, for the tests
jax.config.update("jax_enable_x64", True)
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#888888"

# %% [markdown]
# ![Spirals continued by a GRU and by a neural ODE](figures/00_spirals.png)
#
# ## Euler steps are residual blocks
#
# Ten blocks `x + f(x) / 10` against ten steps of Euler's method from 0 to 1, on the same network:

# %%
network = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.sin, key=jax.random.key(0))
x = jnp.array([1.0, -0.5])


def field(t, y):
    return network(y)


residual = x
for _ in range(10):
    residual = residual + network(residual) / 10

euler = jo.solve(field, x, (0.0, 1.0), solver="euler", dt=0.1)
print("ten residual blocks:", residual)
print("ten Euler steps:    ", euler.y1)
print("largest difference: ", float(jnp.abs(residual - euler.y1).max()))

# %% [markdown]
# The same to rounding. What the blocks compute is the solution of the ODE, with an error that
# halves where their number doubles. A solver of higher order, whose steps follow a tolerance, gets
# there with far fewer evaluations of the network. Here over ten units of time:

# %%
exact = jo.solve(field, x, (0.0, 10.0), rtol=1e-12, atol=1e-14).y1
blocks = np.array([16, 32, 64, 128, 256, 512, 1024])
by_blocks = [jo.solve(field, x, (0.0, 10.0), solver="euler", dt=10 / n) for n in blocks]
tolerances = 10.0 ** -np.arange(2, 10)
by_tolerance = [jo.solve(field, x, (0.0, 10.0), rtol=tol, atol=tol) for tol in tolerances]


def error(sol):
    return float(jnp.abs(sol.y1 - exact).max())


fig, ax = plt.subplots(figsize=(6, 3.4))
ax.loglog(blocks, [*map(error, by_blocks)], "o-", color=ORANGE, label="residual blocks (Euler)")
evaluations = [int(sol.stats.num_evaluations) for sol in by_tolerance]
ax.loglog(evaluations, [*map(error, by_tolerance)], "s-", color=BLUE, label="Tsit5 by tolerance")
ax.set(xlabel="evaluations of the network", ylabel="error at $t = 10$")
ax.legend()
fig.tight_layout()

# %% [markdown]
# ## A first equation, beside SciPy
#
# `dy/dx = x + y/5` with `y(0) = -3` has the solution `y = 22 exp(x/5) - 5x - 25`.

# %%
xs = jnp.linspace(0.0, 5.0, 51)
ours = jo.solve(lambda x, y: x + y / 5, -3.0, xs, rtol=1e-8, atol=1e-10)
theirs = solve_ivp(
    lambda x, y: x + y / 5, (0, 5), [-3.0], t_eval=np.asarray(xs), rtol=1e-8, atol=1e-10
)
closed_form = 22 * jnp.exp(xs / 5) - 5 * xs - 25
print("error of jaxode:", float(jnp.abs(ours.ys - closed_form).max()))
print("error of SciPy: ", float(np.abs(theirs.y[0] - closed_form).max()))

# %% [markdown]
# The same equation; but this solve is a function that JAX differentiates. How does `y(5)` depend
# on the start?


# %%
def end(y0):
    return jo.solve(lambda x, y: x + y / 5, y0, (0.0, 5.0), rtol=1e-8, atol=1e-10).y1


print(f"dy(5)/dy(0) = {float(jax.grad(end)(-3.0)):.6f}, exactly e = {np.e:.6f}")

# %% [markdown]
# ## Spirals, learned
#
# 60 noisy spirals, of which both models see the first quarter. Given a start, they have to go on
# to the end. The neural ODE learns the field. A recurrent network that predicts each point from
# the last, a GRU, is what one would try first.

# %%
MATRIX = jnp.array([[-0.1, 2.0], [-2.0, -0.1]])
TS, SEEN = jnp.linspace(0.0, 6.0, 121), 31


def spiral(t, y):
    return MATRIX @ y**3


def spirals(starts):
    return jo.solve_batch(spiral, starts, TS, rtol=1e-8, atol=1e-10).ys


angles = jax.random.uniform(jax.random.key(1), (60,), maxval=2 * jnp.pi)
radii = jax.random.uniform(jax.random.key(2), (60,), minval=0.5, maxval=1.5)
starts = radii[:, None] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
truth = spirals(starts)
data = truth + 0.03 * jax.random.normal(jax.random.key(3), truth.shape)


class Recurrent(eqx.Module):
    """A GRU that is fed its own predictions."""

    first: eqx.nn.Linear
    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __call__(self, x, count):
        def step(hidden, _):
            hidden = self.cell(self.out(hidden), hidden)
            return hidden, self.out(hidden)

        return jnp.concatenate([x[None], jax.lax.scan(step, self.first(x), length=count - 1)[1]])


k1, k2, k3, k4 = jax.random.split(jax.random.key(4), 4)
recurrent = Recurrent(
    eqx.nn.Linear(2, 20, key=k1), eqx.nn.GRUCell(2, 20, key=k2), eqx.nn.Linear(20, 2, key=k3)
)
neural = jo.NeuralODE(eqx.nn.MLP(2, 2, 32, 2, activation=jnp.tanh, key=k4), rtol=1e-4)


def loss_of_ode(model, batch):
    return jnp.mean((model(batch[:, 0], TS[:SEEN]) - batch[:, :SEEN]) ** 2)


def loss_of_gru(model, batch):
    return jnp.mean((jax.vmap(lambda y: model(y, SEEN))(batch[:, 0]) - batch[:, :SEEN]) ** 2)


steps = 30 if FAST else 2000
options = {"steps": steps, "optimizer": optax.adam(optax.cosine_decay_schedule(1e-2, steps))}
neural, ode_log = jo.fit(neural, data, loss=loss_of_ode, progress=False, **options)
recurrent, gru_log = jo.fit(recurrent, data, loss=loss_of_gru, progress=False, **options)
print("neural ODE:", ode_log.summary())
print("GRU:       ", gru_log.summary())

# %%
new = jnp.array([[1.3, 0.3], [-0.9, 0.7], [0.2, -1.1]])
wanted = spirals(new)
found = {"GRU": jax.vmap(lambda y: recurrent(y, TS.size))(new), "neural ODE": neural(new, TS)}
for name, model in (("GRU", recurrent), ("neural ODE", neural)):
    weights = sum(w.size for w in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    off = jnp.sqrt(jnp.mean((found[name] - wanted) ** 2, (0, 2)))
    print(
        f"{name:10s} {weights:5d} weights, error in the span of the training "
        f"{float(off[:SEEN].mean()):.3f}, beyond it {float(off[SEEN:].mean()):.3f}"
    )

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 4.1), sharex=True, sharey=True)
for ax, (name, colour) in zip(axes, (("GRU", ORANGE), ("neural ODE", BLUE)), strict=True):
    for true, own in zip(wanted, found[name], strict=True):
        ax.plot(*true.T, color=GREY, linewidth=4, alpha=0.5)
        ax.plot(*own.T, color=colour, linewidth=1.5)
        ax.plot(*own[0], "o", color=colour)
    ax.set(xlabel="$y_1$", aspect="equal")
    ax.set_title(name, color=colour)
axes[0].set(ylabel="$y_2$")
fig.tight_layout()
if not FAST:
    fig.savefig("figures/00_spirals.png", dpi=110)

# %% [markdown]
# The neural ODE is nearer to the truth in the span of the training, with fewer weights; beyond it
# both are about as good, since a GRU that is fed its own predictions is a rule for steps too. If
# points at equal distances are all that you have and need, a GRU does. The neural ODE gives the
# state at any time, takes points at times of any distances, and goes backwards as well: see
# [irregular series](../docs/models.md#irregular-series).
#
# ## What to try next
#
# - Another network as the field, or another solver: `jo.NeuralODE(..., solver="dopri8")`.
# - Fewer spirals, more noise, a longer span.
# - [01](01_classify.ipynb) trains a neural ODE as a classifier; [02](02_which_gradient.ipynb)
#   compares the ways to differentiate a solve.
