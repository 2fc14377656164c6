"""Mass matrices, regular and singular: orders, and what is equal to a field without one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.convergence import measured_order
from tests.support.registry import IMPLICIT
from tests.support.sweeps import few


def exact(t):
    return jnp.stack([jnp.sin(1.3 * t) + 1.1, jnp.cos(t) * jnp.exp(-0.3 * t), jnp.sin(t**2 / 2)])


def bent(u):
    """A map of three components whose every derivative mixes them."""
    x, y, z = u
    A = jnp.array([[-0.7, 0.9, 0.4], [-0.5, -0.8, 0.6], [0.5, -0.3, -1.9]])
    more = [jnp.sin(x * y) + 0.3 * z**2 * x, x * y - 0.4 * z**3 * y, 0.3 * jnp.sin(x * z) + x**2]
    return A @ u + jnp.stack(more)


def forced(t, u, mass):
    """A right-hand side with which `M u' = f` has the exact solution."""
    value, slope = jax.jvp(exact, (t,), (jnp.ones_like(t),))
    return bent(u) - bent(value) + mass @ slope


MASSES = {
    "index 1": np.diag([1.0, 1.0, 0.0]),
    "index 1, oblique": np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, -1.0]]),
    "regular": np.array([[2.0, 0.3, 0.1], [-0.4, 1.5, 0.2], [0.1, 0.5, 1.0]]),
}
TAKING_MASS = sorted(name for name in IMPLICIT if SOLVERS[name].takes_mass)
# By steps of one size: those whose order is another one, with algebraic equations or always.
ORDERS = {"bdf": 2}
ORDERS_OF_ALGEBRAIC = ORDERS | {"gauss_legendre4": 2, "gauss_legendre6": 4}
# And inside the steps, where these are other than at the end.
INSIDE = {"gauss_legendre6": 5}
INSIDE_OF_ALGEBRAIC = {"radau_iia5": 4, "rodas4": 3, "rodas5p": 4}


def taking(name: str, mass) -> Any:
    make: Any = SOLVERS[name]
    return make(mass=mass)


INSIDE_TIMES = jnp.linspace(0.0, 1.6, 301)


def solved(name, mass, dt):
    """Steps of `dt`: one program for regular masses, and one for singular ones."""
    mass = jnp.array(mass)
    return jo.solve(
        forced, exact(0.0), INSIDE_TIMES, mass, solver=taking(name, mass),
        controller=jo.Fixed(float(dt)), max_steps=2000,
    )  # fmt: skip


def errors(name, mass, counts):
    """The error at the end, and the largest inside the steps, for each number of steps."""
    values = jax.vmap(exact)(INSIDE_TIMES)
    gaps = [np.max(np.abs(solved(name, mass, 1.6 / n).ys - values), axis=-1) for n in counts]
    return np.array([(gap[-1], np.max(gap)) for gap in gaps])


CASES = [(name, kind) for name in TAKING_MASS for kind in MASSES]
SINGULAR = [("radau_iia5", kind) for kind in list(MASSES)[:2]]


@pytest.mark.parametrize(
    ("name", "kind"), few(CASES, *SINGULAR, *(("rodas5p", kind) for kind in MASSES))
)
def test_order_with_a_mass_matrix(name, kind):
    """At the end, and inside the steps.

    Algebraic unknowns take the orders of Hairer and Wanner II, table VI.1.1.
    """
    tables = (ORDERS, INSIDE) if kind == "regular" else (ORDERS_OF_ALGEBRAIC, INSIDE_OF_ALGEBRAIC)
    known, known_inside = tables
    order = known[name] if name in known else int(SOLVERS[name]().order)
    counts = np.array([32, 45, 64]) * (16 if order == 1 else 4 if order == 2 else 1)
    found = errors(name, MASSES[kind], counts)
    end, inside = (measured_order(counts, column) for column in found.T)
    assert abs(end - order) < 0.25
    assert abs(inside - known_inside.get(name, order)) < 0.4


def without_mass(t, u, mass):
    return jnp.linalg.solve(mass, forced(t, u, mass))


@pytest.mark.parametrize("name", few(TAKING_MASS, "rodas5p"))
def test_a_regular_mass_matrix_is_its_inverse_times_the_field(name):
    """In every step: the stages are the same but for rounding and the ends of iterations."""
    mass = jnp.array(MASSES["regular"])
    found = jo.solve(
        without_mass, exact(0.0), (0.0, 1.6), mass, solver=name, controller=jo.Fixed(0.05)
    )
    np.testing.assert_allclose(solved(name, mass, 0.05).y1, found.y1, rtol=1e-9)
