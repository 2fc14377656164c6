"""Steady states: which one the flow reaches, how it is differentiated, and what is refused."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close, central, weighted

LINEAR_SOLVERS = {
    "dense": jo.Dense(),
    "banded": jo.Banded(1, 2),
    "sparse": jo.Sparse(np.abs(np.subtract.outer(np.arange(6), np.arange(6)) + 0.5) < 2),
    "krylov": jo.Krylov(rtol=1e-12),
}
RATES = jnp.array([1.0, 0.5, 2.0, 0.3])
AMOUNTS = jnp.array([1.0, 0.2, 0.1])


def logistic(t, y, args):
    rate, most = args
    return rate * y * (1 - y / most)


def switch(t, y, gain):
    return gain * y**4 / (1 + y**4) + 0.02 - y


def chain(t, y, rates):
    """A <-> B <-> C: its sum is conserved, its Jacobian singular."""
    first, second = rates[0] * y[0] - rates[1] * y[1], rates[2] * y[1] - rates[3] * y[2]
    return jnp.stack([-first, first - second, second])


def diffusion(t, y, args):
    """With a drift, so that the bands differ, and a sink that bends."""
    left, right = jnp.pad(y, (1, 0))[:-1], jnp.pad(y, (0, 2))
    return 1.5 * left - 3 * y + right[1:-1] + 0.2 * right[2:] - args["k"] * y**3 + args["b"]


def test_logistic_growth_ends_at_its_capacity():
    found = jo.steady_state(logistic, jnp.array(0.1), (0.7, 3.0))
    np.testing.assert_allclose(found.y, 3.0, rtol=1e-14)
    assert isinstance(found, jo.SteadyState) and found.success
    gradient = jax.grad(lambda y, a: jo.steady_state(logistic, y, a).y, (0, 1))
    assert jax.tree.map(float, gradient(0.1, (0.7, 3.0))) == (0.0, (0.0, pytest.approx(1.0)))


@pytest.mark.parametrize(("y0", "high"), [(0.3, False), (0.7, False), (1.0, True), (9.0, True)])
def test_the_branch_is_that_of_the_flow(y0, high):
    """The unstable state between the two basins is at 0.86."""
    found = jo.steady_state(switch, jnp.array(y0), 2.0).y
    flow = jo.solve(switch, jnp.array(y0), (0.0, 60.0), 2.0, rtol=1e-10, atol=1e-12).y1
    np.testing.assert_allclose(found, flow, rtol=1e-8)
    assert (found > 1) == high


@pytest.mark.parametrize(
    "name",
    ["dense", *(pytest.param(n, marks=pytest.mark.slow) for n in ("banded", "sparse", "krylov"))],
)
def test_derivatives_with_each_linear_solver(name):
    """Reverse, forward, and forward over reverse, along a direction, against differences."""
    args = {"k": jnp.array(0.4), "b": jnp.linspace(0.5, 1.0, 6)}
    push = {"k": jnp.array(1.0), "b": jnp.cos(jnp.arange(6.0))}
    twice = name in ("dense", "krylov")

    def loss(args):
        y0, solver = 0.1 * jnp.ones(6), LINEAR_SOLVERS[name]
        return weighted(jo.steady_state(diffusion, y0, args, linear_solver=solver).y)

    def all_at(s):
        moved = jax.tree.map(lambda x, v: x + s * v, args, push)
        value, tangent = jax.jvp(loss, (moved,), (push,))
        if not twice:
            return value, tangent, jax.grad(loss)(moved), ()
        return value, tangent, *jax.jvp(jax.grad(loss), (moved,), (push,))

    h = 3e-3
    found = jax.jit(lambda s: jax.lax.map(all_at, s))(h * jnp.arange(-2.0, 3.0))
    weights = jnp.array([1.0, -8.0, 0.0, 8.0, -1.0]) / (12 * h)
    value, _, gradient, _ = jax.tree.map(lambda x: jnp.tensordot(weights, x, 1), found)
    _, tangent, by_args, product = jax.tree.map(lambda x: x[2], found)
    np.testing.assert_allclose(tangent, value, rtol=1e-6)
    np.testing.assert_allclose(
        sum(jax.tree.leaves(jax.tree.map(jnp.vdot, by_args, push))), tangent, rtol=1e-8
    )
    if twice:
        assert_close(product, gradient, 1e-6)


def test_conserved_sums():
    """The steady state has the sum that `y0` has, and moves with it."""

    def last(y0, rates):
        return weighted(jo.steady_state(chain, y0, rates, conserved=jnp.ones(3)).y)

    found = jo.steady_state(chain, AMOUNTS, RATES, conserved=jnp.ones(3)).y
    shares = jnp.array([1.0, 2.0, 40 / 3])
    np.testing.assert_allclose(found, 1.3 * shares / jnp.sum(shares), rtol=1e-12)
    point = AMOUNTS, RATES
    gradient = jax.jit(jax.grad(lambda p: last(*p)))(point)
    assert_close(gradient, central(lambda p: last(*p), point), 1e-8)


def test_a_singular_jacobian_is_said_by_name():
    with pytest.raises(jo.SolveError, match=r"SINGULAR.*conserved="):
        jo.steady_state(chain, AMOUNTS, RATES)
    with pytest.raises(jo.SolveError, match=r"NOT_CONVERGED.*conserved="):
        jo.steady_state(chain, AMOUNTS, RATES, conserved=jnp.array([1.0, 2.0, 1.0]))


FAILURES = {
    0: (lambda y: y, "MAX_STEPS"),
    1: (lambda y: jnp.stack([y[1], -y[0]]), "MAX_STEPS"),
    2: (lambda y: 1 + y**2, "STEP_UNDERFLOW"),
    3: (lambda y: jnp.where(y > 2, jnp.nan, 1.0), "NOT_FINITE"),
}


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def failing(scale, which):
    fields = [field for field, _ in FAILURES.values()]
    found = jo.steady_state(
        lambda t, y, args: scale * jax.lax.switch(which, fields, y), jnp.array([1.0, 0.5]),
        max_steps=300,
    )  # fmt: skip
    return jnp.sum(found.y), found.status


@pytest.mark.parametrize("which", FAILURES)
def test_failures_are_named_and_leave_nan(which):
    (value, status), gradient = failing(1.0, which)
    assert jo.Status(int(status)).name == FAILURES[which][1]
    assert np.isnan(value)
    assert np.isnan(gradient)


def test_failures_are_raised_outside_of_jit():
    with pytest.raises(jo.SolveError, match=r"MAX_STEPS: after 50 steps.*does not come to rest"):
        jo.steady_state(lambda t, y, args: y, jnp.ones(2), max_steps=50)


@pytest.mark.slow
def test_a_deep_equilibrium_model():
    """A network of 32 components at rest, under jit; gradients by weights and input."""
    net = eqx.nn.MLP(32, 32, 32, 1, activation=jax.nn.tanh, key=jax.random.key(0))
    arrays, rest = eqx.partition(net, eqx.is_inexact_array)
    push = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), arrays)
    x = jnp.linspace(-1.0, 1.0, 32)

    def loss(s):
        net = eqx.combine(jax.tree.map(lambda x, v: x + s * v, arrays, push), rest)
        found = jo.steady_state(lambda t, z, x: net(z) + x - z, jnp.zeros(32), (1 + s) * x)
        return weighted(found.y)

    assert_close(jax.jit(jax.grad(loss))(0.0), central(loss, 0.0), 1e-8)


@pytest.mark.slow
def test_pytrees_modules_and_vmap():
    def field(t, y, args):
        return {"a": args - y["a"] ** 2, "b": (y["a"] - jnp.sum(y["b"][0]) - y["b"][0],)}

    def state_at_rest(k):
        y0 = {"a": jnp.array(1.0), "b": (jnp.ones(2),)}
        return jo.steady_state(field, y0, k, atol={"a": 1e-6, "b": (1e-8,)}).y

    @jax.jit
    @jax.vmap
    def states_and_slopes(k):
        return state_at_rest(k), jax.grad(lambda k: state_at_rest(k)["b"][0][0])(k)

    rates = jnp.array([1.0, 4.0, 0.25])
    many, slopes = states_and_slopes(rates)
    root = jnp.sqrt(rates)
    expected = {"a": root, "b": (jnp.stack([root, root], 1) / 3,)}
    assert_close(many, expected, 1e-13)
    np.testing.assert_allclose(slopes, 1 / (6 * root), rtol=1e-12)


def test_time_and_single_precision():
    y = jo.steady_state(lambda t, y, args: t - y, jnp.ones(2, jnp.float32), t=3.0).y
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, 3.0, rtol=1e-6)
    gradient = jax.grad(lambda t: jo.steady_state(lambda t, y, a: t - y, jnp.array(1.0), t=t).y)
    np.testing.assert_allclose(gradient(3.0), 1.0)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (jo.FieldError, "shape", {"f": lambda t, y, args: y[:1]}),
        (jo.StateError, "bool", {"y0": jnp.ones(2, bool)}),
        (jo.OptionError, "linear_solver", {"linear_solver": "dense"}),
        (jo.OptionError, r"\(m, 2\)", {"conserved": jnp.ones(3)}),
        (jo.OptionError, "finite", {"conserved": jnp.array([1.0, np.inf])}),
        (jo.OptionError, "Banded", {"conserved": jnp.ones(2), "linear_solver": jo.Banded(1, 1)}),
        (jo.OptionError, "rows", {"linear_solver": jo.Banded(1, 2)}),
        (jo.OptionError, "max_steps", {"max_steps": 0}),
        (jo.ToleranceError, "rtol", {"rtol": -1.0}),
    ],
)
def test_bad_input_is_refused_by_name(error, message, options):
    given = {"f": lambda t, y, args: -y, "y0": jnp.ones(2), **options}
    with pytest.raises(error, match=message):
        jo.steady_state(given.pop("f"), given.pop("y0"), **given)
