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
# # 03 · Images
#
# One ODE block in place of a stack of residual blocks: fewer parameters, and memory that does not
# grow with the depth. First handwritten digits, then the outlines of cells.

# %%
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import jaxode as jo

FAST = os.environ.get("JAXODE_FAST") == "1"  # a short run, for the tests
C, BLOCKS, STEPS, BATCH = (4, 1, 2, 16) if FAST else (24, 6, 400, 128)
SEEDS = 1 if FAST else 3
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"

# %% [markdown]
# ![Cells found by an ODE U-Net](figures/03_cells.png)
#
# ## Handwritten digits
#
# Five thousand digits of MNIST: 4,000 to train, 1,000 to test. What one would try first:

# %%
images, digit = jo.datasets.mnist()
train_size = 200 if FAST else 4000
train, test = (images[:train_size], digit[:train_size]), (images[-1000:], digit[-1000:])
flat = np.asarray(images).reshape(len(images), -1)
simple = {
    "logistic regression": LogisticRegression(max_iter=100, tol=1e-2),
    "3 nearest neighbours": KNeighborsClassifier(3),
    "support vectors": SVC(C=10),
}
for name, classifier in simple.items():
    classifier.fit(flat[:train_size], np.asarray(train[1]))
    error = 1 - classifier.score(flat[-1000:], np.asarray(test[1]))
    print(f"{name:20s} error {error:.1%}")

# %% [markdown]
# Now two networks with the same first and last layers. Between them the residual network has six
# blocks, one after the other. A residual block is one Euler step, `x + change(x)`, with weights of
# its own. `jo.nn.ODEBlock` has one such `change` instead, which it follows from `t = 0` to `1`,
# here with two steps of the midpoint rule. Training images are shifted by up to two pixels.


# %%
class Residual(eqx.Module):
    change: eqx.nn.Sequential

    def __call__(self, x, *, key=None):
        return x + self.change(x)


class Net(eqx.Module):
    stem: eqx.nn.Sequential
    middle: eqx.Module
    head: eqx.nn.Sequential
    batched = True

    def __call__(self, x, *, key=None):
        y = self.middle(jax.vmap(self.stem)(x))
        return jax.vmap(self.head)(y)


class Blocks(eqx.Module):
    blocks: eqx.nn.Sequential

    def __call__(self, y):
        return jax.vmap(self.blocks)(y)


RELU = eqx.nn.Lambda(jax.nn.relu)


def conv(*sizes, stride=1, key):
    return eqx.nn.Conv2d(*sizes, 3, stride, padding=1, key=key)


def net(middle, key):
    a, b, c = jax.random.split(key, 3)
    stem = [conv(1, C, stride=2, key=a), RELU, conv(C, C, stride=2, key=b)]
    head = [
        eqx.nn.GroupNorm(4, C),
        RELU,
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.Linear(49 * C, 10, key=c),
    ]
    return Net(eqx.nn.Sequential(stem), middle, eqx.nn.Sequential(head))


def residual(key):
    layers = []
    for k in jax.random.split(key):
        layers += [eqx.nn.GroupNorm(4, C), RELU, conv(C, C, key=k)]
    return Residual(eqx.nn.Sequential(layers))


def resnet(key, blocks=BLOCKS):
    key, *keys = jax.random.split(key, blocks + 1)
    return net(Blocks(eqx.nn.Sequential([residual(k) for k in keys])), key)


def ode_net(key, steps=2, **options):
    key, block_key = jax.random.split(key)
    options = {"solver": "midpoint", "dt": 1 / steps, **options}
    return net(jo.nn.ODEBlock(C, groups=4, key=block_key, **options), key)


def parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def entropy(logits, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def shifted_loss(model, batch, key):
    x, y = batch
    shifts = jax.random.randint(key, (len(y), 2), -2, 3)
    x = jax.vmap(lambda image, shift: jnp.roll(image, shift, (1, 2)))(x, shifts)
    return entropy(model(x), y)


# %%
share = parameters(ode_net(jax.random.key(0))) / parameters(resnet(jax.random.key(0)))
for name, make in (("ResNet", resnet), ("ODE net", ode_net)):
    errors = []
    for seed in range(SEEDS):
        key, rate = jax.random.key(seed), optax.cosine_decay_schedule(4e-3, STEPS)
        trained, log = jo.fit(
            make(key), train, loss=shifted_loss, steps=STEPS, batch_size=BATCH, key=key,
            optimizer=optax.adamw(rate, weight_decay=1e-2), progress=False,
        )  # fmt: skip
        found = jnp.argmax(trained(test[0]), axis=-1)
        errors.append(100 * float(jnp.mean(found != test[1])))
    print(
        f"{name:8s} error {np.mean(errors):.1f} % ({min(errors):.1f} to {max(errors):.1f}), "
        f"{parameters(trained):,} parameters, {log.ms_per_step:.0f} ms per training step"
    )
print(f"the ODE net has {share:.0%} of the parameters")

# %% [markdown]
# Means of three seeds, with the least and the largest. With a third of the weights the ODE net is
# as good as the ResNet, and both have half of the errors of the support vectors; of 1,000 test
# images half a point is five digits. The networks saw shifted images, the simple methods did not.
# Fewer weights are not less work: two midpoint steps evaluate the block four times, and each costs
# as much as a residual block, so a training step takes three times as long.
#
# ## Memory over depth
#
# How much memory the gradient of a batch takes, when the residual network gets more blocks, and the
# ODE net more steps of the same weights.


# %%
def memory(model):
    weights, rest = eqx.partition(model, eqx.is_inexact_array)
    loss = lambda weights: entropy(eqx.combine(weights, rest)(images[:BATCH]), digit[:BATCH])
    compiled = jax.jit(jax.grad(loss)).lower(weights).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


depths = (1, 2) if FAST else (4, 16)
kinds = {
    "ResNet, more blocks": lambda n: resnet(jax.random.key(0), n),
    "ODE net, more steps": lambda n: ode_net(jax.random.key(0), n),
    "ODE net, by the adjoint": lambda n: ode_net(jax.random.key(0), n, sensitivity="adjoint"),
}
plt.rcParams["figure.dpi"] = 90
fig, ax = plt.subplots(figsize=(6, 3.4))
for (name, make), colour in zip(kinds.items(), (ORANGE, BLUE, GREEN)):
    sizes = [memory(make(n)) for n in depths]
    print(f"{name:24s} {np.round(sizes, 1)} MiB")
    ax.plot(depths, sizes, "o-", color=colour, label=name)
ax.set(xlabel="blocks, or steps", ylabel="memory of the gradient, MiB", ylim=(0, None))
ax.set_xticks(depths)
ax.legend()
fig.tight_layout()

# %% [markdown]
# The residual network keeps what each of its blocks computed. The adjoint keeps no step, but solves
# backwards for what it needs; [02](02_which_gradient.ipynb) says what that costs.
#
# ## Where are the cells?
#
# A microscope shows cells of different brightness, on a haze and under an uneven lamp. (No package
# carries such images with their outlines, so these are simulated: then the truth is known.)
# `jo.nn.ODEUNet` has a U-Net's shape, with an ODE block on each level.
#
# Beside it what one would try first: Otsu's threshold, and the same after the background, a
# blurred image, was subtracted. The score is the overlap (intersection over union) with the truth.


# %%
def otsu(image):
    levels = np.linspace(image.min(), image.max(), 100)[1:-1]

    def between(level):
        above = image > level
        share = above.mean()
        return share * (1 - share) * (image[above].mean() - image[~above].mean()) ** 2

    return image > max(levels, key=between)


def overlap(found, masks):
    found, masks = np.asarray(found) == 1, np.asarray(masks) == 1
    return (found & masks).sum() / (found | masks).sum()


def pixel_loss(model, batch):
    return entropy(jnp.moveaxis(model(batch[0]), 1, -1), batch[1])


many, steps = (8, 2) if FAST else (128, 250)
slides, masks = jo.datasets.cells(many, jax.random.key(0))
unseen, truth = jo.datasets.cells(8 if FAST else 20, jax.random.key(1))
channels, levels = (4, 2) if FAST else (4, 3)
unet = jo.nn.ODEUNet(
    1, 2, channels=channels, levels=levels, solver="midpoint", dt=0.5, key=jax.random.key(2)
)  # fmt: skip
rate = optax.cosine_decay_schedule(1e-2, steps)
unet, log = jo.fit(
    unet, (slides, masks), loss=pixel_loss, steps=steps, batch_size=4,
    optimizer=optax.adam(rate), progress=False,
)  # fmt: skip
print(log.summary())

# %%
found = jnp.argmax(unet(unseen), axis=1)
raw = np.asarray(unseen[:, 0])
flattened = raw - gaussian_filter(raw, (0, 12, 12))
by_otsu = np.stack([otsu(image) for image in raw])
by_flat = np.stack([otsu(image) for image in flattened])
rows = {"Otsu": by_otsu, "Otsu, background subtracted": by_flat, "ODE U-Net": found}
for name, mask in rows.items():
    print(f"{name:28s} overlap {overlap(mask, truth):.1%}")
print(f"{parameters(unet):,} parameters")

# %%
fig, axes = plt.subplots(2, 4, figsize=(9, 4.7))
for i, row in enumerate(axes):
    row[0].imshow(raw[i], cmap="gray", vmin=0, vmax=1.2)
    for ax, mask in zip(row[1:], (by_flat[i], found[i], truth[i])):
        ax.imshow(mask, cmap="gray")
    for ax in row:
        ax.set(xticks=[], yticks=[])
for ax, name in zip(axes[1], ("image, 64 x 64 pixels", "Otsu, flattened", "ODE U-Net", "truth")):
    ax.set_xlabel(name)
fig.tight_layout()
if not FAST:
    fig.savefig("figures/03_cells.png", dpi=100)

# %% [markdown]
# The U-Net, with 10,302 weights and two minutes of work, finds 88 % where the threshold on the
# flattened image finds 82 % (overlap). Mind what that threshold needs: nothing but a width of blur.
#
# ## What to try next
#
# - More `levels` or `channels` of the U-Net; `solver="tsit5", rtol=1e-2` chooses its steps itself.
# - `jo.nn.ConvODENet(augment=4)`: more room for the flow.
# - [02](02_which_gradient.ipynb): where the memory of the adjoint comes from, and what it costs.
