"""Reversible solvers, and the discrete gradient by their steps back: exact, no stored states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.explicit.runge_kutta import ExplicitRungeKutta
from jaxode.solvers.registry import SOLVERS
from tests.support.batch_losses import BatchLoss
from tests.support.batches import in_tile
from tests.support.convergence import exact_rotation, measured_order, rotation
from tests.support.differences import assert_close, central
from tests.support.pendulum import loss_of, point
from tests.support.problems import lotka_volterra
from tests.support.sweeps import few

EXPLICIT = sorted(
    {s: n for n, s in reversed(SOLVERS.items()) if issubclass(s, ExplicitRungeKutta)}.values()
)
REVERSIBLE = sorted({s: n for n, s in reversed(SOLVERS.items()) if s.reversible}.values())
OTHERS = sorted(
    n for n, s in SOLVERS.items() if not s.reversible and not issubclass(s, ExplicitRungeKutta)
)
STEPS = {"controller": jo.Fixed(0.17), "max_steps": 12}


TWO_TIMES = jnp.array([0.0, 1.0])


def reversible(name: str, coupling: float | None = 0.999):
    return jo.Reversible(coupling).prepare_solver(SOLVERS[name]())


def with_rate(name):
    """The reversible version whose coupling `jo.Reversible` chooses by the times."""
    return reversible(name, None)


STORED = ["bosh3", "heun", "tsit5", "dopri8", *REVERSIBLE]


@pytest.mark.parametrize("name", few(STORED, "bosh3", "reversible_heun"))
def test_the_gradient_is_that_of_stored_states(name):
    """Saved values, with gradients by start, arguments and times."""
    undone = loss_of("ts", solver=reversible(name), sensitivity="reversible", **STEPS)
    stored = loss_of("ts", solver=reversible(name), **STEPS)
    got, expected = values_and_gradients(undone, stored)
    assert_close(got, expected, 1e-10)


def values_and_gradients(*losses):
    """Of several losses at `point()`, by one program."""

    @jax.jit
    def run(p):
        return [jax.value_and_grad(loss)(p) for loss in losses]

    return run(point())


def rate_over(span):
    """Three eighths of the digits of float64."""
    return 0.375 * np.log(2.0**52) / span


@pytest.mark.parametrize("name", few(["tsit5", "rk4"], "rk4"))
def test_by_default_the_coupling_is_a_rate_over_the_times(name):
    """The rate is held fixed where times are differentiated."""
    p = point()
    span = float(jnp.abs(p["ts"][-1] - p["ts"][0]))
    base = SOLVERS[name]()
    assert isinstance(base, ExplicitRungeKutta)
    stored = jo.ReversibleRK(base, None, rate_over(span))
    undone = loss_of("ts", solver=with_rate(name), sensitivity="reversible", **STEPS)
    got, expected = values_and_gradients(undone, loss_of("ts", solver=stored, **STEPS))
    assert_close(got, expected, 1e-10)


def test_it_takes_little_more_steps_than_its_base():
    """Where solutions draw near each other; a coupling of 0.999 takes 30 and 160 times as many."""

    def field(t, y, decays):
        return jnp.where(decays, -y, lotka_volterra(t, y, None))

    def steps(sensitivity, decays):
        options = {"rtol": 1e-6, "atol": 1e-8, "sensitivity": sensitivity}
        sol = jo.solve(field, jnp.ones(2), (0.0, 10.0), jnp.array(decays), **options)
        return sol.stats.num_steps

    for decays in (False, True):
        assert steps("reversible", decays) < 1.5 * steps("discrete", decays)


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(["ends", "function", "steps", "dense"], "dense"))
def test_the_gradient_equals_differences_for_every_save(mode):
    p = point(ts=(1.4, 0.9, 0.5, 0.2)) if mode == "function" else point()
    if mode == "ends":
        p["ts"] = p["ts"][jnp.array([0, -1])]
    loss = loss_of(mode, solver=reversible("bosh3", 0.9), sensitivity="reversible", **STEPS)
    assert_close(jax.jit(jax.grad(loss))(p), central(loss, p), 1e-9)


@pytest.mark.parametrize("name", few(["tsit5", "reversible_heun"], "reversible_heun"))
def test_adaptive_steps_agree_with_stored_states(name):
    options = {"solver": reversible(name), "rtol": 1e-6, "atol": 1e-8, "max_steps": 2048}
    losses = loss_of("ts", sensitivity="reversible", **options), loss_of("ts", **options)
    (_, undone), (_, stored) = values_and_gradients(*losses)
    assert_close(undone, stored, 1e-9)


@pytest.mark.parametrize("name", few(["tsit5", "reversible_heun"], "reversible_heun"))
def test_steps_to_given_times_agree_with_differences(name):
    p = {k: v for k, v in point().items() if k != "ts"}
    grid = jo.Grid(jnp.array([0.2, 0.3, 0.55, 0.8, 1.4]))

    def loss(p):
        options = {"solver": with_rate(name), "controller": grid, "sensitivity": "reversible"}
        return loss_of("ts", **options)({**p, "ts": point()["ts"]})

    assert_close(jax.jit(jax.grad(loss))(p), central(loss, p), 1e-9)


class UndoneBatchLoss(BatchLoss):
    @property
    def options(self):
        return {**super().options, "sensitivity": "reversible"}


CASES = {
    "ends": UndoneBatchLoss("ends", with_rate("midpoint"), "ends"),
    "ts": UndoneBatchLoss("ts", with_rate("rk4"), "own"),
    "function": UndoneBatchLoss("function", with_rate("euler"), "odd"),
    "steps": UndoneBatchLoss("steps", "reversible_heun", "own"),
    "dense": UndoneBatchLoss("dense", "asynchronous_leapfrog", "shared"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wide"),
    few([(name, name != "ts") for name in CASES], ("ends", True)),
)
def test_gradients_in_lanes_are_those_of_single_solves(name, wide):
    case = CASES[name]
    run = in_tile(wide, jax.grad(case.batch), case.point)
    assert_close(run(case.point), jax.jit(jax.grad(case.loop))(case.point), 1e-10)


def test_a_failed_trajectory_that_is_not_in_the_loss_has_a_gradient_of_zero():
    def loss(y0):
        sols = jo.solve_batch(
            lambda t, y, args: y**2, y0, (0.0, 1.0), sensitivity="reversible", max_steps=200
        )
        return jnp.sum(jnp.where(sols.status == 0, sols.y1[:, 0], 0.0))

    found = jax.grad(loss)(jnp.array([[0.3], [2.0], [0.5]]))[:, 0]
    assert found[1] == 0
    np.testing.assert_allclose(found[jnp.array([0, 2])], [0.7**-2, 0.5**-2], rtol=1e-3)


OF_KNOWN_ORDER = [n for n in EXPLICIT if n not in ("euler", "vern7", "tsit5", "dopri5")]


@pytest.mark.parametrize("name", few(OF_KNOWN_ORDER, "bosh3", "rk4"))
def test_the_reversible_version_has_the_order_of_its_base(name):
    """Everywhere on the way, inside steps too; at the end it may be one more."""
    order = SOLVERS[name]().order
    # The high orders reach rounding before their terms of higher order are gone.
    numbers = {1: (1024, 1448, 2048), 8: (16, 19, 23, 27, 32)}.get(order, (256, 362, 512))
    inside = jnp.linspace(0.0, 2.0, 1009)

    @jax.jit
    def error(dt):
        options = {"controller": jo.Fixed(dt), "max_steps": 5000}
        sol = jo.solve(rotation, exact_rotation(0.0), inside, solver=reversible(name), **options)
        return jnp.max(jnp.abs(sol.ys - exact_rotation(inside)))

    found = np.array([error(2.0 / n) for n in numbers])
    assert abs(measured_order(numbers, found) - order) < 0.12


TO_AND_FRO = [*(n for n in EXPLICIT if n != "euler"), "reversible_heun"]


@pytest.mark.parametrize("name", few(TO_AND_FRO, "bosh3", "tsit5", "reversible_heun"))
def test_twelve_hundred_steps_back_recover_the_start(name):
    """Lotka-Volterra, by the solver alone."""
    solver, h = reversible(name), jnp.array(0.002)
    y0 = jnp.array([1.0, 1.0])

    def field(t, y):
        return lotka_volterra(t, y, None)

    @jax.jit
    def there_and_back(y0):
        def step(n, state):
            stepped = solver.step(field, n * h, state[0], h, state[1], None)
            return stepped.y1, stepped.solver_state

        def back(n, state):
            return solver.step_back(field, (1199 - n) * h, state[0], h, state[1])

        start = y0, solver.init(field, jnp.array(0.0), y0)
        return jax.lax.fori_loop(0, 1200, back, jax.lax.fori_loop(0, 1200, step, start))[0]

    np.testing.assert_allclose(there_and_back(y0), y0, rtol=1e-8)


def wave(t, y, rate):
    return rate * (jnp.roll(y, 1) - jnp.roll(y, -1))


def temporary(steps, adaptive):
    """Bytes that XLA sets aside for the gradient of a state of 20,000 numbers."""

    def loss(rate, y0):
        control = {} if adaptive else {"controller": jo.Fixed(1.0 / steps)}
        solver = with_rate("tsit5")
        options = {"sensitivity": "reversible", "solver": solver, "max_steps": steps, **control}
        return jnp.sum(jo.solve(wave, y0, (0.0, 1.0), rate, **options).y1 ** 2)

    inputs = jnp.ones(()), jnp.linspace(0.0, 1.0, 20_000)
    analysis = jax.jit(jax.grad(loss)).lower(*inputs).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", few([False, True], True))
def test_memory_does_not_grow_with_the_steps(adaptive):
    """But for the two numbers of each adaptive step."""
    few, many = temporary(100, adaptive), temporary(10_000, adaptive)
    assert many - adaptive * 16 * 9_900 <= 1.05 * few


def decay(t, y, k):
    return -k * y


@functools.cache
def decay_program(**options):
    def end(y0, span):
        options_ = {"sensitivity": "reversible", "max_steps": 40_000, **options}
        return jo.solve(decay, y0, (0.0, span), 1.0, **options_).y1

    return jax.jit(jax.value_and_grad(end))


def of_decay(span, **options):
    """The end of a decay over `span`, and its derivative by the start."""
    return decay_program(**options)(1.0, span)


def test_the_gap_of_the_copies_bounds_adaptive_steps():
    """Fixed steps of solutions that approach each other are lost; the error estimate sees it."""
    lost, _ = of_decay(20.0, solver=reversible("tsit5"), controller=jo.Fixed(0.5))
    assert abs(lost) > 1.0
    # Digits for 13 e-foldings: twelve are, twenty are not to be had, and that is said.
    assert abs(of_decay(12.0)[0] - np.exp(-12.0)) < 1e-6
    assert np.all(np.isnan(of_decay(20.0)))


@pytest.mark.parametrize("coupling", few([0.9, 0.99], 0.99))
def test_a_coupling_given_keeps_the_copies_together(coupling):
    kept, gradient = of_decay(20.0, sensitivity=jo.Reversible(coupling))
    assert abs(kept) < 1e-4
    assert abs(gradient) < 1e-4


def test_what_cannot_be_undone_is_said_with_the_remedy():
    with pytest.raises(jo.SolveError, match=r'MAX_STEPS.*approach each other.*"discrete"'):
        jo.solve(decay, 1.0, (0.0, 40.0), 1.0, sensitivity="reversible", max_steps=500)
    with pytest.raises(jo.SolveError, match=r"MAX_STEPS(?!.*approach each other)"):
        jo.solve(decay, 1.0, (0.0, 40.0), 1.0, max_steps=5)


def test_a_state_that_is_not_recovered_makes_the_gradient_nan():
    """Steps of Euler's method, damped so that 400 of them forget the other copy."""
    fixed = jo.Fixed(0.005)
    value, gradient = of_decay(2.0, controller=fixed, solver=reversible("rk4", 0.9))
    assert abs(value - np.exp(-2.0)) < 1e-6
    assert np.isnan(gradient)
    near = of_decay(2.0, controller=fixed, solver=reversible("rk4"))
    assert abs(near[1] - np.exp(-2.0)) < 1e-6


