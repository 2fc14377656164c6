"""The measured order of every solver, and of its dense output, on a problem with a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.convergence import exact_rotation, measured_order, rotation
from tests.support.registry import NAMES, PARTITIONED

# Numbers of steps: few enough to stay above rounding, enough to be in the asymptotic regime.
STEPS = {
    1: (1024, 1448, 2048, 4096),
    2: (512, 724, 1024),
    3: (256, 362, 512),
    4: (128, 181, 256),
    5: (256, 362, 512),
    6: (16, 23, 32),
    7: (11, 16, 23, 32),
    8: (16, 19, 23, 27, 32),
}

# Two terms of the error cancel on fewer steps; that of KenCarp5 is rounding on more.
STEPS_OF = {
    "rodas4": (724, 1024, 1448), "adams_moulton4": (724, 1024, 1448),
    "kvaerno4": (512, 724, 1024), "kencarp5": (64, 91, 128),
}  # fmt: skip

DENSE_ORDERS = {"gauss_legendre6": 5, "kencarp5": 4}  # where it is not that of the step


def steps_of(name):
    return STEPS_OF.get(name) or STEPS[SOLVERS[name]().order]


def driven(t, y, args):
    """Two pendulums coupled by a cubic force, and driven such that their motion is `places`."""

    def force(q):
        return -jnp.sin(q) * (1 + q[::-1] ** 2)

    q, v = y
    return jnp.stack([v, force(q) - force(places(t)) + jax.jacfwd(jax.jacfwd(places))(t)])


def places(t):
    return jnp.stack([jnp.sin(1.3 * t) + 0.5 * jnp.cos(t), jnp.exp(jnp.cos(t)) - 1])


def exact_driven(t):
    t = jnp.asarray(t)
    both = jax.vmap(lambda t: jnp.stack([places(t), jax.jacfwd(places)(t)]))(t.reshape(-1))
    return both.reshape(*t.shape, 2, 2)


def chain(t, y, args):
    """Five integrations in a row: the elementary differential where Vern7's leading error lies.

    On other problems its terms of higher order, some of them hundreds of times larger, hide the
    leading one down to rounding.
    """
    return jnp.concatenate([jnp.cos(t)[None], y[:-1]])


def exact_chain(t):
    return jnp.stack([jnp.sin(t - k * jnp.pi / 2) for k in range(5)], axis=-1)


def errors(name):
    """The error at the end, and the largest inside the steps, for each number of steps."""
    f, solution, span = rotation, exact_rotation, 2.0
    if name == "vern7":
        f, solution, span = chain, exact_chain, 4.0
    elif name in PARTITIONED:
        f, solution = driven, exact_driven
    inside = jnp.linspace(0.0, span, 1009)

    @jax.jit
    def run(dt):
        sol = jo.solve(
            f, solution(0.0), inside, solver=name, controller=jo.Fixed(dt), max_steps=5000
        )
        gaps = jnp.max(jnp.abs(sol.ys - solution(inside)).reshape(inside.size, -1), axis=-1)
        return gaps[-1], jnp.max(gaps)

    return np.array([run(span / steps) for steps in steps_of(name)])


# Those of variable order begin at order one, whatever comes then: see their own tests.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("adams", "bdf")])
def test_orders_of_convergence_of_the_step_and_of_dense_output(name):
    """Values inside the steps converge as those at their ends do, or as is said above."""
    order, found = SOLVERS[name]().order, errors(name)
    assert np.all(found > 1e-13)
    at_the_end, inside = (measured_order(steps_of(name), column) for column in found.T)
    assert abs(at_the_end - order) < 0.1
    assert abs(inside - DENSE_ORDERS.get(name, order)) < 0.1
