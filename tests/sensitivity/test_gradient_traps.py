"""Where derivatives of solves are known to become NaN, or to be lost: in every mode.

A mode is a line in `MODES`: its sensitivity, and the direction in which it is differentiated.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close

MODES = {
    "discrete": (jo.Discrete(), jax.jacrev),
    "continuous": (jo.Continuous(), jax.jacrev),
    "forward": (jo.Forward(), jax.jacfwd),
    "reversible": (jo.Reversible(), jax.jacrev),
}
TS = jnp.array([0.0, 0.4, 1.0])
Y0 = jnp.array([0.7, -0.3])


def fast_for(*fast):
    """All modes, of which those not named in `fast` are slow."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "mode", [pytest.param(mode, marks=() if mode in fast else slow) for mode in MODES]
    )


def fast_for_pairs(*fast):
    """All modes, alone and in a batch, of which the pairs not in `fast` are slow."""
    slow, pairs = pytest.mark.slow, [(mode, batch) for mode in MODES for batch in (False, True)]
    return pytest.mark.parametrize(
        ("mode", "batch"), [pytest.param(*p, marks=() if p in fast else slow) for p in pairs]
    )


def values(mode, batch, f, y0, ts, args=None, **options):
    """The states at `ts` of a solve, or of the second of three that are alike."""
    options = {"sensitivity": MODES[mode][0], **options}
    if not batch:
        return jo.solve(f, y0, ts, args, throw=False, **options).ys
    many = jax.tree.map(lambda x: jnp.stack([x] * 3), y0)
    return jax.tree.map(lambda x: x[1], jo.solve_batch(f, many, ts, args, lanes=2, **options).ys)


def derivative(mode, function, **options):
    return jax.jit(MODES[mode][1](function, **options))


@fast_for_pairs(
    ("discrete", True), ("continuous", False), ("forward", False), ("reversible", False)
)
def test_nothing_moves(mode, batch):
    """A state of zero, a field of zero, no time to cross, times that repeat."""

    def total(y0, rate, ts):
        return jnp.sum(values(mode, batch, lambda t, y, k: k * y, y0, ts, rate))

    run, none = derivative(mode, total, argnums=(0, 1, 2)), jnp.zeros(2)
    for y0, rate, ts in [
        (none, 0.3, TS),
        (jnp.ones(2), 0.0, TS),
        (none, 0.0, TS),
        (jnp.ones(2), 0.3, jnp.array([0.0, 0.0, 1.0])),
        (jnp.ones(2), 0.3, jnp.array([0.0, 1.0, 1.0])),
        (jnp.ones(2), 0.3, jnp.array([1.0, 1.0, 1.0])),
    ]:
        by_y0, by_rate, by_ts = run(y0, rate, ts)
        since = ts - ts[0]
        growth = jnp.exp(rate * since)
        # Every method is exact for a field of zero.
        rtol = 1e-3 if rate else 1e-7
        np.testing.assert_allclose(by_y0, jnp.sum(growth), rtol=rtol)
        np.testing.assert_allclose(by_rate, jnp.sum(y0) * jnp.sum(since * growth), rtol=rtol)
        slopes = jnp.sum(y0) * rate * growth
        slopes = slopes.at[0].add(-jnp.sum(slopes))
        np.testing.assert_allclose(by_ts, slopes, rtol=1e-2, atol=1e-12)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("batch", ["solve_batch", "vmap"])
def test_trajectories_with_times_of_their_own_move_with_them(batch, derivative):
    """Also one that has no time to cross."""
    ts, f = jnp.array([[0.0, 1.0], [2.0, 0.5], [1.0, 1.0]]), lambda t, y, k: -k * y

    def total(ts):
        sensitivity = "forward" if derivative is jax.jacfwd else "discrete"
        options = {"rtol": 1e-8, "atol": 1e-10, "sensitivity": sensitivity}
        if batch == "vmap":
            return jnp.sum(jax.vmap(lambda ts: jo.solve(f, Y0, ts, 1.3, **options).y1)(ts))
        y0 = jnp.broadcast_to(Y0, (3, *Y0.shape))
        return jnp.sum(jo.solve_batch(f, y0, ts, 1.3, in_axes=(0, 0, None), **options).y1)

    slope = -1.3 * jnp.sum(Y0) * jnp.exp(-1.3 * (ts[:, 1] - ts[:, 0]))
    expected = jnp.stack([-slope, slope], axis=1)
    np.testing.assert_allclose(jax.jit(derivative(total))(ts), expected, rtol=1e-6)


@pytest.mark.parametrize("save", ["ends", "function", "dense"])
def test_what_a_solve_over_no_time_saves_moves_with_its_times(save):
    """Each value by its own time with its rate, by the first time against it."""

    def f(t, y, k):
        return k * y * jnp.cos(t)

    def read(t, y, k):
        return {"scaled": t**2 * y, "number": jnp.int32(3)}

    def saved(ts):
        option = {"ends": "ts", "function": read}.get(save, save)
        sol = jo.solve(f, Y0, ts, 1.5, save=option, max_steps=8)
        return sol.ys["scaled"] if save == "function" else sol.ys, sol.y1

    t = 0.7
    ts = jnp.full(2 if save == "ends" else 3, t)
    moves = jnp.eye(ts.size) - jnp.eye(ts.size)[0]  # of the time since the first one, by each
    slope = f(t, Y0, 1.5)
    by_ys, by_y1 = jax.jit(jax.jacrev(saved))(ts)
    np.testing.assert_allclose(by_y1, jnp.outer(slope, moves[-1]), rtol=1e-14)
    rate = t**2 * slope if save == "function" else slope
    expected = jnp.einsum("i,jk->jik", rate, moves)
    if save == "function":
        expected += 2 * t * jnp.einsum("i,jk->jik", Y0, jnp.eye(3))
    np.testing.assert_allclose(by_ys, expected, rtol=1e-14)


