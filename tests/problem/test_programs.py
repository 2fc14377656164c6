"""Compiled programs outside of `jit`: which are shared, which are kept, and what they see."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.problem import programs
from jaxode.problem.closure import closure_convert
from tests.support.compilations import compilations_of

Y0 = jnp.array([1.0, 2.0])
SPAN = (0.0, 1.0)


def solve(f, args=None, **options):
    return jo.solve(f, Y0, SPAN, args, **options)


def same_key(f):
    """Two traces of one function have one key."""
    first, second = (closure_convert(lambda y: f(y), jnp.ones(4))[0].program for _ in range(2))
    return first == second and hash(first) == hash(second)


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

SCALE = np.arange(4.0)
FUNCTIONS = {
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "custom_vjp": doubled,
    "grad": lambda y: jax.grad(lambda z: jnp.sum(doubled(jax.nn.relu(z))))(y),
    "vmap": lambda y: jax.vmap(lambda z: jax.nn.relu(z) + doubled(z))(y),
    "jacfwd": lambda y: jax.jacfwd(jax.nn.relu)(y) @ y,
    "cond": lambda y: jax.lax.cond(y[0] > 0, lambda z: z * SCALE, lambda z: z, y),
    "scan": lambda y: jax.lax.scan(lambda c, x: (c + x * SCALE, None), y, y)[0],
    "while": lambda y: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: c * 2, y),
    "solve": lambda y: jnp.linalg.solve(jnp.eye(4), y),
    "root": lambda y: jax.lax.custom_root(lambda v: v - y, y, lambda f, x: x, lambda g, z: z),
    "checkpoint": lambda y: jax.checkpoint(lambda z: jnp.sin(z) * SCALE)(y),
    "jit": lambda y: jax.jit(lambda z: z + SCALE)(y),
    "random": lambda y: y + jax.random.normal(jax.random.key(0), (4,)),
    "print": lambda y: (jax.debug.print("{}", y), y)[1],
    "callback": lambda y: jax.pure_callback(lambda v: v, y, y),
    "nan": lambda y: jnp.where(y > 0, jnp.nan, y),
}


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_has_one_key(f):
    assert same_key(f)


def make_clip(low, high):
    @jax.custom_vjp
    def clip(x):
        return x

    clip.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, low, high),))
    return clip


@pytest.mark.parametrize(
    ("f", "g"),
    [
        (lambda y: 2 * y, lambda y: 3 * y),
        (lambda y: 0.0 * y, lambda y: -0.0 * y),
        (lambda y: y[0] - y[1], lambda y: y[1] - y[0]),
        (lambda y: jnp.sum(y[:2]), lambda y: jnp.sum(y[1:3])),
        (lambda y: FUNCTIONS["cond"](y), lambda y: FUNCTIONS["cond"](-y)),
        (lambda y: jax.lax.cumsum(y), lambda y: jax.lax.cumsum(y, reverse=True)),
        (lambda y: y * jnp.ones(4, int), lambda y: y * jnp.ones(4)),
        (make_clip(-1.0, 1.0), make_clip(-2.0, 2.0)),
        (lambda y: (y, 1), lambda y: (y, 1.0)),
        (lambda y: (y, 1), lambda y: (y, True)),
    ],
)  # fmt: skip
def test_different_functions_have_different_keys(f, g):
    a, b = (closure_convert(h, jnp.ones(4))[0].program for h in (f, g))
    assert a != b


def test_a_function_written_anew_with_the_same_meaning_shares_the_program():
    def call(k):
        constant = jnp.array(k)
        return solve(
            lambda t, y, a: -constant * jax.nn.relu(y),
            save=lambda t, y, a: 2 * y,
            solver=jo.Rodas5P(jac=lambda t, y, a: -constant * jnp.eye(2)),
            events=jo.Event(lambda t, y, a: t - 2.0, apply=lambda t, y, a: y),
        )

    call(1.0)
    assert compilations_of(lambda: call(2.0)) <= 1  # that of jnp.array
    np.testing.assert_allclose(call(2.0).ys[-1], 2 * np.exp(-2.0) * Y0, rtol=1e-3)


def test_a_solve_inside_a_field_is_compiled_once_and_followed():
    rates = {"inner": 2.0, "sensitivity": "discrete"}

    def averaged(t, y, args):
        def decays(t, z, rate):
            return -rate * z

        way = rates["sensitivity"]
        inner = jo.solve(decays, jnp.ones(()), (0.0, 1.0), rates["inner"], sensitivity=way)
        return -inner.y1 * y

    def end():
        return float(jo.solve(averaged, 1.0, (0.0, 1.0)).y1)

    np.testing.assert_allclose(end(), np.exp(-np.exp(-2.0)), rtol=1e-4)
    assert compilations_of(end) == 0
    rates["inner"] = 3.0
    np.testing.assert_allclose(end(), np.exp(-np.exp(-3.0)), rtol=1e-4)
    rates["sensitivity"] = "adjoint"
    assert compilations_of(end) > 0


def test_gradients_are_compiled_once():
    def loss(k):
        return solve(lambda t, y, a: -k * y).y1[0]

    gradient = jax.grad(loss)
    gradient(1.0)
    assert compilations_of(lambda: gradient(2.0)) == 0
    assert gradient(2.0) == pytest.approx(-np.exp(-2.0), rel=1e-3)


def test_settings_of_jax_are_seen():
    f = lambda t, y, a: -y @ jnp.ones((2, 2))  # noqa: E731
    with jax.enable_x64(False):
        y0 = jnp.array([1.0, 2.0])
        assert jo.solve(f, y0, SPAN).y1.dtype == jnp.float32
    assert solve(f).y1.dtype == jnp.float64
    with jax.default_matmul_precision("highest"):
        assert compilations_of(lambda: solve(f)) > 0
    with jax.disable_jit():
        eager = jo.solve(f, Y0, SPAN, 2, solver="rk4", dt=0.5)
    np.testing.assert_allclose(eager.y1, solve(f, solver="rk4", dt=0.5).y1)
    broken = lambda t, y, a: jnp.log(y - 3)  # noqa: E731
    solve(broken, throw=False)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        solve(broken, throw=False)


def test_values_of_options_are_checked_at_every_call():
    solve(lambda t, y, a: -y, solver="rk4", dt=0.1)
    with pytest.raises(jo.OptionError, match="dt"):
        solve(lambda t, y, a: -y, solver="rk4", dt=-0.1)
    solve(lambda t, y, a: -y, jumps=[0.5])
    with pytest.raises(jo.TimesError, match="jumps"):
        solve(lambda t, y, a: -y, jumps=[np.nan])
    solve(lambda t, y, a: -y, controller=jo.Fixed(0.1))
    with pytest.raises(jo.OptionError, match="dt"):
        solve(lambda t, y, a: -y, controller=jo.Fixed(-0.1))


def test_programs_are_kept_with_their_function_and_no_longer():
    def make(power):
        return lambda t, y, a: -(y**power)

    held = make(7)
    solve(held)
    for power in range(8, 8 + programs.MOST_KEPT):
        key = programs.ProgramKey(power)
        programs.kept_program(key, int, None, None, lambda: programs.Compiled(lambda x: x))
    assert compilations_of(lambda: solve(held)) == 0
    kept = weakref.ref(held)
    del held
    gc.collect()
    assert kept() is None
    assert len(programs._last_used) <= programs.MOST_KEPT


def test_a_kept_program_holds_no_array_that_its_function_captured():
    def run():
        rates = jnp.array([3.0, 4.0])
        solve(lambda t, y, a: -rates * y)
        return weakref.ref(rates)

    captured = run()
    gc.collect()
    assert captured() is None


def test_a_trace_that_depends_on_chance_warns():
    random = np.random.default_rng(0)

    def noisy(t, y, args):
        return -y + float(random.normal())

    with pytest.warns(jo.RecompilationWarning, match="noisy"):
        for _ in range(4):
            solve(noisy, solver="euler", dt=0.5)
    solve(noisy, solver="euler", dt=0.5)  # it warns once


class TestWhatJaxKeeps:
    """JAX keeps traces of these by the identity of a function: the docs say so."""

    held = 1.0

    def is_stale(self, f):
        type(self).held = 1.0
        before = solve(f).y1
        type(self).held = 2.0
        return np.array_equal(before, solve(f).y1)

    def test_an_inner_jit(self):
        inner = jax.jit(lambda y: -self.held * y)
        assert self.is_stale(lambda t, y, a: inner(y))

    def test_a_branch_that_is_one_function(self):
        branch = lambda y: -self.held * y  # noqa: E731
        assert self.is_stale(lambda t, y, a: jax.lax.cond(y[0] > -1, branch, branch, y))

    def test_a_checkpoint(self):
        inner = lambda y: -self.held * y  # noqa: E731
        assert self.is_stale(lambda t, y, a: jax.checkpoint(inner)(y))
