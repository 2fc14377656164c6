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
# # 01 · Classify with a flow
#
# A neural ODE moves points until a straight line separates their classes. First two spirals and
# two moons; then what a flow in the plane *cannot* do, and what a third dimension gives.

# %%
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import jaxode as jo

FAST = os.environ.get("JAXODE_FAST") == "1"  # a short run, for the tests
STEPS = 20 if FAST else 500
BLUE, ORANGE = "#0072B2", "#D55E00"

# %% [markdown]
# ![How two spirals are pulled apart](figures/01_spirals.png)
#
# ## Two spirals
#
# The model is a neural ODE from `t = 0` to `1` in the plane, whose end state is the pair of
# logits.

# %%
spirals = jo.datasets.Spiral(n_points=500, noise=0.1, key=jax.random.key(0))()
unseen = jo.datasets.Spiral(n_points=1000, noise=0.1, key=jax.random.key(1))()


def classifier(key, width=48, augment=0):
    size = 2 + augment
    network = eqx.nn.MLP(size, size, width, 2, activation=jnp.tanh, key=key)
    return jo.NeuralODE(network, augment=augment)


def train(model, data, steps=STEPS):
    schedule = optax.cosine_decay_schedule(1e-2, steps)
    return jo.fit(
        model, data, loss="cross_entropy", steps=steps, optimizer=optax.adam(schedule),
        progress=False,
    )  # fmt: skip


def accuracy(model, data):
    x, y = data
    return float(jnp.mean(jnp.argmax(model(x)[:, :2], -1) == y))


model, log = train(classifier(jax.random.key(2)), spirals)
print(log.summary())

# %% [markdown]
# What is it worth? Beside it a line (logistic regression) and the five nearest neighbours, which
# is what one would try first:

# %%
x, y = map(np.asarray, spirals)
line = LogisticRegression().fit(x, y).score(*map(np.asarray, unseen))
neighbours = KNeighborsClassifier(5).fit(x, y).score(*map(np.asarray, unseen))
print(f"line {line:.1%}, neighbours {neighbours:.1%}, neural ODE {accuracy(model, unseen):.1%}")

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.4))
jo.plotting.decision_boundary(model, *spirals, ax=axes[0])
few = slice(0, 60)
jo.plotting.flow(model, spirals[0][few], spirals[1][few], ax=axes[1])
ends = model(spirals[0])
for label, colour in ((0, BLUE), (1, ORANGE)):
    axes[2].scatter(*ends[spirals[1] == label].T, s=6, color=colour, label=f"class {label}")
axes[2].axline((0, 0), slope=1, color="#666666", linewidth=1)
axes[2].set(xlabel="logit of class 0", ylabel="logit of class 1")
axes[2].legend()
fig.tight_layout()
if not FAST:
    fig.savefig("figures/01_spirals.png", dpi=110)

# %% [markdown]
# Left the regions of the two classes; in the middle the paths of some points from `t = 0` to `1`;
# right where all of them end, with the line that separates them.
#
# ## The flow backwards
#
# A flow can be undone: `inverse` solves from `t = 1` back to `0`. It comes back as exactly as it
# is solved. This one pulls points together, so that going back pushes errors apart: a tighter
# tolerance is wanted for it than for the classes.

# %%
for rtol in (1e-3, 1e-5):
    flow = jo.NeuralODE(model.field, rtol=rtol, atol=rtol)
    back = flow.inverse(flow(unseen[0]))
    print(f"rtol {rtol:.0e}: error there and back {float(jnp.abs(back - unseen[0]).max()):.1e}")

# %% [markdown]
# ## Two moons

# %%
moons = jo.datasets.moons(500, jax.random.key(3), labels=True)
more_moons = jo.datasets.moons(1000, jax.random.key(4), labels=True)
of_moons, log = train(classifier(jax.random.key(5), width=24), moons, max(STEPS // 2, 10))
neighbours = KNeighborsClassifier(5).fit(*map(np.asarray, moons))
score = neighbours.score(*map(np.asarray, more_moons))
print(f"neighbours {score:.1%}, neural ODE {accuracy(of_moons, more_moons):.1%}")

# %% [markdown]
# ## What a flow in the plane cannot do
#
# Paths of a flow do not cross. So a disc inside of a ring stays inside of it, and no line
# separates the two. The model can only tear the ring open somewhere and squeeze, with ever more
# steps. With one dimension more (`augment=1` appends a zero to each point) it lifts the disc out.

# %%
ring = jo.datasets.annulus(500, key=jax.random.key(6))
more_of_ring = jo.datasets.annulus(1000, key=jax.random.key(7))
logs, models = {}, {}
for name, augment in (("plain", 0), ("augmented", 1)):
    start = classifier(jax.random.key(8), width=32, augment=augment)
    models[name], logs[name] = train(start, ring)
    off = 1 - accuracy(models[name], more_of_ring)
    used = logs[name].history["evaluations"]
    print(f"{name:10s} error {off:.1%}, evaluations per sample {used[0]:.0f} -> {used[-1]:.0f}")

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.4))
for ax, name in zip(axes, models, strict=False):
    jo.plotting.decision_boundary(lambda x, name=name: models[name](x)[:2], *ring, ax=ax)
    ax.annotate(name, (0.03, 0.92), xycoords="axes fraction", weight="bold")
for (name, log), colour in zip(logs.items(), (ORANGE, BLUE), strict=True):
    axes[2].plot(log.history["evaluations"], color=colour, label=name)
axes[2].set(xlabel="optimiser step", ylabel="evaluations of the field per sample")
axes[2].legend()
fig.tight_layout()

# %% [markdown]
# The plain flow has torn the ring open at one place, and squeezed: there, where the inner class
# reaches out between the points, it errs on points that it has not seen. The augmented flow has a
# closed border, as the classes have. Its evaluations grow too in the training, and are more here;
# in the paper it is the plain flow whose evaluations grow without end (Dupont et al., *Augmented
# neural ODEs*, 2019), on data that lie closer together. Try it.
#
# ## What to try next
#
# - `augment=3`, another `width`, `solver="dopri8"`, data of your own: any points `(n, features)`.
# - [02](02_which_gradient.ipynb): how the gradient of such a model is computed, and at what cost.