NO_ERROR = [(mode, name) for name in ("tsit5", "dopri8") for mode in MODES]
# Steps of these cannot be undone.
NO_ERROR += [(m, n) for n in ("rosenbrock23", "adams") for m in MODES if m != "reversible"]
FAST_NO_ERROR = {
    ("discrete", "dopri8"), ("discrete", "rosenbrock23"), ("continuous", "tsit5"),
    ("forward", "tsit5"), ("reversible", "tsit5"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "solver"),
    [pytest.param(*p, marks=() if p in FAST_NO_ERROR else pytest.mark.slow) for p in NO_ERROR],
)
def test_error_estimates_and_norms_of_zero(mode, solver):
    """A constant field has no error, and this norm no derivative there."""
    controller = jo.PID(norm=lambda x: jnp.sqrt(jnp.sum(x**2)))

    def total(y0, slope):
        options = {"solver": solver, "controller": controller}
        return jnp.sum(values(mode, False, lambda t, y, k: k + 0 * y, y0, TS, slope, **options))

    run = derivative(mode, total, argnums=(0, 1))
    for slope in (jnp.zeros(2), jnp.ones(2)):
        by_y0, by_slope = run(Y0, slope)
        np.testing.assert_allclose(by_y0, [3.0, 3.0], rtol=1e-9 if mode == "reversible" else 0)
        np.testing.assert_allclose(by_slope, jnp.sum(TS), rtol=1e-9)


@fast_for_pairs(("discrete", False), ("continuous", True))
def test_branches_that_are_not_taken(mode, batch):
    """The root at zero is masked with a safe input, as JAX asks for."""

    def field(t, y, k):
        safe = jnp.where(y > 0, y, 1.0)
        return k * jnp.where(y > 0, -jnp.sqrt(safe), 1.0)

    def total(y0, k):
        return jnp.sum(values(mode, batch, field, y0, TS, k))

    # The states stay below zero, where the slope is `k`.
    found = derivative(mode, total, argnums=(0, 1))(jnp.array([-1.0, -3.0]), 0.5)
    np.testing.assert_allclose(found[0], [3.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(found[1], 2 * (0.4 + 1.0), rtol=1e-6)


@fast_for_pairs(("discrete", True), ("continuous", False))
def test_whole_numbers_none_and_unused_parameters(mode, batch):
    def field(t, y, args):
        assert args["nothing"] is None
        chosen = jnp.arange(4)[args["index"]]
        for _ in range(args["count"]):
            y = y * args["rate"]
        return -y * args["power"] * chosen

    def total(args):
        args = {**args, "index": jnp.array(1), "count": 2}
        return jnp.sum(values(mode, batch, field, Y0, TS, args)[-1])

    args = {"rate": jnp.array(0.5), "unused": jnp.ones((2, 3)), "nothing": None, "power": 2.0}
    found = derivative(mode, total)(args)
    assert found["nothing"] is None
    decay = 0.5**2 * 2.0  # the solution is Y0 * exp(-rate^2 * power * t)
    end = jnp.sum(Y0) * jnp.exp(-decay)
    np.testing.assert_allclose(found["rate"], -2 * 0.5 * 2.0 * end, rtol=1e-2)
    np.testing.assert_allclose(found["power"], -(0.5**2) * end, rtol=1e-2)
    np.testing.assert_array_equal(found["unused"], np.zeros((2, 3)))


@fast_for("continuous")
def test_derivatives_of_each_example(mode):
    """One for each of many states and rates, by vmap, are those of a loop."""

    def total(y0, rate):
        def field(t, y, k):
            return jnp.stack([y[1], -k * jnp.sin(y[0])])

        return jnp.sum(values(mode, False, field, y0, TS, rate, solver="bosh3") ** 2)

    run = MODES[mode][1](total, argnums=(0, 1))
    examples = Y0 + 0.2 * jnp.arange(6.0).reshape(3, 2), jnp.array([1.0, 2.0, 3.0])
    loop = jax.jit(lambda rows: jax.lax.map(lambda row: run(*row), rows))(examples)
    assert_close(jax.jit(jax.vmap(run))(*examples), loop, 1e-10)


@fast_for("discrete")
def test_second_derivatives_where_nothing_moves(mode):
    def total(k):
        return jnp.sum(values(mode, False, lambda t, y, k: k[0] * y + k[1], jnp.zeros(2), TS, k))

    hessian = jax.jit(jax.jacfwd(MODES[mode][1](total)))(jnp.zeros(2))
    mixed = jnp.sum(TS**2)  # y = k[1] t + k[0] k[1] t^2 / 2 + ...
    np.testing.assert_allclose(hessian, [[0.0, mixed], [mixed, 0.0]], rtol=1e-6, atol=1e-12)
