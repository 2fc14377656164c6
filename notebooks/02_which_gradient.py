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
# # 02 · Which gradient?
#
# A solve can be differentiated in several ways: through its steps (`"discrete"`), by the adjoint
# equation backwards in time (`"adjoint"`), through steps that are undone (`"reversible"`), or
# forwards (`"forward"`). Here they are on one page: how far off, how long, how much memory. Then
# two problems on which some of them fail: a stiff one, and chaos.

# %%
import os
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxode as jo

FAST = os.environ.get("JAXODE_FAST") == "1"  # a short run, for the tests
jax.config.update("jax_enable_x64", True)
COLOURS = dict(zip("abcdef", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")))

# %% [markdown]
# ![Error against tolerance of five gradients](figures/02_errors.png)
#
# ## The same gradient, five times
#
# A network in the plane, solved from 0 to 5 for 64 starts; the loss is the squared size of the
# ends. The reference is the discrete gradient at a tolerance of 1e-12.

# %%
network = eqx.nn.MLP(2, 2, 32, 2, activation=jnp.tanh, key=jax.random.key(0))
starts = jax.random.normal(jax.random.key(1), (8 if FAST else 64, 2))
weights, rest = eqx.partition(network, eqx.is_inexact_array)
WAYS = {
    "discrete": jo.Discrete(),
    "discrete, 3 states kept": jo.Discrete(memory=3),
    "adjoint": jo.Continuous(),
    "adjoint, interpolated": jo.Continuous("interpolate"),
    "reversible": jo.Reversible(),
}


def loss(weights, way, tolerance):
    field = lambda t, y: 3 * eqx.combine(weights, rest)(y)
    options = {"rtol": tolerance, "atol": tolerance, "sensitivity": way, "max_steps": 256}
    return jnp.mean(jo.solve_batch(field, starts, (0.0, 5.0), **options).y1 ** 2)


def distance(a, b):
    flat = lambda tree: jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
    return float(jnp.linalg.norm(flat(a) - flat(b)) / jnp.linalg.norm(flat(b)))


reference = jax.grad(loss)(weights, jo.Discrete(), 1e-12)
for name, way in WAYS.items():
    gradient = jax.jit(lambda w, way=way: jax.grad(loss)(w, way, 1e-5)).lower(weights).compile()
    memory = gradient.memory_analysis().temp_size_in_bytes / 1024
    found = jax.block_until_ready(gradient(weights))
    begin = time.perf_counter()
    for _ in range(10):
        jax.block_until_ready(gradient(weights))
    milliseconds = 100 * (time.perf_counter() - begin)
    error = distance(found, reference)
    print(f"{name:24s} error {error:.1e}   {milliseconds:6.2f} ms   {memory:7.0f} KiB")

# %% [markdown]
# `"discrete"` is the exact derivative of what was computed, and the default. The adjoint keeps no
# steps: its memory is flat, its gradient is that of the equation. The error of all of them falls
# with the tolerance:

# %%
tolerances = 10.0 ** -np.arange(2, 5 if FAST else 9)
fig, ax = plt.subplots(figsize=(6, 3.6))
for (name, way), colour in zip(WAYS.items(), COLOURS.values()):
    of_tolerance = jax.jit(lambda tol, way=way: jax.grad(loss)(weights, way, tol))
    errors = [distance(of_tolerance(tol), reference) for tol in tolerances]
    ax.loglog(tolerances, errors, "o-", color=colour, label=name, markersize=4)
ax.set(xlabel="tolerance of the solve", ylabel="error of the gradient, relative")
ax.invert_xaxis()
ax.legend(fontsize=8)
fig.tight_layout()
if not FAST:
    fig.savefig("figures/02_errors.png", dpi=110)

# %% [markdown]
# ## Memory over depth
#
# How the memory of the gradient grows with the number of steps that a solve may take. (Of one long
# solve, for which `"discrete"` keeps states along the way and computes the steps between them
# again.)


# %%
def loss_of_one(weights, way, most):
    field = lambda t, y: 3 * eqx.combine(weights, rest)(y)
    options = {"solver": "rk4", "dt": 5.0 / most, "sensitivity": way, "max_steps": most}
    return jnp.mean(jo.solve(field, starts[0], (0.0, 5.0), **options).y1 ** 2)


depths = [16, 64] if FAST else [16, 64, 256, 1024, 4096]
fig, ax = plt.subplots(figsize=(6, 3.4))
for name, colour in (("discrete", "a"), ("discrete, 3 states kept", "b"), ("adjoint", "c")):
    gradients = [
        jax.jit(lambda w, n=n, name=name: jax.grad(loss_of_one)(w, WAYS[name], n)) for n in depths
    ]
    sizes = [g.lower(weights).compile().memory_analysis().temp_size_in_bytes for g in gradients]
    ax.loglog(depths, np.array(sizes) / 1024, "o-", color=COLOURS[colour], label=name)
ax.set(xlabel="steps", ylabel="memory of the gradient, KiB")
ax.legend()
fig.tight_layout()

# %% [markdown]
# ## A stiff problem, where going backwards fails
#
# `y' = -k (y - cos t)` forgets its start at the rate `k`. Backwards in time, what it forgot would
# have to come back: the error of a state that is integrated backwards grows like `exp(k t)`.
# jaxode begins again from states that it kept on the way, and where that does not suffice the
# gradient is NaN, never a wrong number. `"interpolate"` does not go backwards with the state and
# has no such trouble.


# %%
def value(k, way):
    field = lambda t, y, k: -k * (y - jnp.cos(t))
    return jo.solve(
        field, 2.0, (0.0, 3.0), k, rtol=1e-6, atol=1e-8, sensitivity=way, solver="rodas5p"
    ).y1


print(
    "   k   "
    + "".join(
        f"{name:>24s}" for name in ("discrete", "backsolve, 0 restarts", "adjoint", "interpolate")
    )
)
for k in (1.0, 10.0, 100.0):
    ways = (
        jo.Discrete(), jo.Continuous("backsolve", restarts=0), jo.Continuous(),
        jo.Continuous("interpolate"),
    )  # fmt: skip
    print(f"{k:6.0f} " + "".join(f"{float(jax.grad(value)(k, way)):24.6e}" for way in ways))

# %% [markdown]
# ## Chaos, where all of them are right and useless
#
# In the Lorenz system a small difference doubles about every 0.8 units of time. The derivative of
# the end by a parameter grows as fast, whatever way it is computed: after 20 units it says nothing
# about where a slightly different parameter leads.


# %%
def lorenz(t, y, r):
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (r - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def height(r, end):
    ts = jnp.stack([jnp.zeros(()), end])
    return jo.solve(lorenz, jnp.array([1.0, 1.0, 20.0]), ts, r, rtol=1e-9, atol=1e-9).y1[2]


ends = jnp.linspace(1.0, 10.0 if FAST else 25.0, 13)
slopes = jax.vmap(jax.grad(height), (None, 0))(28.0, ends)
fig, ax = plt.subplots(figsize=(6, 3.2))
ax.semilogy(ends, jnp.abs(slopes), "o-", color=COLOURS["a"])
ax.set(xlabel="end of the solve $T$", ylabel="$|\\partial z(T) / \\partial r|$")
fig.tight_layout()

# %% [markdown]
# The remedy is not another gradient but another loss: shorter pieces of the data, each from a
# state of its own (multiple shooting), or averages over long times.
#
# ## Which one, then?
#
# - Take the default, `"discrete"`.
# - `"adjoint"` if memory must not grow with the steps, for a smooth field that is not stiff;
#   `jo.Continuous("interpolate")` if it is stiff.
# - `"forward"` for a few parameters and many outputs (`jax.jacfwd`).
#
# The page [Which gradient when](../docs/gradients.md) has the details.
#
# ## What to try next
#
# - Another tolerance, `solver="dopri8"`, `jo.Discrete(memory="stages")`.
# - The page [which model when](../docs/models.md).
