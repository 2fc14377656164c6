"""`vmap` around a solve and its derivatives: it runs in lanes, with the numbers of a loop."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.problem.errors import DifferentiationError
from jaxode.sensitivity.lanes import solve as lanes_solve
from tests.support.differences import assert_close

# Odd numbers, so that shapes tell what an array of a program is.
COUNT, STEPS = 3, 97
STARTS = jnp.array([[0.8], [1.0], [1.3]])
RATES = jnp.array([1.1, 0.4, 0.2, 0.3, 0.1])
TS = jnp.array([0.0, 0.4, 1.0])
OPTIONS: dict[str, Any] = {"solver": "bosh3", "max_steps": STEPS}
slow = pytest.mark.slow


def field(t, y, p):
    return -p[0] * y + p[1] * jnp.sin(t) * y * y + p[2]


def states(y0, p, **options):
    return jo.solve(field, y0, TS, p, throw=False, **{**OPTIONS, **options}).ys


def loss(y0, p, **options):
    return jnp.sum(states(y0, p, **options) ** 2)


def total(p, **options):
    """Over states that are mapped, with rates that are shared."""
    return jnp.sum(jax.vmap(lambda y0: states(y0, p, **options))(STARTS) ** 2)


def one_by_one(function, *inputs):
    """The results of a loop over the first axes of the inputs."""
    run = jax.jit(function)
    rows = [run(*row) for row in zip(*inputs, strict=True)]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


def assert_same(found, expected, tolerance=1e-9):
    close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=1e-12)
    jax.tree.map(close, found, expected)


def program(function, *inputs):
    return jax.jit(function).lower(*inputs).as_text()


@pytest.mark.parametrize(
    "save",
    [
        "ts",
        pytest.param("steps", marks=slow),
        pytest.param("dense", marks=slow),
        pytest.param(lambda t, y, p: {"sum": jnp.sum(y) * t, "twice": 2 * y}, marks=slow),
    ],
)
def test_values_are_those_of_a_batch(save):
    options = {**OPTIONS, "save": save}
    found = jax.vmap(lambda y0: jo.solve(field, y0, TS, RATES, **options))(STARTS)
    batch = jo.solve_batch(field, STARTS, TS, RATES, **options)
    for name in ("ys", "y1", "status"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, name), getattr(batch, name))
    assert found.stats.useful_share is None
    np.testing.assert_array_equal(found.stats.num_steps, batch.stats.num_steps)


def test_no_array_of_all_steps_of_all_trajectories():
    """A vmapped loop selects between such buffers at every step; lanes have none."""
    text = program(jax.value_and_grad(total), RATES)
    assert "stablehlo.while" in text
    assert f"tensor<{COUNT}x{STEPS}x" not in text


def test_shared_cotangents_are_summed_inside_the_solve():
    gradient = jax.grad(total)
    # Neither rates nor their cotangents have a copy for each trajectory.
    assert f"tensor<{COUNT}x{RATES.size}xf64>" not in program(gradient, RATES)
    batch = jax.grad(lambda p: jnp.sum(jo.solve_batch(field, STARTS, TS, p, **OPTIONS).ys ** 2))
    np.testing.assert_array_equal(jax.jit(gradient)(RATES), jax.jit(batch)(RATES))


def test_gradients_of_each_trajectory():
    """The forward run is recorded once: two loops of queues, one of them backwards."""
    gradients = jax.vmap(jax.grad(loss, (0, 1)), (0, None))
    expected = one_by_one(lambda y0: jax.grad(loss, (0, 1))(y0, RATES), STARTS)
    assert_same(jax.jit(gradients)(STARTS, RATES), expected)
    text = program(gradients, STARTS, RATES)
    assert f"tensor<{COUNT}x{STEPS}x" not in text
    staged = program(jax.vmap(jax.jit(jax.grad(loss, (0, 1))), (0, None)), STARTS, RATES)
    assert text.count("stablehlo.while") < staged.count("stablehlo.while")


@slow
def test_gradients_that_were_staged_before_vmap():
    gradients = jax.vmap(jax.jit(jax.grad(loss, (0, 1))), (0, None))
    expected = one_by_one(lambda y0: jax.grad(loss, (0, 1))(y0, RATES), STARTS)
    assert_same(gradients(STARTS, RATES), expected)


@slow
@pytest.mark.parametrize("derivative", [jax.jacrev, jax.hessian])
def test_further_derivatives_of_each_trajectory(derivative):
    def function(y0):
        return states(y0, RATES)[-1] if derivative is jax.jacrev else loss(y0, RATES)

    expected = one_by_one(derivative(function), STARTS)
    assert_same(jax.jit(jax.vmap(derivative(function)))(STARTS), expected)


@slow
def test_hessian_of_a_sum_over_trajectories():
    expected = jnp.sum(
        one_by_one(lambda y0: jax.hessian(lambda p: loss(y0, p))(RATES), STARTS), axis=0
    )
    assert_same(jax.jit(jax.hessian(total))(RATES), expected)


@slow
def test_nested_vmaps_are_one_batch():
    rates = RATES * jnp.array([1.0, 1.1])[:, None]
    over_both = jax.vmap(jax.vmap(states, (0, None)), (None, 0))
    expected = jnp.stack([jo.solve_batch(field, STARTS, TS, p, **OPTIONS).ys for p in rates])
    assert_same(jax.jit(over_both)(STARTS, rates), expected)
    gradients = jax.jit(jax.vmap(jax.vmap(jax.grad(loss, (0, 1)), (0, None)), (None, 0)))
    one = jax.jit(jax.grad(loss, (0, 1)))
    rows = [[one(y0, p) for y0 in STARTS] for p in rates]
    rows = [jax.tree.map(lambda *x: jnp.stack(x), *row) for row in rows]
    assert_same(gradients(STARTS, rates), jax.tree.map(lambda *x: jnp.stack(x), *rows))
    # What is shared inside is summed inside, for each of the outer axis.
    sums = jax.jit(jax.vmap(jax.grad(total)))(rates)
    assert_same(sums, jnp.stack([jax.jit(jax.grad(total))(p) for p in rates]))


@slow
def test_a_scan_of_solves():
    def end(y0, p):
        def stretch(y, _):
            y1 = jo.solve(field, y, (0.0, 1.0), p, throw=False, **OPTIONS).y1
            return y1, y1

        return jnp.sum(jax.lax.scan(stretch, y0, None, length=3)[1] ** 2)

    expected = one_by_one(lambda y0: jax.value_and_grad(end, (0, 1))(y0, RATES), STARTS)
    found = jax.jit(jax.vmap(jax.value_and_grad(end, (0, 1)), (0, None)))(STARTS, RATES)
    assert_same(found, expected)

    def all_ends(p):
        return jnp.sum(jax.vmap(end, (0, None))(STARTS, p))

    assert_same(jax.jit(jax.grad(all_ends))(RATES), jnp.sum(expected[1][1], axis=0))
    assert f"tensor<{COUNT}x{STEPS}x" not in program(jax.grad(all_ends), RATES)


@slow
@pytest.mark.parametrize("where", ["state", "predicate"])
def test_a_solve_in_a_branch_whose_predicate_is_mapped(where):
    """Then JAX runs both branches, and selects between their residuals."""

    def branch(y0, k):
        y = y0 if where == "state" else STARTS[0]
        return jax.lax.cond(k > 1.1, lambda: loss(y, k * RATES), lambda: jnp.sum(2 * y) * k)

    gradient = jax.grad(branch, (0, 1))
    scales = jnp.array([1.0, 1.2, 1.3])
    expected = one_by_one(gradient, STARTS, scales)
    assert_same(jax.jit(jax.vmap(gradient))(STARTS, scales), expected)


@slow
def test_inside_a_custom_derivative_and_a_checkpoint():
    @jax.custom_vjp
    def wrapped(y0):
        return loss(y0, RATES)

    def pull_back(pull, cotangent):
        return pull(cotangent)

    wrapped.defvjp(lambda y0: jax.vjp(lambda y0: loss(y0, RATES), y0), pull_back)
    expected = one_by_one(lambda y0: jax.grad(loss)(y0, RATES), STARTS)
    assert_same(jax.jit(jax.vmap(jax.grad(wrapped)))(STARTS), expected)
    remembered = jax.checkpoint(lambda y0: loss(y0, RATES))
    assert_same(jax.jit(jax.vmap(jax.grad(remembered)))(STARTS), expected)


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("adjoint", marks=slow),
        pytest.param(jo.Continuous("backsolve"), marks=slow),
        pytest.param(jo.Continuous("interpolate"), marks=slow),
        pytest.param("reversible", marks=slow),
        pytest.param(jo.Discrete(2), marks=slow),
    ],
)
def test_every_sensitivity(way):
    options = {"sensitivity": way, "rtol": 1e-7, "atol": 1e-9, "max_steps": 397}
    expected = one_by_one(lambda y0: jax.grad(loss, (0, 1))(y0, RATES, **options), STARTS)
    found = jax.vmap(lambda y0: jax.grad(loss, (0, 1))(y0, RATES, **options))
    assert_same(jax.jit(found)(STARTS), expected, 1e-6)
    gradient = jax.jit(jax.grad(lambda p: total(p, **options)))(RATES)
    assert_same(gradient, jnp.sum(expected[1], axis=0), 1e-6)
    assert f"tensor<{COUNT}x397x" not in program(found, STARTS)


def test_stages_in_memory_stay_in_a_vmapped_loop():
    way = jo.Discrete("stages")
    found = jax.jit(jax.vmap(lambda y0: jax.grad(loss)(y0, RATES, sensitivity=way)))(STARTS)
    assert_same(found, one_by_one(lambda y0: jax.grad(loss)(y0, RATES), STARTS))


@slow
def test_forward_mode():
    def function(y0, p):
        return states(y0, p, sensitivity="forward")

    tangents = jax.jacfwd(function, (0, 1))
    expected = one_by_one(lambda y0: tangents(y0, RATES), STARTS)
    assert_same(jax.jit(jax.vmap(tangents, (0, None)))(STARTS, RATES), expected)
    of_all = jax.jacfwd(lambda p: jax.vmap(function, (0, None))(STARTS, p))
    assert_same(jax.jit(of_all)(RATES), expected[1])
    twice = jax.jacfwd(jax.jacfwd(function))
    expected = one_by_one(lambda y0: twice(y0, RATES), STARTS)
    assert_same(jax.jit(jax.vmap(twice, (0, None)))(STARTS, RATES), expected)


def test_wrong_directions_are_refused():
    with pytest.raises(DifferentiationError, match="differentiated backwards"):
        jax.jit(jax.vmap(jax.jacfwd(lambda y0: states(y0, RATES))))(STARTS)
    with pytest.raises(DifferentiationError, match=r"jax\.jacfwd"):
        jax.vmap(jax.grad(lambda y0: loss(y0, RATES, sensitivity="forward")))(STARTS)


@slow
def test_what_a_solve_does_not_differentiate_may_stand_in_a_gradient():
    """A metric by forward mode, or a gradient that is stopped, inside of a loss."""

    def with_metric(y0):
        metric = jax.lax.stop_gradient(loss(y0, RATES, sensitivity="forward"))
        slope = jax.lax.stop_gradient(jnp.sum(jax.grad(loss)(y0, RATES)))
        return jnp.sum(y0**2) * metric * slope

    y0 = STARTS[0]
    factor = loss(y0, RATES) * jnp.sum(jax.grad(loss)(y0, RATES))
    assert_close(jax.grad(with_metric)(y0), 2 * y0 * factor, 1e-9)


def test_failures_are_those_of_each_trajectory():
    def end(k):
        sol = jo.solve(lambda t, y, k: k * y * y, jnp.ones(1), TS, k, throw=False, **OPTIONS)
        return sol.ys, sol.status, sol.stats.num_steps

    rates = jnp.array([0.5, 2.0, -1.0])
    found = jax.jit(jax.vmap(end))(rates)
    expected = one_by_one(end, rates)
    np.testing.assert_array_equal(found[1:], expected[1:])
    # The factors of step sizes are float32: their rounding enters the error of a step.
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    assert list(found[1] == jo.Status.SUCCESS) == [True, False, True]


def test_arrays_of_numpy_are_mapped_under_jit():
    rates = np.array([0.5, 2.0])

    @jax.jit
    def ends(y0):
        return jax.vmap(lambda k: jo.solve(lambda t, y, k: -k * y, y0, (0.0, 1.0), k).y1)(rates)

    np.testing.assert_allclose(ends(1.0), np.exp(-rates), rtol=1e-3)


def test_closures_tolerances_and_times_that_are_mapped():
    def end(k, rtol, scale):
        def closing(t, y, args):
            return -k * y

        sol = jo.solve(closing, jnp.ones(2), TS * scale, rtol=rtol, **OPTIONS)
        return sol.ys, sol.stats.num_steps

    inputs = jnp.array([1.0, 4.0]), jnp.array([1e-3, 1e-6]), jnp.array([1.0, 2.0])
    found = jax.jit(jax.vmap(end))(*inputs)
    assert_same(found, one_by_one(end, *inputs))
    assert found[1][1] > found[1][0]


@slow
def test_events_jumps_and_stiff_solvers():
    def bounce(v, restitution):
        ground = jo.Event(
            lambda t, y, args: y[0],
            direction="down",
            apply=lambda t, y, e: jnp.array([0.0, -e * y[1]]),
        )

        def fall(t, y, e):
            return jnp.array([0.0, -9.81]) + jnp.array([1.0, 0.0]) * y[1]

        start = jnp.stack([jnp.ones_like(v), v])
        sol = jo.solve(fall, start, (0.0, 1.5), restitution, events=ground, solver="bosh3")
        assert sol.events is not None
        return sol.y1, sol.events.ts[:2], sol.events.count

    inputs = jnp.array([0.0, 1.0]), jnp.array([0.9, 0.5])
    assert_same(jax.jit(jax.vmap(bounce))(*inputs), one_by_one(bounce, *inputs), 1e-8)

    def slope(v, e):
        return jax.grad(lambda v, e: jnp.sum(bounce(v, e)[0]), (0, 1))(v, e)

    assert_same(jax.jit(jax.vmap(slope))(*inputs), one_by_one(slope, *inputs), 1e-8)

    def stiff(k, dose):
        times = jnp.stack([0.3 * dose, 0.6 * dose])
        return jo.solve(
            lambda t, y, k: -1000 * k * (y - jnp.cos(t)), jnp.zeros(2), (0.0, 1.0), k,
            solver="rodas5p", jumps=jo.Jumps(times, lambda t, y, k: y + k),
        ).y1  # fmt: skip

    both = jax.vmap(jax.value_and_grad(lambda k, d: jnp.sum(stiff(k, d))))
    inputs = jnp.array([1.0, 2.0]), jnp.array([1.0, 1.1])
    expected = one_by_one(jax.value_and_grad(lambda k, d: jnp.sum(stiff(k, d))), *inputs)
    assert_same(jax.jit(both)(*inputs), expected, 1e-7)


def test_what_cannot_go_into_lanes_is_a_vmapped_loop():
    """Step sizes of each trajectory, and fields with effects."""

    def end(y0, dt):
        sol = jo.solve(field, y0, TS, RATES, solver="rk4", controller=jo.Fixed(dt), max_steps=STEPS)
        return sol.y1

    sizes = jnp.array([0.1, 0.05, 0.02])
    assert_same(jax.jit(jax.vmap(end))(STARTS, sizes), one_by_one(end, STARTS, sizes))
    seen = []

    def noisy(t, y, args):
        jax.debug.callback(seen.append, t)
        return -y

    jax.vmap(lambda y0: jo.solve(noisy, y0, TS, **OPTIONS).y1)(STARTS)
    jax.effects_barrier()
    assert seen


def test_without_vmap_the_program_is_that_of_the_rule_alone(monkeypatch):
    def lowered():
        return [program(function, STARTS[0], RATES) for function in (loss, jax.grad(loss))]

    found = lowered()
    monkeypatch.setattr(lanes_solve, "_may_be_an_operation", lambda *_: False)
    # What XLA drops as dead code differs.
    for text, alone in zip(found, lowered(), strict=True):
        assert text.count("stablehlo.while") == alone.count("stablehlo.while")
