"""Fields with the structure of mechanics, against equations of motion written by hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.nn import fields
from tests.support.differences import parted, weighted
from tests.support.field_checks import (
    T,
    assert_a_batch_has_the_gradient_that_differences_show,
    assert_equal_with_gradient,
    assert_single_precision_stays_single,
    assert_weights_have_the_gradient_that_differences_show,
)
from tests.support.sweeps import few

KEY = jax.random.key(0)
Y = jax.random.normal(jax.random.key(1), (3, 4))
M1, M2, L1, L2, G = 1.3, 0.7, 0.9, 1.1, 9.81


def mlp(size_in, size_out, key=KEY):
    return eqx.nn.MLP(size_in, size_out, 6, 1, activation=jnp.tanh, key=key)


def double_pendulum(y):
    """The angular accelerations as textbooks solve them, masses and lengths unequal."""
    a, b, u, v = y
    sine, cosine = np.sin(a - b), np.cos(a - b)
    share = L2 / L1 * M2 / (M1 + M2)
    f1 = -share * v**2 * sine - G / L1 * np.sin(a)
    f2 = L1 / L2 * u**2 * sine - G / L2 * np.sin(b)
    a1, a2 = share * cosine, L1 / L2 * cosine
    return np.array([u, v, (f1 - a1 * f2) / (1 - a1 * a2), (f2 - a2 * f1) / (1 - a1 * a2)])


def potential(q):
    return -(M1 + M2) * G * L1 * jnp.cos(q[0]) - M2 * G * L2 * jnp.cos(q[1])


def mass_matrix(q):
    cross = M2 * L1 * L2 * jnp.cos(q[0] - q[1])
    return jnp.array([[(M1 + M2) * L1**2, cross], [cross, M2 * L2**2]])


def lagrangian(y):
    q, v = y[:2], y[2:]
    return v @ mass_matrix(q) @ v / 2 - potential(q)


def test_a_hamiltonian_is_the_pendulum():
    field = fields.Hamiltonian(lambda t, y, args: y[1] ** 2 / 2 - args * jnp.cos(y[0]))
    for q, p in np.asarray(Y[:, :2]):
        want = [p, -2.5 * np.sin(q)]
        np.testing.assert_allclose(field(T, jnp.array([q, p]), 2.5), want, rtol=1e-12)


def test_a_learned_hamiltonian_does_not_change_along_its_field():
    energy = mlp(4, "scalar")
    for y in Y:
        slope, up = fields.Hamiltonian(energy)(T, y), jax.grad(energy)(y)
        assert abs(float(slope @ up)) < 1e-15 < 1e-3 < float(slope @ slope)


def test_a_lagrangian_is_the_double_pendulum():
    field = jax.jit(fields.Lagrangian(lagrangian))
    for y in Y:
        np.testing.assert_allclose(field(T, y), double_pendulum(np.asarray(y)), rtol=1e-10)


def test_a_mechanical_lagrangian_is_the_double_pendulum():
    def entries(q):
        factor = jnp.linalg.cholesky(mass_matrix(q))
        diagonal = jnp.log(jnp.expm1(jnp.diagonal(factor) - 1e-2))  # what softplus undoes
        return jnp.stack([diagonal[0], factor[1, 0], diagonal[1]])

    field = fields.MechanicalLagrangian(entries, potential)
    slope = jax.jit(field)
    for y in Y:
        np.testing.assert_allclose(slope(T, y), double_pendulum(np.asarray(y)), rtol=1e-9)
    energy = Y[0, 2:] @ mass_matrix(Y[0, :2]) @ Y[0, 2:] / 2 + potential(Y[0, :2])
    np.testing.assert_allclose(field.energy(T, Y[0]), energy, rtol=1e-12)


def test_explicit_time_and_forces():
    """Caldirola and Kanai: a mass that grows exponentially is friction."""
    y, rate = jnp.array([0.7, -0.4]), 0.6

    def growing(t, y, args):
        return jnp.exp(rate * t) * (y[1] ** 2 - 4 * y[0] ** 2) / 2

    def push(t, y, args):
        return args * y[1:]

    want = [-0.4, 0.4 * rate - 2.8]
    np.testing.assert_allclose(fields.Lagrangian(growing)(T, y), want, rtol=1e-12)
    field = fields.MechanicalLagrangian(
        lambda t, q: jnp.log(jnp.expm1(jnp.exp(rate * t / 2) - 1e-2))[None],
        lambda t, q: 2 * jnp.exp(rate * t) * q[0] ** 2,
    )
    np.testing.assert_allclose(field(T, y), want, rtol=1e-12)
    rubbed = fields.Lagrangian(lambda y: (y[1] ** 2 - 4 * y[0] ** 2) / 2, force=push)
    np.testing.assert_allclose(rubbed(T, y, -rate), want, rtol=1e-12)
    rubbed = fields.MechanicalLagrangian(
        lambda q: jnp.log(jnp.expm1(jnp.full(1, 0.99))), lambda q: 2 * q[0] ** 2, force=push
    )
    np.testing.assert_allclose(rubbed(T, y, -rate), want, rtol=1e-12)


def test_a_port_hamiltonian_by_hand():
    def spring(y):
        return 2 * y[0] ** 2 + y[1] ** 2 / 2

    y, u = jnp.array([0.7, -0.4]), jnp.array([0.3, 1.0, -2.0])
    field = fields.PortHamiltonian(spring, 2, controls=3, key=KEY)
    factor = jnp.array([[0.5, 7.0], [-0.2, 0.3]])  # what is above the diagonal is not read
    field = eqx.tree_at(lambda f: f.factor, field, factor)
    low = np.array([[0.5, 0.0], [-0.2, 0.3]])
    want = (np.array([[0.0, 1.0], [-1.0, 0.0]]) - low @ low.T) @ np.array([2.8, -0.4])
    np.testing.assert_allclose(field(T, y, u), want + field.inputs @ u, rtol=1e-12)
    steered = fields.PortHamiltonian(
        spring, 2, controls=3, control=lambda t, y: t * jnp.ones(3), dissipation=False, key=KEY
    )
    want = np.array([-0.4, -2.8]) + 0.3 * field.inputs.sum(1)
    np.testing.assert_allclose(steered(T, y), want, rtol=1e-12)
    rotation = np.array([[0.0, 1, -2], [-1, 0, 3], [2, -3, 0]])
    turning = fields.PortHamiltonian(lambda y: y @ y / 2, 3, structure=rotation, dissipation=False)
    np.testing.assert_allclose(turning(T, jnp.arange(3.0)), rotation @ np.arange(3.0), rtol=1e-12)


@pytest.mark.slow
def test_the_energy_of_a_port_hamiltonian_falls_and_without_losses_stays():
    energy = fields.ConvexPotential(3, 6, key=KEY)
    field = fields.PortHamiltonian(energy, 3, structure="learned", key=KEY)
    options: Any = {"rtol": 1e-9, "atol": 1e-11}
    ts, y0 = jnp.linspace(0.0, 8.0, 9), jnp.array([2.0, -1.0, 1.5])
    falling = jax.vmap(energy)(jo.solve(field, y0, ts, **options).ys)
    assert np.all(falling[1:] < falling[:-1])
    still = eqx.tree_at(lambda f: f.factor, field, jnp.zeros((3, 3)))
    kept = jax.vmap(energy)(jo.solve(still, y0, ts, **options).ys)
    np.testing.assert_allclose(kept, np.full(9, energy(y0)), rtol=1e-6)
    np.testing.assert_array_equal(field.structure(), -field.structure().T)
    assert np.all(np.linalg.eigvalsh(field.dissipation()) >= 0)


def test_a_gradient_flow_by_hand():
    field = fields.Gradient(lambda t, y, args: args * jnp.sum(y**4) / 4)
    np.testing.assert_allclose(field(T, Y[0], 3.0), -3 * np.asarray(Y[0]) ** 3, rtol=1e-12)


def test_a_convex_potential_is_convex_and_zero_at_the_origin_alone():
    energy = fields.ConvexPotential(3, 8, key=KEY)
    points = 2 * jax.random.normal(KEY, (2, 200, 3))
    a, b = points
    energies = jax.jit(jax.vmap(energy))
    ends, middles = energies(a) + energies(b), energies((a + b) / 2)
    assert np.all(middles <= ends / 2 + 1e-12)
    assert float(energy(jnp.zeros(3))) == 0.0
    values = energies(a)
    least = 1e-2 * np.sum(np.asarray(a) ** 2, 1)  # attained, so equal but for rounding
    assert np.all(values >= (1 - 1e-14) * least)
    assert float(jnp.mean(values)) > 0.2  # more than the floor, which gives 0.12 on average
    np.testing.assert_array_equal(jax.jit(jax.grad(energy))(jnp.zeros(3)), np.zeros(3))


def test_the_second_derivative_of_a_convex_potential_does_not_jump():
    energy = fields.ConvexPotential(2, 6, depth=1, key=KEY)
    points = jnp.linspace(-2.0, 2.0, 20_001)[:, None] * jnp.array([0.6, 0.8])
    curvature = jax.jit(jax.vmap(jax.hessian(energy)))(points)
    jumps = np.abs(np.diff(curvature, axis=0))
    assert jumps.max() < 0.02 * np.abs(curvature).max()


@pytest.mark.slow
def test_stable_fields_fall_where_the_free_field_runs_away():
    energy = fields.ConvexPotential(2, 6, key=KEY)

    def unstable(t, y, args):
        return jnp.array([y[1] + y[0], -y[0] + 0.5 * y[1] + jnp.sin(t)])

    field = fields.EnergyStable(unstable, energy, 0.5)
    ts = jnp.linspace(0.0, 4.0, 9)
    y0 = jnp.array([[1.0, 0.5], [-2.0, 1.0], [0.2, -0.9]])
    ys = jo.solve_batch(field, y0, ts, rtol=1e-8, atol=1e-10).ys
    values = jax.vmap(jax.vmap(energy))(ys)
    assert np.all(values <= values[:, :1] * np.exp(-0.5 * ts) * (1 + 1e-5))
    up = jax.grad(energy)(y0[0])
    assert float(up @ unstable(T, y0[0], None)) > 0 > float(up @ field(T, y0[0]))
    # Where the free field is steep enough downhill, it is left as it is.
    steep = fields.EnergyStable(lambda y: -10 * y, lambda y: y @ y, 0.5)
    np.testing.assert_allclose(steep(T, y0[0]), -10 * y0[0], rtol=1e-12)
    level = fields.EnergyStable(lambda y: y, lambda y: y @ y, 0.5)
    np.testing.assert_allclose(level(T, y0[0]), -0.25 * y0[0], rtol=1e-12)
    slope = jax.jacfwd(lambda y: level(T, y))(jnp.zeros(2))
    np.testing.assert_array_equal(slope, np.eye(2))  # at its minimum no energy can be lost


class Regular(eqx.Module):
    """A learned Lagrangian whose Hessian is not singular."""

    network: eqx.nn.MLP

    def __call__(self, y):
        return y[2:] @ y[2:] + self.network(y)


FIELDS = {
    "Hamiltonian": fields.Hamiltonian(mlp(4, "scalar")),
    "Lagrangian": fields.Lagrangian(Regular(mlp(4, "scalar"))),
    "MechanicalLagrangian": fields.MechanicalLagrangian(mlp(2, 3), mlp(2, "scalar"), mlp(4, 2)),
    "PortHamiltonian": fields.PortHamiltonian(mlp(4, "scalar"), 4, structure="learned", key=KEY),
    "canonical PortHamiltonian": fields.PortHamiltonian(mlp(4, "scalar"), 4),
    "Gradient": fields.Gradient(mlp(4, "scalar")),
    "EnergyStable": fields.EnergyStable(mlp(4, 4), fields.ConvexPotential(4, 6, key=KEY), 0.1),
}


@pytest.mark.parametrize("name", FIELDS)
def test_weights_have_the_gradient_that_differences_show(name):
    assert_weights_have_the_gradient_that_differences_show(FIELDS[name], Y[0])


@pytest.mark.parametrize("name", few(FIELDS, *list(FIELDS)[::6]))
def test_every_field_learns_through_a_batch(name):
    assert_a_batch_has_the_gradient_that_differences_show(FIELDS[name], Y)


def test_a_batch_and_its_gradient_are_those_of_steps_by_hand():
    flat, of = parted(FIELDS["Hamiltonian"])

    def solved(flat):
        return weighted(
            jo.solve_batch(
                of(flat), Y, (0.0, 0.25), solver="midpoint", controller=jo.Fixed(0.25)
            ).ys[:, -1]
        )

    def by_hand(flat):
        field = of(flat)
        return weighted(jax.vmap(lambda y: y + 0.25 * field(T, y + 0.125 * field(T, y)))(Y))

    assert_equal_with_gradient(solved, by_hand, flat)


@pytest.mark.parametrize("name", FIELDS)
def test_single_precision_stays_single(name):
    assert_single_precision_stays_single(FIELDS[name], Y[0])


def energy(y):
    return jnp.sum(y**2)


BAD = {
    "Hamiltonian: energy must be": lambda: fields.Hamiltonian(3.0),
    "Hamiltonian: energy must return a scalar": lambda: fields.Hamiltonian(mlp(4, 1))(T, Y[0]),
    "Hamiltonian: the state": lambda: fields.Hamiltonian(energy)(T, Y[0, :3]),
    "Lagrangian: the state": lambda: fields.Lagrangian(energy)(T, Y[0, :3]),
    "Lagrangian: force": lambda: fields.Lagrangian(energy, lambda y: y)(T, Y[0]),
    "MechanicalLagrangian: mass": lambda: fields.MechanicalLagrangian(mlp(2, 4), energy)(T, Y[0]),
    "least must be": lambda: fields.MechanicalLagrangian(energy, energy, least=0.0),
    "of an even size": lambda: fields.PortHamiltonian(energy, 3),
    "antisymmetric": lambda: fields.PortHamiltonian(energy, 2, structure=np.eye(2)),
    "'canonical', 'learned'": lambda: fields.PortHamiltonian(energy, 2, structure="lerned"),
    "need key=": lambda: fields.PortHamiltonian(energy, 2, controls=1),
    "control needs controls=": lambda: fields.PortHamiltonian(energy, 2, control=energy),
    "args must be the controls": lambda: fields.PortHamiltonian(energy, 2, controls=1, key=KEY)(
        T, Y[0, :2], jnp.ones(2)
    ),
    "the state has size 2": lambda: fields.PortHamiltonian(energy, 2)(T, Y[0]),
    "rate must be": lambda: fields.EnergyStable(energy, energy, -1.0),
    "EnergyStable: field": lambda: fields.EnergyStable(energy, energy)(T, Y[0]),
    "ConvexPotential: depth": lambda: fields.ConvexPotential(2, 3, 0, key=KEY),
    "floor must be": lambda: fields.ConvexPotential(2, 3, floor=0.0, key=KEY),
}


@pytest.mark.parametrize("words", BAD)
def test_what_does_not_fit_is_refused_by_name(words):
    with pytest.raises((jo.FieldError, jo.OptionError), match=words):
        BAD[words]()
