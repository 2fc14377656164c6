"""What changes without another compilation: tolerances, times, arguments, weights and data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of
from tests.support.irregular import series

KEY = jax.random.key(0)
Y0 = jnp.array([0.7, -0.3])
TS = jnp.array([0.0, 0.4, 1.0])
TRACES = [0]


def traced(t, y, args):
    TRACES[0] += 1
    return jnp.stack([y[1], -args["k"] * jnp.sin(y[0]) + jnp.cos(t)])


# Each differs from the one before it in one value.
CALLS = [
    {"rtol": 1e-3, "atol": 1e-5, "dt": 0.1, "ts": TS, "k": 1.0},
    {"rtol": 1e-6, "atol": 1e-5, "dt": 0.1, "ts": TS, "k": 1.0},
    {"rtol": 1e-6, "atol": 1e-8, "dt": 0.1, "ts": TS, "k": 1.0},
    {"rtol": 1e-6, "atol": 1e-8, "dt": 0.05, "ts": TS, "k": 1.0},
    {"rtol": 1e-6, "atol": 1e-8, "dt": 0.05, "ts": 2 * TS, "k": 1.0},
    {"rtol": 1e-6, "atol": 1e-8, "dt": 0.05, "ts": -2 * TS, "k": 1.0},
    {"rtol": 1e-6, "atol": 1e-8, "dt": 0.05, "ts": -2 * TS, "k": 3.0},
]


def later_compilations(call, first, *others) -> list[int]:
    """The programs that each call compiles after that with `first`."""
    call(first)
    return [compilations_of(call, other) for other in others]


@pytest.mark.parametrize(
    "solver",
    [
        "tsit5", "rk4", "rodas5p",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("kvaerno5", "bdf", "radau_iia5")),
    ],
)  # fmt: skip
def test_values_change_without_recompiling_outside_jit(solver):
    results = []

    def solve(call):
        options = {name: call[name] for name in ("rtol", "atol", "dt")}
        sol = jo.solve(traced, Y0, call["ts"], {"k": call["k"]}, solver=solver, **options)
        results.append(sol.y1)

    assert later_compilations(solve, *CALLS) == [0] * (len(CALLS) - 1)
    assert len({float(y[0]) for y in results}) > 3


@pytest.mark.parametrize("mode", ["discrete", pytest.param("adjoint", marks=pytest.mark.slow)])
def test_values_change_without_recompiling_under_jit(mode):
    @jax.jit
    def gradient(call):
        options = {name: call[name] for name in ("rtol", "atol", "dt")}

        def loss(k):
            return jnp.sum(
                jo.solve(traced, Y0, call["ts"], {"k": k}, sensitivity=mode, **options).ys
            )

        return jax.grad(loss)(call["k"])

    gradient(CALLS[0])
    before = TRACES[0]
    results = {float(gradient(call)) for call in CALLS}
    assert TRACES[0] == before
    assert len(results) == len(CALLS)


def test_controllers_change_without_recompiling_outside_jit():
    steps = []

    def solve(dt):
        sol = jo.solve(traced, Y0, TS, {"k": 1.0}, controller=jo.Fixed(dt))
        steps.append(int(sol.stats.num_steps))

    assert later_compilations(solve, 0.1, 0.05, jnp.array(0.025)) == [0, 0]
    assert steps == [10, 20, 40]


def test_events_and_jumps_change_without_recompiling_outside_jit():
    """The place of an event, what it does, the times of jumps and their doses."""
    ends = []

    def solve(call):
        place, kick, times, dose = call
        event = jo.Event(lambda t, y, p: y[0] - p["place"], apply=lambda t, y, p: y + p["kick"])
        jumps = jo.Jumps(times, lambda t, y, p: y + p["dose"])
        args = {"k": 1.0, "place": place, "kick": kick, "dose": dose}
        sol = jo.solve(traced, Y0, TS, args, events=event, jumps=jumps, max_events=4)
        ends.append(float(sol.y1[0]))
        return sol

    early, late = jnp.array([0.2, 0.5]), jnp.array([0.3, 0.8])
    calls = (0.6, 0.1, early, 0.1), (0.65, 0.1, early, 0.1), (0.65, 0.2, early, 0.1)
    calls += (0.65, 0.2, late, 0.1), (0.65, 0.2, late, 0.3)
    assert later_compilations(solve, *calls) == [0] * 4
    assert len(set(np.round(ends, 4))) == 5


BATCH: dict[str, Any] = {"y0": jnp.stack([Y0, -Y0, 2 * Y0]), "k": jnp.array([1.0, 2.0, 3.0])}
BATCH |= {"rtol": 1e-4, "atol": 1e-6, "ts": TS, "place": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["tsit5", "rodas5p"])
def test_batches_change_without_recompiling_outside_jit(solver):
    """Solutions with events, and gradients; states, rates, tolerances, times and the event."""
    found = []

    def run(call):
        event = jo.Event(lambda t, y, p: y[0] - p["place"], terminal=True)

        def end(k):
            args, axes = {"k": k, "place": call["place"]}, (0, None, {"k": 0, "place": None})
            options: Any = {"rtol": call["rtol"], "atol": call["atol"], "in_axes": axes}
            options |= {"events": event, "max_events": 2, "solver": solver, "max_steps": 64}
            sol = jo.solve_batch(traced, call["y0"], call["ts"], args, **options)
            return jnp.sum(sol.y1), sol.y1

        gradient, ends = jax.grad(end, has_aux=True)(call["k"])
        found.append((float(ends[2, 0]), float(gradient[2])))

    changes = [{"rtol": 1e-6}, {"atol": 1e-3}, {"ts": 0.7 * TS}, {"k": 2 * BATCH["k"]}]
    changes += [{"y0": 1.5 * BATCH["y0"]}, {"place": 0.4}]
    calls = [BATCH | change for change in changes]
    assert later_compilations(run, BATCH, *calls) == [0] * len(changes)
    assert len(set(found)) == len(calls) + 1


def node(**options):
    network = eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=KEY)
    return jo.NeuralODE(network, max_steps=64, **options)


def cnf():
    return jo.nn.CNF(eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=KEY), 2, max_steps=64)


def cde():
    return jo.nn.NeuralCDE.mlp(2, 2, hidden=3, width=4, key=KEY, max_steps=256)


def latent():
    return jo.nn.LatentODE(2, 2, 3, width=4, depth=1, key=KEY, max_steps=64)


def ode_rnn():
    return jo.nn.ODERNN(2, 3, 2, key=KEY, max_steps=64)


POINTS = jnp.array([[0.3, -0.4], [1.0, 0.2]])
SERIES = jax.tree.map(jnp.asarray, series())
OTHER_SERIES = (1.1 * SERIES[0], 0.9 * SERIES[1], SERIES[2])
MODELS = {
    "NeuralODE": (node, lambda model, x: model(x), (POINTS,), (2 * POINTS,)),
    "CNF": (cnf, lambda model, x: model.log_prob(x), (POINTS,), (2 * POINTS,)),
    "NeuralCDE": (cde, lambda model, *s: model(*s), SERIES, OTHER_SERIES),
    "LatentODE": (latent, lambda model, *s: model.elbo_loss(*s, key=KEY), SERIES, OTHER_SERIES),
    "ODERNN": (ode_rnn, lambda model, *s: model(*s), SERIES, OTHER_SERIES),
}


@pytest.mark.parametrize(
    "name", ["NeuralODE", *(pytest.param(n, marks=pytest.mark.slow) for n in list(MODELS)[1:])]
)
def test_models_change_without_recompiling_outside_jit(name):
    """Outside of `jit`: weights, data, and the tolerances of the model."""
    make, call, data, other = MODELS[name]
    model = make()
    heavier = jax.tree.map(lambda w: 1.1 * w if eqx.is_inexact_array(w) else w, model)
    tighter = eqx.tree_at(lambda m: m.settings.rtol, model, 1e-6)
    found = []

    def run(case):
        out = call(case[0], *case[1])
        found.append(float(jnp.sum(jnp.asarray(out))))

    cases = (model, data), (heavier, data), (model, other), (tighter, data)
    assert later_compilations(run, *cases) == [0, 0, 0]
    assert len(set(found)) == 4


def test_tolerances_that_do_not_recompile_a_model_are_checked():
    def run(**options):
        jo.nn.ODERNN(2, 3, 2, key=KEY, max_steps=4, **options)(*SERIES)

    with pytest.raises(jo.ToleranceError, match="rtol must be a non-negative number"):
        run(rtol=-1.0)
    with pytest.raises(jo.ToleranceError, match="both zero"):
        run(rtol=0.0, atol=0.0)
    with pytest.raises(jo.OptionError, match="dt must be a positive number"):
        run(solver="euler", dt=-0.1)
    with pytest.warns(jo.ToleranceWarning, match="rtol=1e-20"), pytest.raises(jo.SolveError):
        run(rtol=1e-20, atol=0.0)


def test_tolerances_are_those_that_a_model_has_under_jit():
    model = jo.nn.ODERNN(2, 3, 2, key=KEY, rtol=1e-7, atol=1e-2)
    compiled = eqx.filter_jit(model)(*SERIES)
    np.testing.assert_allclose(model(*SERIES), compiled, rtol=1e-12)


def test_later_fits_compile_nothing():
    """Each step has other weights and another minibatch; a fit has the programs of one before."""
    xs = jax.random.normal(KEY, (6, 2))

    def fit(steps):
        options: Any = {"batch_size": 4, "optimizer": optax.adam(1e-2), "progress": False}
        model = node(solver="euler", dt=0.5)
        log = jo.fit(model, (xs, jnp.sin(xs)), loss="mse", steps=steps, **options)[1]
        assert len(set(log.loss)) == steps

    assert compilations_of(fit, 2) > 0
    assert later_compilations(fit, 1, 1, 5) == [0, 0]
