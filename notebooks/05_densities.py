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
# # 05 · Densities
#
# A flow carries noise to data. It draws new samples, and it knows the density of each. Here it is
# trained in two ways and measured; then made so straight that one step is enough; then asked for
# one class, at last of digits.

# %%
import functools
import os
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment
from sklearn.mixture import GaussianMixture
from sklearn.svm import SVC

import jaxode as jo

FAST = os.environ.get("JAXODE_FAST") == "1"  # a short run, for the tests
STEPS = 4 if FAST else 1600
GRID = 20 if FAST else 60
N = 400 if FAST else 5000
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
plt.rcParams["figure.dpi"] = 75

# %% [markdown]
# ![Noise becomes two moons](figures/flow.gif)
# ![Digits, drawn by class](figures/05_digits.png)
#
# ## Trained by a solve, and without one
#
# `jo.nn.FFJORD` is a flow: a field, a base (the normal distribution), and the change of the density
# along the paths. The loss of maximum likelihood solves the ODE in every step. *Flow matching*
# instead draws straight paths from noise to data, and fits the field to their velocity, which
# needs no solve at all. The entropy of the data is known: no model can be better than that.

# %%
floor = jo.datasets.ENTROPY_FLOORS["moons"]
moons, unseen = (jo.datasets.moons(N, jax.random.key(seed)) for seed in (0, 1))


def train(model, loss, data, steps=STEPS, rate=1e-2, batch=256):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    return jo.fit(
        model, data, loss=loss, steps=steps, batch_size=min(batch, N), optimizer=optimizer,
        progress=False,
    )[0]  # fmt: skip


def nats(model, x):
    return -float(jnp.mean(model.log_prob(x)))


