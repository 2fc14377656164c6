"""The measured order of every solver, and of its dense output, on a problem with a closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
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

STEPS_OF = {"rodas4": (724, 1024, 1448)}  # two terms of its error cancel on fewer

DENSE_ORDERS = {"gauss_legendre6": 5}  # where it is not that of the step


def steps_of(name):
    return STEPS_OF.get(name) or STEPS[SOLVERS[name]().order]


def field(t, y, args):
    """A point that runs around a circle faster the further out it is, at a moving pace."""
    pace = (2 + jnp.sin(3 * t)) * jnp.sum(y**2)
    return pace * jnp.stack([-y[1], y[0]])


def exact(t):
    angle = 2 * t + (1 - jnp.cos(3 * t)) / 3
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


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


@functools.cache
def errors(name):
    """The error at the end, and the largest inside the steps, for each number of steps."""
    f, solution, span = field, exact, 2.0
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


def slope(steps, found):
    return -np.polyfit(np.log(steps), np.log(found), 1)[0]


# Those of variable order begin at order one, whatever comes then: see their own tests.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("adams", "bdf")])
@pytest.mark.parametrize("column", [0, 1], ids=["step", "dense output"])
def test_order_of_convergence(name, column):
    """Values inside the steps converge as those at their ends do, or as is said above."""
    order = SOLVERS[name]().order
    if column:
        order = DENSE_ORDERS.get(name, order)
    found = errors(name)[:, column]
    assert np.all(found > 1e-13)
    assert abs(slope(steps_of(name), found) - order) < 0.1
