"""Every kind of field learns, from slopes alone, a system of the kind that it is for."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxode as jo
from jaxode.nn import fields
from jaxode.problem.field import call_field

KEYS = jax.random.split(jax.random.key(0), 6)
POINTS = 256


def mlp(size_in: int, size_out: Any, key: Any = KEYS[0]) -> eqx.nn.MLP:
    return eqx.nn.MLP(size_in, size_out, 24, 2, activation=jnp.tanh, key=key)


def galerkin(basis: Any) -> fields.Sequential:
    first = fields.GalerkinLinear(2, 16, basis, key=KEYS[0])
    return fields.Sequential([first, jnp.tanh, fields.GalerkinLinear(16, 2, basis, key=KEYS[1])])


def turning(t, y, args):
    """A rotation that reverses: it depends on the time."""
    return jnp.cos(3 * t) * jnp.stack([-y[1], jnp.sin(y[0])])


def driven(t, y, args):
    return args[0] * jnp.stack([-y[1], y[0]]) + args[1] * jnp.sin(y)


def pendulum(t, y, args):
    return jnp.stack([y[1], -jnp.sin(2 * y[0])])


def damped(t, y, args):
    return pendulum(t, y, args) - jnp.stack([0 * y[1], 0.5 * y[1]])


def valley(t, y, args):
    return -jnp.stack([y[0] ** 3 - y[0], 2 * y[1]])


def decay(t, y, args):
    return jnp.stack([-y[0] + y[1] ** 2, -2 * y[1] - y[0] * y[1]])


def predators(t, y, args):
    return jnp.stack([1.3 * y[0] - 0.9 * y[0] * y[1], -1.8 * y[1] + 0.8 * y[0] * y[1]])


def growth(y):
    return jnp.stack([1.3 * y[0], -1.8 * y[1]])


def crowd(t, y, args):
    """Each token moves by the mean of all, its features in reverse: no token knows that alone."""
    return jnp.broadcast_to(jnp.mean(y, axis=0)[::-1], y.shape)


KINDS = {
    "DepthConcat": (fields.DepthConcat(mlp(3, 2)), turning),
    "Fourier": (galerkin(fields.Fourier(5, 2.0)), turning),
    "Polynomial": (galerkin(fields.Polynomial(5)), turning),
    "Chebyshev": (galerkin(fields.Chebyshev(5)), turning),
    "RBF": (galerkin(fields.RBF(5)), turning),
    "concat_squash_mlp": (fields.concat_squash_mlp(2, 24, 2, key=KEYS[0]), turning),
    "DataControlled": (fields.DataControlled(mlp(4, 2)), driven),
    "SecondOrder": (fields.SecondOrder(mlp(2, 1)), damped),
    "UDE": (fields.UDE(growth, mlp(2, 2)), predators),
    "Hamiltonian": (fields.Hamiltonian(mlp(2, "scalar")), pendulum),
    "PortHamiltonian": (fields.PortHamiltonian(mlp(2, "scalar"), 2), damped),
    "MechanicalLagrangian": (
        fields.MechanicalLagrangian(mlp(1, 1), mlp(1, "scalar", KEYS[1]), mlp(2, 1, KEYS[2])),
        damped,
    ),
    "Gradient": (fields.Gradient(mlp(2, "scalar")), valley),
    "EnergyStable": (
        fields.EnergyStable(mlp(2, 2), fields.ConvexPotential(2, 12, key=KEYS[1])),
        decay,
    ),
    "TransformerField": (fields.TransformerField(4, 1, 24, key=KEYS[0]), crowd),
}


QUICK = {"DepthConcat", "SecondOrder"}


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in KINDS],
)
def test_a_field_learns_what_it_is_for(name):
    field, system = KINDS[name]
    ts = jax.random.uniform(KEYS[3], (POINTS,))
    ys = jax.random.uniform(KEYS[4], (POINTS, 2), minval=-1.5, maxval=1.5)
    if name == "TransformerField":  # its tokens as its norm leaves them
        ys = jax.nn.standardize(jax.random.normal(KEYS[4], (POINTS, 3, 4)))
    args = jax.random.normal(KEYS[5], (POINTS, 2)) if name == "DataControlled" else None
    slopes = jax.vmap(system)(ts, ys, args)

    def loss(field, data, key):
        found = jax.vmap(lambda t, y, a: call_field(field, t, y, a))(ts, ys, args)
        return jnp.mean((found - slopes) ** 2)

    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 1500))
    steps = {"loss": loss, "steps": 1500, "optimizer": optimizer, "batch_size": None}
    trained, _ = jo.fit(field, ts, progress=False, key=KEYS[0], **steps)
    error = loss(trained, None, None) / jnp.mean(slopes**2)
    assert error < 5e-3, float(error)
