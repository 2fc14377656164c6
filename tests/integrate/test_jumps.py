"""Times at which the field or the state jumps: steps land on them, and gradients pass through."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import expm

import jaxode as jo
from tests.support.differences import assert_close, central
from tests.support.sweeps import few

STARTS = jnp.array([1.0, 2.5, 4.0])
POINT = {"starts": STARTS, "rate": jnp.array(3.0), "k": jnp.array(1.3)}
LENGTH = 0.5
END = 6.0


def infused(t, y, p):
    """Gut and blood, while infusions run."""
    on = jnp.any((t >= p["starts"]) & (t < p["starts"] + LENGTH))
    return jnp.stack([jnp.where(on, p["rate"], 0.0) - p["k"] * y[0], p["k"] * y[0] - 0.3 * y[1]])


def edges(p):
    return jnp.concatenate([p["starts"], p["starts"] + LENGTH])


def infusions(p, ts=(0.0, END), **options: Any):
    options = {"rtol": 1e-10, "atol": 1e-12, "jumps": edges(p), **options}
    return jo.solve(infused, jnp.zeros(2), ts, p, **options)


def flow(p, time, y, rate):
    """`y` after some time at a constant rate: the exponential of the linear system."""
    matrix = jnp.array([[-1.0, 0, 0], [1.0, 0, 0], [0, 0, 0]]) * p["k"]
    matrix = matrix + jnp.array([[0, 0, 1.0], [0, 0, 0], [0, 0, 0]]) * rate
    matrix = matrix - jnp.diag(jnp.array([0, 0.3, 0]))
    return (expm(matrix * time) @ jnp.append(y, 1.0))[:2]


@jax.jit
def piecewise(p):
    """The end of the infusions, piece by piece."""
    y, t = jnp.zeros(2), 0.0
    for start in p["starts"]:
        y = flow(p, start - t, y, 0.0)
        y, t = flow(p, LENGTH, y, p["rate"]), start + LENGTH
    return flow(p, END - t, y, 0.0)


@pytest.mark.parametrize(
    "solver", few(["tsit5", "dopri8", "rodas5p", "kvaerno5", "auto"], "rodas5p")
)
def test_every_piece_is_solved_by_itself(solver):
    sol = infusions(POINT, solver=solver)
    np.testing.assert_allclose(sol.y1, piecewise(POINT), rtol=0, atol=1e-8)


@pytest.mark.parametrize("solver", few(["bdf", "adams"], "bdf"))
def test_a_history_begins_afresh(solver):
    sol = infusions(POINT, solver=solver, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(sol.y1, piecewise(POINT), rtol=0, atol=1e-6)


def test_a_step_sees_one_side_of_a_jump_alone():
    """A field that is constant between its jumps is integrated exactly, in two steps a piece."""
    times = jnp.array([0.3, 1.0, 1.7])
    values = jnp.array([1.0, -2.0, 0.5, 4.0])

    def field(t, y, p):
        return values[jnp.searchsorted(times, t, side="right")] + 0 * y

    expected = np.sum(np.diff([0.0, 0.3, 1.0, 1.7, 2.0]) * values)
    for solver in ("tsit5", "dopri8", "rodas5p"):
        sol = jo.solve(field, 0.0, (0.0, 2.0), solver=solver, jumps=times, dt=10.0)
        np.testing.assert_allclose(sol.y1, expected, rtol=1e-12)
        assert sol.stats.num_steps == 4
        back = jo.solve(field, sol.y1, (2.0, 0.0), solver=solver, jumps=times[::-1], dt=10.0)
        np.testing.assert_allclose(back.y1, 0.0, atol=1e-12)
        assert back.stats.num_steps == 4


@pytest.mark.parametrize(
    "sensitivity", few(["discrete", "thinned", "stages", "forward"], "discrete", "forward")
)
def test_derivatives_by_the_times_of_jumps_are_those_of_the_pieces(sensitivity):
    modes = {"thinned": jo.Discrete(memory=4), "stages": jo.Discrete(memory="stages")}
    options = {"sensitivity": modes.get(sensitivity, sensitivity), "max_steps": 512}
    jacobian = jax.jacfwd if sensitivity == "forward" else jax.jacrev
    got = jax.jit(jacobian(lambda p: infusions(p, **options).y1))(POINT)
    assert_close(got, jax.jit(jax.jacfwd(piecewise))(POINT), 1e-8)


@pytest.mark.parametrize("save", few(["ts", "steps", "dense"], "ts"))
def test_gradients_of_saved_values_and_of_times(save):
    def loss(point):
        p, ts = point
        options = {"max_steps": 512, "save": save}
        sol = infusions(p, ts, **options)
        if save == "steps":
            return jnp.sum(sol.y1**2) + ts[-1] * sol.y1[0]
        return jnp.sum(jnp.sin(sol.ys)) + jnp.sum(sol.y1**2)

    point = POINT, jnp.array([0.2, 1.1, 2.6, 2.9, 5.5])
    assert_close(jax.jit(jax.grad(loss))(point), central(loss, point, 1e-4), 1e-7)


@pytest.mark.slow
def test_hessians_of_both_modes_agree():
    def loss(p, **options):
        return jnp.sum(infusions(p, **options).y1 ** 2)

    exact = jax.jit(jax.hessian(lambda p: jnp.sum(piecewise(p) ** 2)))(POINT)
    assert_close(jax.jit(jax.hessian(loss))(POINT), exact, 1e-6)
    forward = jax.jacfwd(jax.jacfwd(lambda p: loss(p, sensitivity="forward")))
    assert_close(jax.jit(forward)(POINT), exact, 1e-6)


def test_a_dose_moves_the_state():
    """Into the gut at each time; half the way between two is as in closed form."""
    dose = jo.Jumps(STARTS, lambda t, y, p: y.at[0].add(p["rate"]))

    def end(p, **options):
        jumps = jo.Jumps(p["starts"], dose.apply)
        field = lambda t, y, p: jnp.stack([-p["k"] * y[0], p["k"] * y[0] - 0.3 * y[1]])  # noqa: E731
        return jo.solve(field, jnp.zeros(2), (0.0, END), p, jumps=jumps, rtol=1e-10, atol=1e-12).y1

    @jax.jit
    def exact(p):
        y, t = jnp.zeros(2), 0.0
        for start in p["starts"]:
            y, t = flow(p, start - t, y, 0.0).at[0].add(p["rate"]), start
        return flow(p, END - t, y, 0.0)

    np.testing.assert_allclose(end(POINT), exact(POINT), atol=1e-8)
    assert_close(jax.jit(jax.jacrev(end))(POINT), jax.jit(jax.jacfwd(exact))(POINT), 1e-8)


def test_an_event_at_the_time_of_a_dose_does_not_swallow_it():
    event = jo.Event(lambda t, y, a: t - 1.0, apply=lambda t, y, a: 2 * y)
    dose = jo.Jumps(jnp.array([1.0]), lambda t, y, a: y + 10.0)
    sol = jo.solve(lambda t, y, a: 0 * y, 3.0, (0.0, 2.0), events=event, jumps=dose)
    assert sol.y1 == 16.0
    grad = jax.grad(
        lambda y: jo.solve(lambda t, y, a: 0 * y, y, (0.0, 2.0), events=event, jumps=dose).y1
    )
    assert grad(3.0) == 2.0


def test_known_times_and_traced_ones_under_jit():
    times = np.asarray(edges(POINT))
    run = jax.jit(lambda jumps: infusions(POINT, jumps=jumps).y1)
    known = jax.jit(lambda p: infusions(p, jumps=times).y1)
    np.testing.assert_allclose(run(edges(POINT)), piecewise(POINT), atol=1e-8)
    np.testing.assert_allclose(known(POINT), piecewise(POINT), atol=1e-8)
    empty = jo.solve(lambda t, y, a: -y, 1.0, (0.0, 1.0), jumps=[])
    np.testing.assert_allclose(empty.y1, np.exp(-1), rtol=1e-4)


def test_times_outside_of_the_solve_are_passed_over():
    sol = jo.solve(lambda t, y, a: -y, 1.0, (0.0, 1.0), jumps=[-1.0, 0.0, 1.0, 2.0])
    plain = jo.solve(lambda t, y, a: -y, 1.0, (0.0, 1.0))
    assert sol.stats.num_steps == plain.stats.num_steps
    np.testing.assert_allclose(sol.y1, plain.y1, rtol=1e-12)


FORWARDS, BACKWARDS = (0.0, END), tuple(np.linspace(END, 0.0, 5).tolist())


@pytest.mark.parametrize(
    ("own", "ts"),
    few([(own, ts) for own in (False, True) for ts in (FORWARDS, BACKWARDS)]),
    ids=["shared-forwards", "shared-backwards", "own-forwards", "own-backwards"],
)
def test_jumps_in_lanes_equal_those_of_single_solves(own, ts):
    starts = STARTS + 0.1 * jnp.arange(5)[:, None] if own else STARTS
    ks = jnp.linspace(1.0, 2.0, 5)
    axis = 0 if own else None
    options: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10}

    def singles(starts, rate, ks):
        def one(starts, k):
            p = {"starts": starts, "rate": rate, "k": k}
            return infusions(p, ts, **options)

        return jax.vmap(one, (axis, 0))(starts, ks)

    def batch(starts, rate, ks):
        p = {"starts": starts, "rate": rate, "k": ks}
        axes = {"starts": axis, "rate": None, "k": 0}
        jumps = jnp.concatenate([starts, starts + LENGTH], axis=-1)
        return jo.solve_batch(
            infused, jnp.zeros((5, 2)), ts, p, in_axes=(0, None, axes), jumps=jumps, **options
        )

    def loss(solve):
        def value(point):
            sol = solve(*point)
            return jnp.sum(jnp.sin(sol.y1)) + jnp.sum(jnp.cos(sol.ys)), sol

        return jax.jit(jax.value_and_grad(value, has_aux=True))

    point = starts, POINT["rate"], ks
    (_, one), expected = loss(singles)(point)
    (_, many), got = loss(batch)(point)
    np.testing.assert_allclose(many.ys, one.ys, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(many.stats.num_steps, one.stats.num_steps, atol=1)
    np.testing.assert_allclose(many.stats.num_evaluations, one.stats.num_evaluations, atol=7)
    assert_close(got, expected, 1e-7)


@pytest.mark.parametrize(
    ("jumps", "message"),
    [
        ([[1.0]], "jumps must be one-dimensional"),
        ([1.0, np.nan], "jumps must be finite, but entry 1 is nan"),
        (["noon"], "jumps must hold real numbers"),
        ([[1.0], [1.0, 2.0]], "jumps must hold real numbers"),
        (1.0, "jumps must be one-dimensional"),
        ("noon", "jumps must hold real numbers"),
        (jo.Jumps(None), "times of jo.Jumps must be times"),  # pyright: ignore
        ([1j], "jumps must hold real numbers"),
    ],
)
def test_what_is_no_time_is_refused(jumps, message):
    with pytest.raises(jo.TimesError, match=message):
        jo.solve(lambda t, y, a: -y, 1.0, (0.0, 2.0), jumps=jumps)


def test_a_batch_says_which_shapes_of_jumps_it_takes():
    with pytest.raises(jo.TimesError, match=r"of shape \(k,\) or \(3, k\)"):
        jo.solve_batch(lambda t, y, a: -y, jnp.ones(3), (0.0, 2.0), jumps=jnp.ones((2, 4)))


def test_prescribed_steps_and_jumps_do_not_go_together():
    with pytest.raises(jo.OptionError, match=r"jo\.Grid prescribes every step"):
        grid = jo.Grid(jnp.linspace(0.0, 1.0, 5))
        jo.solve(lambda t, y, a: -y, 1.0, (0.0, 1.0), controller=grid, solver="rk4", jumps=[0.3])


def test_a_dose_of_the_wrong_shape_is_refused():
    with pytest.raises(jo.EventError, match=r"apply\(t, y, args\) of jo.Jumps.*has shape"):
        jumps = jo.Jumps([0.5], lambda t, y, a: y[:1])
        jo.solve(lambda t, y, a: -y, jnp.ones(2), (0.0, 1.0), jumps=jumps)


def test_reversible_steps_are_refused_by_name():
    sensitivity = "reversible"
    with pytest.raises(jo.OptionError, match="does not differentiate through events and jumps"):
        jo.solve(lambda t, y, a: -y, 1.0, (0.0, 1.0), jumps=[0.5], sensitivity=sensitivity)
    with pytest.raises(jo.OptionError, match="does not differentiate through events and jumps"):
        jo.solve_batch(
            lambda t, y, a: -y, jnp.ones(2), (0.0, 1.0), jumps=[0.5], sensitivity=sensitivity
        )
