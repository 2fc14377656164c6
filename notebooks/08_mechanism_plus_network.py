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
# # 08 · A mechanism plus a network
#
# Often most of an equation is known, and one term is not. Keep what is known, let a network stand
# for the missing term, train both on the data, and then *read off* what the network has learned as
# a formula. First two systems of which only a part is measured, then hares and lynxes.

# %%
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import scipy.optimize
from jax.flatten_util import ravel_pytree
from statsmodels.tsa.ar_model import AutoReg, ar_select_order

import jaxode as jo

FAST = os.environ.get("JAXODE_FAST") == "1"  # a short run, for the tests
jax.config.update("jax_enable_x64", True)
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"

# %% [markdown]
# ![The missing term of a nerve cell, read off its voltage](figures/08_missing_term.png)
#
# ## Fit parameters to data
#
# The tool for a model with few parameters is least squares with the exact Jacobian: SciPy's
# `least_squares`, `jo.solve` and `jax.jacfwd`. The standard errors follow from the Jacobian.


# %%
def fit_least_squares(residuals, start, most=3 if FAST else 200):
    values, jacobian = jax.jit(residuals), jax.jit(jax.jacfwd(residuals))
    numpy = lambda f: lambda p: np.asarray(f(p))
    return scipy.optimize.least_squares(
        numpy(values), start, numpy(jacobian), x_scale="jac", max_nfev=most
    )


def standard_errors(found):
    variance = 2 * found.cost / (found.fun.size - found.x.size)
    return np.sqrt(variance * np.diag(np.linalg.pinv(found.jac.T @ found.jac)))


def rmse(a, b):
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


# %% [markdown]
# ## A circuit of which only the current is measured
#
# A resistor, a coil and a capacitor in series are switched on to 1 V. We measure the current, 200
# times in ten seconds with 5 % noise, and never see the charge of the capacitor. Which resistance,
# inductance and capacitance? The first half is for the fit, the second to forecast.

# %%
circuit = jo.datasets.SYSTEMS["rlc"]._replace(starts=((0.0, 0.0), (0.0, 0.0)))
data = jo.datasets.simulate(
    circuit, key=jax.random.key(0), times=200, noise=0.05, voltage=1.0
)  # fmt: skip
ts, current, truth = data.ts[0], data.ys[0, :, 1], data.truth[0, :, 1]
NAMES, half = ("resistance", "inductance", "capacitance"), 100
OPTIONS = {"rtol": 1e-6, "atol": 1e-8, "sensitivity": "forward"}


def circuit_current(log_values, ts):
    p = {**dict(zip(NAMES, jnp.exp(log_values))), "voltage": 1.0}
    return jo.solve(circuit.field, jnp.zeros(2), ts, p, **OPTIONS).ys[:, 1]


found = fit_least_squares(lambda p: circuit_current(p, ts[:half]) - current[:half], np.zeros(3))
for name, value, error in zip(NAMES, np.exp(found.x), standard_errors(found)):
    true = circuit.parameters[name]
    print(
        f"{name:11s} {value:.4f} +- {value * error:.4f}, true {true}, off {value / true - 1:+.1%}"
    )

# %% [markdown]
# The simple thing for a series like this is an autoregression (AR), of an order that AIC chooses.

# %%
past = np.asarray(current[:half])
order = ar_select_order(past, 20, ic="aic").ar_lags or [1]
ar = AutoReg(past, order).fit().forecast(len(ts) - half)
ours = circuit_current(jnp.asarray(found.x), ts)[half:]
print(f"error of the forecast, of a signal of {np.std(truth[half:]):.4f} A")
print(
    f"AR({len(order)}) {rmse(ar, truth[half:]):.4f} A, the circuit {rmse(ours, truth[half:]):.4f} A"
)

# %% [markdown]
# ## A nerve cell of which only the voltage is measured
#
# The equations of FitzHugh and Nagumo, of a membrane's voltage $v$ and a recovery $w$ that no
# electrode sees:
#
# $$v' = v - v^3/3 - w + I, \qquad w' = (v + a - b\,w)/\tau.$$
#
# Voltages until $t = 75$ with 5 % noise are for the fit. First all of the equations are known, and
# the four parameters are wanted, with the two initial values.