def test_damped_leapfrog_has_order_one():
    numbers = np.array([512, 724, 1024])

    @jax.jit
    def error(dt):
        solver = jo.AsynchronousLeapfrog(damping=0.9)
        options = {"controller": jo.Fixed(dt), "max_steps": 2000}
        sol = jo.solve(rotation, exact_rotation(0.0), (0.0, 2.0), solver=solver, **options)
        return jnp.max(jnp.abs(sol.y1 - exact_rotation(2.0)))

    assert abs(measured_order(numbers, np.array([error(2.0 / n) for n in numbers])) - 1) < 0.1
    assert jo.AsynchronousLeapfrog(damping=0.9).order == 1


@pytest.mark.parametrize(
    "name", few(["reversible_heun", "asynchronous_leapfrog"], "asynchronous_leapfrog")
)
def test_the_gradient_in_single_precision(name):
    y0 = jnp.array([1.0, 0.5], jnp.float32)

    def loss(y0, sensitivity):
        ts = jnp.array([0.0, 1.0], jnp.float32)
        sol = jo.solve(lotka_volterra, y0, ts, solver=name, dt=0.01, sensitivity=sensitivity)
        return jnp.sum(sol.y1**2)

    both = jax.jit(lambda y0: [jax.grad(loss)(y0, mode) for mode in ("reversible", "discrete")])
    got, expected = both(y0)
    assert got.dtype == jnp.float32
    assert_close(got, expected, 1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_solvers_that_cannot_be_undone_are_refused_by_name(name):
    with pytest.raises(jo.OptionError, match=rf"{SOLVERS[name].__name__} cannot be undone.*tsit5"):
        jo.solve(decay, 1.0, (0.0, 1.0), 1.0, solver=name, sensitivity="reversible")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jo.ReversibleRK(jo.Rodas5P()), "needs an explicit Runge-Kutta solver"),  # pyright: ignore[reportArgumentType]
        (lambda: jo.ReversibleRK(jo.Tsit5(), 1.2), r"coupling must lie in \(0, 1\]"),
        (lambda: jo.Reversible(0.0).prepare_solver(jo.Tsit5()), r"coupling must lie in \(0, 1\]"),
        (lambda: jo.ReversibleRK(jo.Tsit5(), 0.9, 1.0), "a coupling or a rate"),
        (lambda: jo.ReversibleRK(jo.Tsit5(), None, -1.0), "rate of .* positive number, got -1.0"),
        (
            lambda: jo.solve(decay, 1.0, (0.0, 1.0), 1.0, solver=jo.ReversibleRK(jo.Tsit5(), None)),
            r"needs a rate=; jo.Reversible\(\) chooses one",
        ),
        (lambda: jo.AsynchronousLeapfrog(0.5), r"damping must lie in \(1/2, 1\]"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(jo.OptionError, match=message):
        make()


OF_A_SIZE = [{"dt": 0.01}, {"controller": jo.Fixed(0.01)}, {"controller": jo.Grid(TWO_TIMES)}]


@pytest.mark.parametrize("options", OF_A_SIZE)
@pytest.mark.parametrize("solve", [jo.solve, jo.solve_batch])
def test_steps_of_a_given_size_are_never_those_of_another_method(solve, options):
    """`rk4` differs from its reversible version by 2e5 on this field."""

    def pulled(t, y, args):
        return -20.0 * (y - jnp.cos(t))

    def run(solver):
        solver = solver if options.keys() == {"dt"} else jo.Tsit5()
        y0 = jnp.zeros(()) if solve is jo.solve else jnp.zeros(3)
        return solve(pulled, y0, (0.0, 1.0), solver=solver, sensitivity="reversible", **options)

    with pytest.raises(
        jo.OptionError, match=r'(RK4|Tsit5) of a given size.*"reversible_heun".*dis'
    ):
        run(jo.RK4())


@pytest.mark.parametrize("name", ["reversible_heun", "leapfrog", "rk4"])
def test_steps_of_a_given_size_have_the_same_values_in_every_mode(name):
    solver = jo.ReversibleRK(jo.RK4()) if name == "rk4" else SOLVERS[name]()

    def end(p, mode):
        options = {"solver": solver, "sensitivity": mode, "controller": jo.Fixed(0.1)}
        return jnp.sum(jo.solve(rotation, exact_rotation(0.0), (0.0, p), **options).y1)

    def beside_its_derivative(mode):
        derivative = jax.jacfwd if mode == "forward" else jax.grad
        return jax.jit(derivative(lambda p: (end(p, mode),) * 2, has_aux=True))(1.5)[1]

    alone = jax.jit(lambda p: end(p, "discrete"))(1.5)
    for mode in ("discrete", "adjoint", "reversible", "forward"):
        assert beside_its_derivative(mode) == alone