# %%
start = jo.nn.FFJORD(2, (64, 64), key=jax.random.key(2), solver="rk4", dt=0.1)
ways = {
    "likelihood": (jo.nn.negative_log_likelihood, max(STEPS // 10, 2)),
    "flow matching": (jo.nn.flow_matching_loss, STEPS),
}
for name, (loss, steps) in ways.items():
    begin = time.perf_counter()
    model = train(start, loss, moons, steps, rate=3e-2)
    seconds = time.perf_counter() - begin
    print(f"{name:14s} {nats(model, unseen) - floor:+.3f} nats from the entropy, {seconds:.0f} s")

# %% [markdown]
# ## Beside a Gaussian mixture
#
# What one would try first. Its number of components is chosen on data of its own, from 8 to 64.
# Both are given the same 5,000 points; figures are nats above the entropy, of other points.


# %%
def mixture(x, more):
    sizes = (4,) if FAST else (8, 16, 32, 64)
    found = [GaussianMixture(n, random_state=0).fit(x) for n in sizes]
    return max(found, key=lambda mixture: mixture.score(more))


def network(key):
    return jo.nn.DepthConcat(eqx.nn.MLP(3, 2, 96, 3, activation=jax.nn.silu, key=key))


names, flows = ("moons",) if FAST else ("moons", "two_spirals", "checkerboard"), {}
fig, axes = plt.subplots(
    2, len(names), figsize=(9, 6.2), sharex="col", sharey="col", squeeze=False
)  # fmt: skip
for name, column in zip(names, axes.T):
    x, more, test = (jo.datasets.DENSITIES[name](N, jax.random.key(i)) for i in range(3))
    flows[name] = jo.nn.CNF(network(jax.random.key(3)), 2)
    flows[name] = train(flows[name], jo.nn.flow_matching_loss, x, STEPS)
    simple = mixture(np.asarray(x), np.asarray(more))
    entropy = jo.datasets.ENTROPY_FLOORS[name]
    ours, theirs = nats(flows[name], test) - entropy, -simple.score(np.asarray(test)) - entropy
    print(f"{name:12s} flow {ours:+.3f}, mixture of {simple.n_components} {theirs:+.3f}")
    jo.plotting.density(flows[name], x[:200], ax=column[0], resolution=GRID)
    jo.plotting.density(simple.score_samples, x[:200], ax=column[1], resolution=GRID)
    column[0].annotate(f"flow {ours:+.2f}", (0.03, 0.92), xycoords="axes fraction")
    column[1].annotate(f"mixture {theirs:+.2f}", (0.03, 0.92), xycoords="axes fraction")
fig.tight_layout()

# %% [markdown]
# Above the flow, below the mixture. **In the plane the mixture wins**: it is nearer to the entropy
# and fits in seconds. Flows are for what follows: maps from one density to another, conditions,
# and many dimensions, where mixtures need too many components.
# (A figure below zero is chance: the mean over 5,000 points is off by about a hundredth.)
#
# ## The flow, moving
#
# `plotting.animate_flow` saves it as a GIF, the one at the top; a point's colour says where in the
# noise it began.

# %%
flow = flows["moons"]
points = flow.base.sample(jax.random.key(4), 100 if FAST else 1500)
sector = jnp.floor(jnp.arctan2(*points.T) / jnp.pi * 3 + 3).astype(int)
moving = jo.plotting.animate_flow(
    flow, points, sector, path=None if FAST else "figures/flow.gif", back=True
)  # fmt: skip
plt.close()

# %% [markdown]
# ## One step is enough
#
# Paths of independent pairs of noise and data cross, and the field that fits their mean velocity
# is curved. If each batch is paired so that the paths are short, they seldom cross, and the flow is
# nearly straight: then a single Euler step does. Here from eight Gaussians to two moons, by the
# three couplings that jaxode has.
#
# The score is the squared Wasserstein-2 distance: how far, squared, 2,000 drawn points must be
# moved on average to lie on 2,000 true ones. Two true sets are not at zero either; that is the
# floor.


# %%
class EightGaussians(eqx.Module):
    def sample(self, key, n):
        return jo.datasets.eight_gaussians(n, key)

    def log_prob(self, z):
        at = 2 * jnp.pi * jnp.arange(8) / 8
        centres = 4 / 1.414 * jnp.stack([jnp.cos(at), jnp.sin(at)], axis=-1)
        squares = jnp.sum(((z - centres) * 1.414 / 0.5) ** 2, axis=-1)
        return jax.nn.logsumexp(-squares / 2) - jnp.log(16 * jnp.pi * (0.5 / 1.414) ** 2)


def wasserstein2(a, b):
    cost = np.sum((np.asarray(a)[:, None] - np.asarray(b)[None]) ** 2, axis=-1)
    return cost[linear_sum_assignment(cost)].mean()


def ends(flow, key, **options):
    return jo.nn.CNF(flow.field, 2, base=flow.base, **options).sample(key, M)


M = 100 if FAST else 2000
COUPLINGS = ("independent", "exact") if FAST else ("independent", "ot", "exact")
true, other = (jo.datasets.moons(M, jax.random.key(seed)) for seed in (10, 11))
floor = wasserstein2(true, other)
print(f"two true sets {floor:.3f}")
straight, distance = {}, {}
for coupling in COUPLINGS:
    loss = functools.partial(jo.nn.flow_matching_loss, coupling=coupling)
    start = jo.nn.CNF(network(jax.random.key(5)), 2, base=EightGaussians())
    begin = time.perf_counter()
    straight[coupling] = train(start, loss, moons, max(STEPS // 2, 2), 5e-3, batch=128)
    seconds = time.perf_counter() - begin
    one = ends(straight[coupling], jax.random.key(6), solver="euler", dt=1.0)
    full = ends(straight[coupling], jax.random.key(6))
    distance[coupling] = wasserstein2(one, true)
    print(
        f"{coupling:12s} one step {distance[coupling]:.3f}, "
        f"adaptive {wasserstein2(full, true):.3f}, trained in {seconds:.0f} s"
    )
for coupling in COUPLINGS[1:]:
    share = (distance[coupling] - floor) / (distance["independent"] - floor)
    print(f"{coupling}: {share:.1%} of the independent coupling's distance above the floor")

# %%
fig, axes = plt.subplots(1, len(straight), figsize=(9, 3.3), sharex=True, sharey=True)
z = EightGaussians().sample(jax.random.key(7), 20 if FAST else 60)
for ax, (coupling, flow) in zip(axes, straight.items()):
    jo.plotting.flow(flow, z, ax=ax)
    ax.annotate(coupling, (0.03, 0.92), xycoords="axes fraction")
    ax.get_legend().remove()
fig.tight_layout()

# %% [markdown]
# White where a point begins, full where it ends. Independent pairs give curved paths, and one step
# along their first direction lands between the moons; short pairs give nearly straight ones. The
# pairs cost time in each step of the training: the exact assignment (`"exact"`) runs on the host,
# Sinkhorn's plan (`"ot"`) wherever the model runs. This is one seed.
#
# ## Of one class
#
# A field may take arguments, here the class as five numbers of which one is 1. Then the flow has a
# density for each class: drawn from it, or compared by it.

# %%
x, y = jo.datasets.pinwheel(N, jax.random.key(8), labels=True)
unseen, label = jo.datasets.pinwheel(N, jax.random.key(9), labels=True)
net = eqx.nn.MLP(2 + 5 + 1, 2, 96, 3, activation=jax.nn.silu, key=jax.random.key(10))
start = jo.nn.CNF(jo.nn.DataControlled(jo.nn.DepthConcat(net)), 2)


def conditional_loss(model, batch, key):
    x, y = batch
    return jo.nn.flow_matching_loss(model, x, key, args=jnp.eye(5)[y], args_axes=0)


blades = train(start, conditional_loss, (x, y), STEPS)
of_class = np.stack([blades.log_prob(unseen, jnp.eye(5)[k]) for k in range(5)], axis=-1)
print(f"the blade is found by its density for {np.mean(of_class.argmax(-1) == label):.1%}")
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.5), sharex=True, sharey=True)
jo.plotting.density(
    lambda x: blades.log_prob(x, jnp.eye(5)[0]), unseen[:200], axes[0], resolution=GRID
)
for k, colour in enumerate((BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00")):
    drawn = blades.sample(jax.random.key(11), 20 if FAST else 200, jnp.eye(5)[k])
    axes[1].scatter(*drawn.T, s=4, color=colour, label=f"blade {k}")
axes[1].legend(fontsize=8)
axes[1].set(xlabel="$x_1$", aspect="equal")
fig.tight_layout()

# %% [markdown]
# Left the density of one class, over points of all; right draws, class by class.
#
# ## Digits
#
# The same with images of eight by eight pixels: a convolutional field, to which the class is given
# as eight more channels, pictures that are learned for each digit. What are the draws worth? A
# classifier trained on true digits (a support vector machine) says how many of them are what was
# asked for. The simple thing beside it: a normal distribution for each digit.


# %%
class DigitField(eqx.Module):
    planes: eqx.nn.Linear
    network: jo.nn.Sequential

    def __call__(self, t, y, digit):
        planes = self.planes(digit).reshape(8, 8, 8)
        image = jnp.concatenate([y.reshape(1, 8, 8), planes])
        return self.network(t, image, None).ravel()


def digit_field(key, widths=(8,) if FAST else (32, 32, 32)):
    sizes, layers = [9, *widths, 1], []
    key, *keys = jax.random.split(key, len(sizes))
    for a, b, k in zip(sizes, sizes[1:], keys):
        layers += [jo.nn.ConcatSquashConv2d(a, b, 3, padding=1, key=k), jax.nn.silu]
    return DigitField(eqx.nn.Linear(10, 512, key=key), jo.nn.Sequential(layers[:-1]))


def digit_loss(model, batch, key):
    x, y = batch
    return jo.nn.flow_matching_loss(model, x, key, args=jnp.eye(10)[y], args_axes=0)


images, digit = jo.datasets.digits()
images = 2 * images.reshape(-1, 64) - 1
start = jo.nn.CNF(digit_field(jax.random.key(12)), 64, solver="midpoint", dt=0.05)
begin = time.perf_counter()
pen = train(start, digit_loss, (images, digit), 3 if FAST else 500, rate=1e-2, batch=128)
print(f"trained in {time.perf_counter() - begin:.0f} s")

# %%
COUNT = 2 if FAST else 50
asked = np.repeat(np.arange(10), COUNT)
drawn = pen.sample(jax.random.key(13), len(asked), jnp.eye(10)[asked], args_axes=0)
judge = SVC(gamma=0.02).fit(np.asarray(images), np.asarray(digit))
rng = np.random.default_rng(0)
normal = [
    rng.multivariate_normal(part.mean(0), np.cov(part.T), COUNT)
    for part in (np.asarray(images[digit == k]) for k in range(10))
]
print(f"flow: {judge.score(np.asarray(drawn), asked):.1%} are what was asked for")
print(f"normal distributions: {judge.score(np.concatenate(normal), asked):.1%}")

# %%
fig, axes = plt.subplots(3, 10, figsize=(8, 2.6))
rows = {"flow": drawn[::COUNT], "normal": np.concatenate(normal)[::COUNT]}
rows["true"] = np.stack([images[digit == k][5] for k in range(10)])
for row, (name, pictures) in zip(axes, rows.items()):
    for ax, picture in zip(row, pictures):
        ax.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
fig.tight_layout()
if not FAST:
    fig.savefig("figures/05_digits.png", dpi=110)

# %% [markdown]
# The normal distributions pass the judge more often: they keep near the mean of a digit. Their
# strokes are blurred, with grey beside them; those of the flow are as clear as true ones.

# %% [markdown]
# ## What to try next
#
# - Other data: `jo.datasets.DENSITIES` has eight, and any points `(n, features)` do.
# - `jo.nn.FFJORD(2, key=key, trace="hutchinson")` for many features; `augment=2`.
# - [01](01_classify.ipynb): flows that classify. The page [which model when](../docs/models.md).