# %%
cell = jo.datasets.SYSTEMS["fitzhugh_nagumo"]
data = jo.datasets.simulate(cell, key=jax.random.key(1), times=301, end=150.0, noise=0.05)
ts, voltage, truth = data.ts[0], data.ys[0, :, 0], data.truth[0, :, 0]
NAMES, half = ("a", "b", "tau", "current"), 151
TRUE = np.array([cell.parameters[name] for name in NAMES])


def cell_voltage(p, ts):
    y0 = p[4:]
    return jo.solve(cell.field, y0, ts, dict(zip(NAMES, p)), **OPTIONS).ys[:, 0]


guess = np.array([1.0, 1.0, 8.0, 0.3, voltage[0], 0.0])
first = jnp.where(jnp.arange(half) < 40, 1.0, 0.0)  # the first 20 units of time alone
error = lambda p: cell_voltage(p, ts[:half]) - voltage[:half]
found = fit_least_squares(lambda p: first * error(p), guess)
found = fit_least_squares(error, found.x)
for name, value, spread, true in zip(NAMES, found.x, standard_errors(found), TRUE):
    print(f"{name:7s} {value:.4f} +- {spread:.4f}, true {true}, off {value / true - 1:+.1%}")

# %% [markdown]
# ## The same, without knowing the cubic
#
# Now the current $I$ that the experimenter applies is known, and that $w$ relaxes; but not how the
# membrane answers to its own voltage. A network of one input takes the place of $v - v^3/3$:
#
# $$v' = f(v) - w + I, \qquad w' = (v + a - b\,w)/\tau, \qquad f(v) = N(v) - N(0).$$

# %%
network = eqx.nn.MLP(1, 1, 8, 1, activation=jnp.tanh, key=jax.random.key(2))
weights, unravel = ravel_pytree(network)
print(f"{weights.size} weights")


def response(p, v):
    network = unravel(p[5:])
    return (network(v[None]) - network(jnp.zeros(1)))[0]


def cell_with_network(t, y, p):
    v, w = y
    return jnp.stack([response(p, v) - w + 0.5, (v + p[0] - p[1] * w) / p[2]])


def network_voltage(p, ts):
    return jo.solve(cell_with_network, p[3:5], ts, p, **OPTIONS).ys[:, 0]


def network_error(p):
    small_weights = 1e-2 * p[5:]
    return jnp.concatenate([network_voltage(p, ts[:half]) - voltage[:half], small_weights])


start = np.concatenate([[1.0, 1.0, 8.0, voltage[0], 0.0], weights])
window = jnp.concatenate([first, jnp.ones(weights.size)])
learned = fit_least_squares(lambda p: window * network_error(p), start)
learned = fit_least_squares(network_error, learned.x)
for name, value, true in zip(NAMES, learned.x, TRUE):
    print(f"{name:7s} {value:.4f}, true {true}, off {value / true - 1:+.1%}")

# %% [markdown]
# What has the network learned? We list candidate terms, and keep those that a least squares fit
# needs: fit, drop what is small, fit again (the algorithm of SINDy).


# %%
def sparse_terms(candidates, target, least):
    matrix, kept = np.stack(list(candidates.values()), 1), np.ones(len(candidates), bool)
    for _ in range(10):
        values = np.zeros(len(candidates))
        values[kept] = np.linalg.lstsq(matrix[:, kept], target, rcond=None)[0]
        kept = kept & (np.abs(values) >= least)
    return {name: value for name, value in zip(candidates, values) if value}


v = jnp.linspace(*np.percentile(voltage, [2, 98]), 101)
f = jax.vmap(lambda v: response(jnp.asarray(learned.x), v))(v)
powers = {name: np.asarray(v) ** k for k, name in enumerate(["1", "v", "v²", "v³", "v⁴", "v⁵"])}
terms = sparse_terms(powers, np.asarray(f), 0.1)
print("read off: f(v) =", " ".join(f"{value:+.3f} {name}" for name, value in terms.items()))
print("true:     f(v) = +1.000 v -0.333 v³")

# %% [markdown]
# Beside it an autoregression of the voltage, and all four forecasts from $t = 75$ to 150:

