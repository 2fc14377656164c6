"""What is conserved over long times, what is reversed, what is computed; and Nystrom's methods."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.problem.field import pack_field
from jaxode.problem.state import Packing
from jaxode.solvers.registry import SOLVERS
from jaxode.solvers.symplectic.nystrom_tableau import NystromTableau
from jaxode.solvers.symplectic.splitting import Symplectic
from jaxode.solvers.symplectic.splitting_tableau import SymplecticTableau
from tests.support.problems import BY_NAME
from tests.support.registry import PARTITIONED
from tests.support.sweeps import few

SYMPLECTIC = [name for name in PARTITIONED if issubclass(SOLVERS[name], Symplectic)]
SYMMETRIC = [name for name in SYMPLECTIC if name != "semi_implicit_euler"]
START = (jnp.array(1.0), jnp.array(0.5))


def pendulum(t, y, args):
    q, p = y
    return p, -jnp.sin(q)


def energy(t, y, args):
    q, p = y
    return p**2 / 2 - jnp.cos(q)


def waves(t, y, args):
    """No kinetic energy of a mass, and both halves hang on time."""
    q, p = y
    return (1 + 0.3 * jnp.sin(t)) * jnp.sin(p) + p, -(1 + 0.4 * jnp.cos(2 * t)) * jnp.tanh(2 * q)


@functools.cache
def energies(name, h, steps):
    """The error of the energy at a thousand times of `steps` steps, which one program serves."""
    ts = jnp.linspace(0.0, h * steps, 1001)
    options: dict[str, Any] = {"dt": float(h), "max_steps": 10**6 + 1, "save": energy}
    ys = jo.solve(pendulum, START, ts, solver=name, **options).ys
    return np.asarray(ys - energy(0.0, START, None))


def end(name, y0, t0, t1, dt):
    """The state at `t1`: one program for each solver."""
    return jo.solve(waves, y0, (t0, t1), solver=name, dt=float(dt)).y1


@functools.cache
def end_of_waves():
    """The state at 2, to the last digits."""
    y1 = jo.solve(waves, START, (0.0, 2.0), solver="dopri8", rtol=1e-13, atol=1e-13).y1
    return jnp.stack(y1)


@pytest.mark.parametrize("name", few(SYMPLECTIC, "stormer_verlet", "yoshida4"))
def test_the_error_of_the_energy_does_not_grow_in_a_million_steps(name):
    found = np.abs(energies(name, 0.1, 10**6))
    first, last = np.max(found[:100]), np.max(found[-100:])
    assert last < 1.1 * first
    assert first < 0.1 ** SOLVERS[name]().order * 0.8


def test_the_energy_of_a_method_that_is_not_symplectic_drifts():
    found = np.abs(energies("rk4", 0.1, 10**5))
    assert np.max(found[-100:]) > 5 * np.max(found[:100])


@pytest.mark.parametrize("name", few(SYMPLECTIC, "stormer_verlet", "yoshida4"))
def test_the_error_of_the_energy_falls_with_the_order(name):
    order, sizes = SOLVERS[name]().order, np.array([0.1, 0.05])
    worst = [np.max(np.abs(energies(name, h, round(20 / h)))) for h in sizes]
    assert abs(np.log2(worst[0] / worst[1]) - order) < 0.2


@pytest.mark.parametrize("name", [*SYMMETRIC, "semi_implicit_euler"])
def test_steps_back_undo_the_steps_of_a_symmetric_method(name):
    there = end(name, START, 0.2, 10.2, 0.1)
    back = end(name, there, 10.2, 0.2, 0.1)
    gap = max(abs(float(a - b)) for a, b in zip(back, START, strict=True))
    assert gap < 1e-12 if name in SYMMETRIC else gap > 1e-3


def test_steps_of_a_method_that_is_not_symmetric_are_undone_in_reverse_order():
    """Else its gradient by steps back would be that of other states."""

    def gradient(mode):
        def loss(y0):
            field = lambda t, y, args: jnp.stack([y[1], -jnp.sin(y[0])])  # noqa: E731
            options: Any = {"solver": "semi_implicit_euler", "dt": 0.1, "sensitivity": mode}
            sol = jo.solve(field, y0, (0.0, 1.0), max_steps=16, **options)
            return jnp.sum(sol.y1**3)

        return jax.jit(jax.grad(loss))(jnp.array([0.7, -0.4]))

    np.testing.assert_allclose(gradient("reversible"), gradient("discrete"), rtol=1e-10)


@pytest.mark.parametrize("name", SYMPLECTIC)
def test_order_for_any_kinetic_energy_and_time_in_both_halves(name):
    def error(dt):
        y1 = end(name, START, 0.0, 2.0, dt)
        return np.max(np.abs(jnp.stack(y1) - end_of_waves()))

    order = SOLVERS[name]().order
    steps = np.array([32, 45, 64]) * (32 if order == 1 else 1)
    slope = -np.polyfit(np.log(steps), np.log([error(2.0 / n) for n in steps]), 1)[0]
    assert abs(slope - order) < 0.1


# Drifts and kicks of a step, one force or one velocity each.
WORK = {
    "semi_implicit_euler": (1, 1),
    "stormer_verlet": (1, 1),
    "yoshida4": (3, 3),
    "yoshida6": (7, 7),
    "mclachlan4": (5, 5),
    "nystrom4": (0, 3),
    "dprkn6": (0, 5),
}


def stepping(name, field, k):
    """A step as a function of what is differentiated, and values for it."""
    state = jnp.ones(3), jnp.ones(3)
    solver, packing, t, h = SOLVERS[name](), Packing.of(state), jnp.array(0.0), jnp.array(0.1)

    def step(k, y, carry):
        stepped = solver.step(pack_field(field, k, packing), t, y, h, carry, None)
        return stepped.y1, stepped.solver_state, stepped.error

    y = packing.pack(state)
    return step, (k, y, solver.init(pack_field(field, k, packing), t, y))


@pytest.mark.parametrize("name", SYMPLECTIC)
def test_the_flow_of_a_step_keeps_areas(name):
    solver, packing = SOLVERS[name](), Packing.of(START)
    field, t = pack_field(waves, None, packing), jnp.array(0.3)

    def step(y):
        return solver.step(field, t, y, jnp.array(0.4), solver.init(field, t, y), None).y1

    assert abs(np.linalg.det(jax.jit(jax.jacrev(step))(packing.pack(START))) - 1) < 1e-13


@pytest.mark.parametrize("name", PARTITIONED)
def test_a_step_computes_no_half_that_is_not_used(name):
    calls = {"drift": 0, "kick": 0}

    def counted(half, x):
        def tally(x):
            calls[half] += 1
            return x

        return jax.pure_callback(tally, x, x)

    def field(t, y, k):
        q, p = y
        return counted("drift", k * p), counted("kick", -k * q)

    step, inputs = stepping(name, field, jnp.ones(3))
    compiled = jax.jit(step).lower(*inputs).compile()
    calls.update(drift=0, kick=0)
    jax.block_until_ready(compiled(*inputs))
    assert (calls["drift"], calls["kick"]) == WORK[name]


@pytest.mark.parametrize("name", few(PARTITIONED, "yoshida4", "dprkn6"))
def test_the_gradient_of_a_step_computes_no_half_that_is_not_used(name):
    """Products of matrices: one for each slope, and one for its derivative by the state."""

    def field(t, y, k):
        q, p = y
        return jnp.sin(k[:3] @ p), jnp.tanh(k[3:] @ q)

    step, inputs = stepping(name, field, jnp.ones((6, 3)))

    def gradient(k, y, carry):
        outputs, pull = jax.vjp(step, k, y, carry)
        return pull(outputs)

    text = jax.jit(gradient).lower(*inputs).compile().as_text() or ""
    assert 0 < len(re.findall(r"\bdot\(", text)) <= 2 * sum(WORK[name])


def test_what_is_no_pair_is_refused_by_name():
    solve = functools.partial(jo.solve, pendulum, ts=(0.0, 1.0), solver="stormer_verlet", dt=0.1)
    for y0 in (
        jnp.ones(3),
        1.0,
        {"q": jnp.ones(2), "p": jnp.ones(2)},
        (jnp.ones(2), jnp.ones(3)),
        (jnp.ones(2), (jnp.ones(2),)),
        (jnp.ones(2), jnp.ones(2), jnp.ones(2)),
    ):
        with pytest.raises(jo.StateError, match=r"StormerVerlet needs y0 = \(q, p\), a pair"):
            solve(y0)
    with pytest.raises(jo.StateError, match=r"DPRKN6 needs y0 = .* got shapes \[3\]"):
        jo.solve_batch(pendulum, jnp.ones((2, 3)), (0.0, 1.0), solver="dprkn6")


def test_a_pair_a_pair_of_trees_and_an_array_are_one():
    def flat(t, y, args):
        q, p = jnp.split(y, 2)
        return jnp.concatenate([p, -jnp.sin(q)])

    def trees(t, y, args):
        return [y[1], jax.tree.map(lambda q: -jnp.sin(q), y[0])]

    q, p = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))
    options: dict[str, Any] = {"solver": "leapfrog", "dt": 0.1}
    pair = jo.solve(pendulum, (q, p), (0.0, 2.0), **options).y1
    array = jo.solve(flat, jnp.concatenate([q, p]), (0.0, 2.0), **options).y1
    tree = [{"a": x[0], "b": (x[1],)} for x in (q, p)]
    tree = jo.solve(trees, tree, (0.0, 2.0), **options).y1
    for i in range(2):
        np.testing.assert_allclose(array[2 * i : 2 * i + 2], pair[i], rtol=1e-15)
        np.testing.assert_allclose(tree[i]["a"], pair[i][0], rtol=1e-15)
        np.testing.assert_allclose(tree[i]["b"][0], pair[i][1], rtol=1e-15)


@pytest.mark.parametrize("name", few(["kepler", "kepler_eccentric", "pleiades"], "kepler"))
def test_dprkn6_follows_its_tolerance_and_is_cheaper_than_a_method_of_first_order_systems(name):
    problem = BY_NAME[name]

    def run(solver, tolerance):
        options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "max_steps": 20_000}
        y0, ts = jnp.array(problem.y0), (0.0, problem.t1)
        sol = jo.solve(problem.field, y0, ts, solver=solver, **options)
        return problem.error(sol.y1), int(sol.stats.num_evaluations)

    tolerances = np.logspace(-6, -10, 5)
    runs = [run("dprkn6", tolerance) for tolerance in tolerances]
    # The error falls as tol^(6/5): steps of order 6 by an estimate of order 5.
    found = np.array([error for error, _ in runs])
    assert abs(np.polyfit(np.log(tolerances), np.log(found), 1)[0] - 1.2) < 0.3
    error, calls = run("dopri5", 1e-11)
    assert found[3] < 1.5 * error
    assert runs[3][1] < 0.6 * calls


@pytest.mark.slow
@pytest.mark.parametrize("name", few(["stormer_verlet", "dprkn6"], "stormer_verlet"))
def test_gradients_in_lanes_are_those_of_single_solves(name):
    """By parameters that all share, those of each, and starts; values inside steps."""
    starts = jax.random.normal(jax.random.key(0), (5, 4))
    ts = jnp.array([0.0, 0.25, 1.4])
    options: dict[str, Any] = {"solver": name, "controller": jo.Fixed(0.17), "max_steps": 16}

    def field(t, y, k):
        q, p = jnp.split(y, 2)
        return jnp.concatenate([p, -k["own"] * jnp.sin(k["shared"] @ q)])

    def batch(y, own, shared):
        k = {"own": own, "shared": shared}
        axes = (0, None, {"own": 0, "shared": None})
        return jnp.sum(jo.solve_batch(field, y, ts, k, in_axes=axes, lanes=3, **options).ys ** 3)

    def loop(y, own, shared):
        def one(y, own):
            return jo.solve(field, y, ts, {"own": own, "shared": shared}, **options).ys

        return jnp.sum(jax.lax.map(lambda row: one(*row), (y, own)) ** 3)

    inputs = starts, jnp.linspace(0.5, 2.0, 5), jnp.array([[1.0, 0.3], [-0.2, 1.5]])
    got, expected = (jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*inputs) for f in (batch, loop))
    for one, two in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SymplecticTableau(1, (1.0,), (0.5, 0.5)), "must have the same length"),
        (lambda: SymplecticTableau(1, (1.0,), (0.9,)), "must each sum to one"),
        (lambda: NystromTableau(1, (0.0, 1.0), ((0.5, 0.0),), (), (), ()), "row i of `a`"),
        (
            lambda: NystromTableau(1, (0.0, 1.0), ((0.5,),), (0.5,), (1.0,), ()),
            "same number of stages",
        ),
        (
            lambda: NystromTableau(1, (0.0, 1.0), ((0.4,),), (0.5, 0.0), (1.0, 0.0), ()),
            "sums to 0.4: not half of 1.0 squared",
        ),
    ],
)
def test_malformed_tableau_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
