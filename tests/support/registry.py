"""The solvers of the registry, and fields that each of them can step."""

from typing import Any

import jax.numpy as jnp

from jaxode.solvers.implicit.base import Implicit
from jaxode.solvers.implicit.rosenbrock import Rosenbrock
from jaxode.solvers.registry import SOLVERS
from jaxode.solvers.switching import Switching
from tests.support.problems import lotka_volterra

# Each by its first name.
NAMES = sorted({solver: name for name, solver in reversed(SOLVERS.items())}.values())
ADAPTIVE = [name for name in NAMES if SOLVERS[name]().error_exponent is not None]
PARTITIONED = [name for name in NAMES if SOLVERS[name].partitioned]
IMPLICIT = [name for name in NAMES if issubclass(SOLVERS[name], Implicit)]
# One of each family, for what a test of all solvers would take too long for.
REPRESENTATIVES = (
    "tsit5", "dopri8", "rk4", "rodas5p", "kvaerno5", "radau_iia5", "bdf", "adams", "rkc2",
    "stormer_verlet", "dprkn6", "reversible_heun", "auto",
)  # fmt: skip
# Two of each that has several ways inside, for dearer sweeps than those of all.
FAMILIES = (*REPRESENTATIVES, "heun", "trbdf2", "gauss_legendre4", "kencarp4", "adams_moulton4")
# Their stages end when an iteration has converged.
ITERATING = {"adams", *IMPLICIT} - {
    name for name in NAMES if issubclass(SOLVERS[name], Rosenbrock | Switching)
}
# Implicit, and not damped where a component is infinitely stiff.
SYMMETRIC = {"trapezoid", "implicit_midpoint", "gauss_legendre4", "gauss_legendre6"}


def step_of(name, dt=0.05) -> dict[str, Any]:
    """`dt` where the solver does not choose its steps."""
    return {} if name in ADAPTIVE else {"dt": dt}


def decay(t, y, rate):
    return -rate * y


def spring(t, y, rate):
    return jnp.stack([y[1], -rate * y[0]])


def pendulum(t, y, args):
    return jnp.stack([y[1], -jnp.sin(y[0])])


def linear(name):
    """A field of two components and a rate, and its flow `(t, y, rate)`."""
    if name not in PARTITIONED:
        return decay, lambda t, y, rate: jnp.exp(-rate * t)[..., None] * y

    def flow(t, y, rate):
        w = jnp.sqrt(rate)
        c, s = jnp.cos(w * t), jnp.sin(w * t)
        return jnp.stack([c * y[0] + s * y[1] / w, c * y[1] - w * s * y[0]], axis=-1)

    return spring, flow


def nonlinear(name):
    """A field of two components without arguments."""
    return pendulum if name in PARTITIONED else lotka_volterra