# %%
past = np.asarray(voltage[:half])
order = ar_select_order(past, 40, ic="aic").ar_lags or [1]
forecasts = {
    f"AR({len(order)})": AutoReg(past, order).fit().forecast(len(ts) - half),
    "mechanism alone": cell_voltage(jnp.asarray(found.x), ts)[half:],
    "mechanism and network": network_voltage(jnp.asarray(learned.x), ts)[half:],
}
for name, values in forecasts.items():
    print(f"{name:22s} error {rmse(values, truth[half:]):.3f}, of {np.std(truth):.3f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1.8, 1))
axes[0].scatter(ts, voltage, s=5, color=GREY, label="measured")
for (name, values), colour in zip(forecasts.items(), (PINK, ORANGE, BLUE)):
    axes[0].plot(ts[half:], values, color=colour, label=name, linewidth=1.5)
axes[0].axvline(ts[half], color=GREY, linestyle=":")
axes[0].set(xlabel="time $t$", ylabel="voltage $v$", ylim=(-2.4, 3.6))
axes[0].legend(ncols=2, fontsize=8, loc="upper left")
axes[1].plot(v, v - v**3 / 3, color=GREY, linewidth=4, alpha=0.5, label="true")
axes[1].plot(v, f, color=BLUE, label="network")
axes[1].plot(v, sum(c * powers[n] for n, c in terms.items()), "--", color=ORANGE, label="read off")
axes[1].set(xlabel="voltage $v$", ylabel="missing term $f(v)$")
axes[1].legend(fontsize=8)
fig.tight_layout()
if not FAST:
    fig.savefig("figures/08_missing_term.png", dpi=110)

# %% [markdown]
# ## Hares and lynxes
#
# The pelts that the Hudson's Bay Company took in, yearly from 1900 to 1920. Fifteen years are for
# the fit, six to forecast. The mechanism of Lotka and Volterra, in logarithms $u$ of hares and $v$
# of lynxes, each divided by its mean:
#
# $$u' = a - h\,e^v, \qquad v' = -d + g\,e^u.$$
#
# A lynx eats in proportion to the hares that there are: so says the mechanism, and that is what we
# doubt. First its fit, as it is:

# %%
years, pelts = jo.datasets.lynx_hare()
ts, scale, n = years - years[0], pelts.mean(0), 15
logs = jnp.log(pelts / scale)


def lotka_volterra(t, z, p):
    a, h, d, g = jnp.exp(p)
    return jnp.stack([a - h * jnp.exp(z[1]), -d + g * jnp.exp(z[0])])


def mechanism(p, ts):
    return jo.solve(lotka_volterra, p[4:], ts, p[:4], **OPTIONS).ys


def fit_mechanism(n):
    start = jnp.concatenate([jnp.log(jnp.full(4, 0.5)), logs[0]])
    return fit_least_squares(lambda p: (mechanism(p, ts[:n]) - logs[:n]).ravel(), start).x


lv = fit_mechanism(n)
print("a, h, d, g =", np.round(np.exp(lv[:4]), 3), "per year")

# %% [markdown]
# Then the same with a network that says by what factor the hunting differs from that, from both
# numbers; what the hares lose and what the lynxes gain has the same factor. `jo.nn.UDE` adds the
# known terms and the others. Training starts at the mechanism, for the network's last layer is
# zero at first, and a penalty keeps the factor near one.


# %%
class Hunting(eqx.Module):
    log_rates: jax.Array
    network: eqx.nn.MLP

    def __call__(self, z):
        eaten, gained = jnp.exp(self.log_rates + self.network(z))
        return jnp.stack([-eaten * jnp.exp(z[1]), gained * jnp.exp(z[0])])


class Alone(eqx.Module):
    log_rates: jax.Array

    def __call__(self, z):
        return jnp.exp(self.log_rates) * jnp.array([1.0, -1.0])


class Pelts(eqx.Module):
    ode: jo.NeuralODE
    start: jax.Array

    def __call__(self, ts):
        return self.ode(self.start, ts)


def start_at(p, key):
    network = eqx.nn.MLP(2, "scalar", 8, 1, jnp.tanh, key=key)
    last = lambda m: (m.layers[-1].weight, m.layers[-1].bias)
    network = eqx.tree_at(last, network, (jnp.zeros((1, 8)), jnp.zeros(1)))
    field = jo.nn.UDE(Alone(p[jnp.array([0, 2])]), Hunting(p[jnp.array([1, 3])], network))
    return Pelts(jo.NeuralODE(field, rtol=1e-5, atol=1e-5), p[4:6])


def train(model, data, penalty, steps=3 if FAST else 600):
    def loss(model, batch):
        ts, z = batch
        factor = jax.vmap(model.ode.field.network.network)(z)
        return jnp.mean((model(ts) - z) ** 2) + penalty * jnp.mean(factor**2)

    adam = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    return jo.fit(model, data, loss=loss, steps=steps, optimizer=adam, progress=False)[0]


# %% [markdown]
# How strong the penalty is, the forecast of 1910 to 1914 from the years before decides, which the
# test does not see.

# %%
part, before = fit_mechanism(10), slice(0, 10)
scores = {}
for penalty in [0.1] if FAST else [0.01, 0.03, 0.1, 0.3, 1.0]:
    model = train(start_at(jnp.asarray(part), jax.random.key(3)), (ts[:10], logs[:10]), penalty)
    scores[penalty] = rmse(model(ts[:15])[10:], logs[10:15])
print({penalty: round(score, 3) for penalty, score in scores.items()})
print(f"mechanism alone {rmse(mechanism(jnp.asarray(part), ts[:15])[10:], logs[10:15]):.3f}")
penalty = min(scores, key=scores.get)
model = train(start_at(jnp.asarray(lv), jax.random.key(3)), (ts[:n], logs[:n]), penalty)

# %% [markdown]
# What did the lynxes eat? The catch of one lynx, $h\,e^{u + N(u, v)}$, at the numbers of the fitted
# curve, as a sparse sum of terms in hares $H$ and lynxes $L$ (in units of their means):

# %%
curve = model(jnp.linspace(0.0, n - 1.0, 141))
hunting = model.ode.field.network
catch = np.asarray(jnp.exp(curve[:, 0] + hunting.log_rates[0] + jax.vmap(hunting.network)(curve)))
H, L = np.exp(np.asarray(curve)).T
monomials = {"1": np.ones_like(H), "H": H, "L": L, "H²": H**2, "HL": H * L, "L²": L**2}
terms = sparse_terms(monomials, catch, 0.1)
print("catch of a lynx:", " ".join(f"{value:+.2f} {name}" for name, value in terms.items()))

# %% [markdown]
# And the forecasts of 1915 to 1920, beside the simple things: the last year again, and an
# autoregression of each logarithm; and a neural ODE without a mechanism.

# %%
pure = Pelts(
    jo.NeuralODE(eqx.nn.MLP(2, 2, 16, 1, jnp.tanh, key=jax.random.key(4)), rtol=1e-4), logs[0]
)
adam = optax.adamw(optax.cosine_decay_schedule(1e-2, 800), weight_decay=0.2)
pure, _ = jo.fit(
    pure, (ts[:n], logs[:n]), loss=lambda m, batch: jnp.mean((m(batch[0]) - batch[1]) ** 2),
    steps=3 if FAST else 800, optimizer=adam, progress=False,
)  # fmt: skip
ar = [AutoReg(np.asarray(logs[:n, i]), 2).fit().forecast(6) for i in range(2)]
forecasts = {
    "last year again": jnp.tile(logs[n - 1], (6, 1)),
    "AR(2)": np.stack(ar, 1),
    "neural ODE": pure(ts)[n:],
    "mechanism alone": mechanism(jnp.asarray(lv), ts)[n:],
    "mechanism and network": model(ts)[n:],
}
counts = lambda z: np.asarray(jnp.exp(z) * scale)
for name, z in forecasts.items():
    off = counts(z) - pelts[n:]
    print(f"{name:22s} off by {rmse(off[:, 0], 0):5.1f} (hare), {rmse(off[:, 1], 0):5.1f} (lynx)")

# %%
fine = jnp.linspace(0.0, 20.0, 201)
fig, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharex=True)
for i, (ax, animal) in enumerate(zip(axes, ("hares", "lynxes"))):
    ax.scatter(years[:n], pelts[:n, i], s=18, color="black", label="fitted")
    ax.scatter(years[n:], pelts[n:, i], s=18, color="white", edgecolor="black", label="held out")
    for z, colour, name in (
        (mechanism(jnp.asarray(lv), fine), ORANGE, "mechanism alone"),
        (model(fine), BLUE, "mechanism and network"),
    ):
        ax.plot(1900 + fine, counts(z)[:, i], color=colour, label=name)
    ax.plot(years[n:], counts(forecasts["AR(2)"])[:, i], "--", color=PINK, label="AR(2)")
    ax.set(xlabel="year", ylabel=f"pelts of {animal}, thousands")
axes[0].legend(fontsize=8)
fig.tight_layout()
