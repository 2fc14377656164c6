"""Neural CDEs: their paths against formulas and SciPy, solutions in closed form, training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.linalg import expm
from scipy.interpolate import CubicSpline

import jaxode as jo
from jaxode.nn import (
    HermiteInterpolation,
    LinearInterpolation,
    LogODE,
    NaturalCubicSpline,
    NeuralCDE,
    RectilinearInterpolation,
    log_signature,
)
from jaxode.nn.controls import CONTROLS
from tests.support.differences import assert_close, central

RNG = np.random.default_rng(3)
TS = np.cumsum(RNG.uniform(0.2, 1.0, 9))
XS = RNG.normal(size=(9, 3))
GAPS = XS.copy()
GAPS[[1, 2, 6], 1] = np.nan
GAPS[[0, 8], 2] = np.nan
SERIES = np.cumsum(RNG.uniform(0.1, 0.3, (3, 7)), axis=1), RNG.normal(size=(3, 7, 2))
TIGHT: Any = {"rtol": 1e-10, "atol": 1e-12}
exponential, exponentials = jax.jit(expm), jax.jit(jax.vmap(jax.vmap(expm)))
KINDS = {**CONTROLS, "log_ode": LogODE}


@eqx.filter_jit
def built(kind, ts, xs, **options):
    return kind(ts, xs, **options)


@eqx.filter_jit
def along(control, times, what="evaluate"):
    return jax.vmap(getattr(control, what))(jnp.asarray(times))


@eqx.filter_jit
def gradient_of_the_last_slope(kind, ts, xs, **options):
    return jax.grad(lambda data: kind(*data, **options).derivative(TS[-1]).sum())((ts, xs))


@pytest.mark.parametrize("name", sorted(CONTROLS))
def test_paths_pass_through_the_observations(name):
    values = along(built(CONTROLS[name], TS, GAPS), TS)
    if name == "rectilinear":
        np.testing.assert_allclose(values[:, 0], TS, rtol=1e-14)
        values = values[:, 1:]
    seen = ~np.isnan(GAPS)
    np.testing.assert_allclose(values[seen], GAPS[seen], atol=1e-13)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_derivatives_are_those_of_the_path(name):
    control = built(KINDS[name], TS, GAPS)
    times, step = np.linspace(TS[0] + 0.013, TS[-1] - 0.013, 40), 1e-5
    slopes = (along(control, times + step) - along(control, times - step)) / (2 * step)
    np.testing.assert_allclose(along(control, times, "derivative"), slopes, atol=1e-7)


def test_natural_cubic_is_the_spline_of_each_channel():
    control = built(NaturalCubicSpline, TS, GAPS)
    for channel in range(3):
        seen = ~np.isnan(GAPS[:, channel])
        spline = CubicSpline(TS[seen], GAPS[seen, channel], bc_type="natural")
        times = np.linspace(TS[seen][0], TS[seen][-1] - 1e-9, 50)
        np.testing.assert_allclose(along(control, times)[:, channel], spline(times), atol=1e-12)
        slopes = along(control, times, "derivative")[:, channel]
        np.testing.assert_allclose(slopes, spline(times, 1), atol=1e-11)
    ends = along(control, TS[[0, -1]])[:, 2]
    np.testing.assert_allclose(ends, GAPS[[1, 7], 2], atol=1e-14)  # constant beyond the last seen


def test_hermite_has_backward_differences():
    control = HermiteInterpolation(TS, XS)
    slopes = (XS[1:] - XS[:-1]) / (TS[1:] - TS[:-1])[:, None]
    begins = along(control, TS[:-1] + 1e-10, "derivative")
    np.testing.assert_allclose(begins, np.concatenate([slopes[:1], slopes[:-1]]), atol=1e-7)
    np.testing.assert_allclose(along(control, TS[1:] - 1e-10, "derivative"), slopes, atol=1e-7)


def test_linear_fills_gaps_and_stays_outside():
    control = LinearInterpolation(
        np.array([0.0, 1.0, 3.0, 4.0]), np.array([[np.nan], [2.0], [np.nan], [5.0]])
    )
    np.testing.assert_allclose(along(control, [0.0, 0.5, 3.0, 3.5])[:, 0], [2.0, 2.0, 4.0, 4.5])


def test_rectilinear_moves_time_and_values_by_turns():
    control = RectilinearInterpolation(
        np.array([0.0, 2.0, 4.0]), np.array([[np.nan], [3.0], [1.0]])
    )
    path = along(control, [0.0, 1.0, 2.0, 3.0, 3.5, 4.0])
    np.testing.assert_allclose(path[:, 0], [0.0, 2.0, 2.0, 4.0, 4.0, 4.0])
    np.testing.assert_allclose(path[:, 1], [0.0, 0.0, 3.0, 3.0, 2.0, 1.0])
    np.testing.assert_allclose(
        jax.vmap(control.path_time)(jnp.array([0.0, 1.0, 2.0, 4.0])), [0, 0.5, 2, 4]
    )


@pytest.mark.parametrize(
    "name",
    [
        "hermite",
        "log_ode",
        pytest.param("linear", marks=pytest.mark.slow),
        pytest.param("natural_cubic", marks=pytest.mark.slow),
        pytest.param("rectilinear", marks=pytest.mark.slow),
    ],
)
def test_repeated_times_change_nothing(name):
    # Twice the first, one in the middle and the last: of two observations the last one counts.
    order = [0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 8]
    ts, xs = TS[order], GAPS[order].copy()
    xs[4] = 100.0
    xs[[-2, -1]] = np.nan
    options: Any = {"window": 20} if name == "log_ode" else {}
    kind = KINDS[name]
    times = np.linspace(TS[0], TS[-1], 30)
    short, long = built(kind, TS, GAPS, **options), built(kind, ts, xs, **options)
    np.testing.assert_allclose(along(long, times), along(short, times), atol=1e-12)
    slopes = along(long, times, "derivative")
    np.testing.assert_allclose(slopes, along(short, times, "derivative"), atol=1e-11)
    by_data = gradient_of_the_last_slope(kind, jnp.asarray(ts), jnp.asarray(xs), **options)
    expected = gradient_of_the_last_slope(kind, jnp.asarray(TS), jnp.asarray(GAPS), **options)
    for leaf, whole in zip(by_data, expected, strict=True):
        summed = np.zeros(whole.shape)
        np.add.at(summed, order, leaf)  # repeats share the gradient of their time
        np.testing.assert_allclose(summed, whole, atol=1e-11)


def test_log_signature_is_the_double_sum_and_obeys_chen():
    steps = RNG.normal(size=(7, 3))
    areas = np.zeros((3, 3))
    for first in range(7):
        for second in range(first + 1, 7):
            product = np.outer(steps[first], steps[second])
            areas += (product - product.T) / 2
    found = log_signature(jnp.asarray(steps))
    np.testing.assert_allclose(found[:3], steps.sum(0), rtol=1e-12)
    np.testing.assert_allclose(found[3:], areas[[0, 0, 1], [1, 2, 2]], atol=1e-12)
    one, two = log_signature(jnp.asarray(steps[:3])), log_signature(jnp.asarray(steps[3:]))
    cross = np.outer(one[:3], two[:3])
    joined = one[3:] + two[3:] + ((cross - cross.T) / 2)[[0, 0, 1], [1, 2, 2]]
    np.testing.assert_allclose(found[3:], joined, atol=1e-12)


def test_log_ode_of_a_linear_equation():
    # dz = A z dX + B z dY: a window's flow is exp(A dX + B dY + area [B, A]), to third order.
    a, b = 0.3 * RNG.normal(size=(2, 3, 3))
    matrices = jnp.asarray(np.stack([a, b, b @ a - a @ b]))
    ts, xs = jnp.linspace(0.0, 1.0, 9), jnp.asarray(0.2 * RNG.normal(size=(9, 2)))

    def field(z):
        return jnp.einsum("kij,j->ik", matrices, z)

    start = jnp.array([1.0, -1.0, 0.5])
    model = NeuralCDE(
        field, lambda x: start, control="log_ode", window=4, time_channel=False, **TIGHT
    )
    expected = start
    for window in (xs[:5], xs[4:]):
        signature = log_signature(jnp.diff(window, axis=0))
        expected = exponential(jnp.einsum("k,kij->ij", signature, matrices)) @ expected
    exact = start
    for dx in jnp.diff(xs, axis=0):
        exact = exponential(dx[0] * a + dx[1] * b) @ exact
    found = eqx.filter_jit(model)(ts, xs[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    without_areas = exponential(jnp.einsum("k,kij->ij", (xs[-1] - xs[0]), matrices[:2])) @ start
    assert jnp.abs(found - exact).max() < 0.3 * jnp.abs(without_areas - exact).max()


@pytest.mark.parametrize(
    "control", ["hermite", pytest.param("rectilinear", marks=pytest.mark.slow)]
)
def test_one_channel_has_its_exponential(control):
    # dz = A z dX is solved by exp(A (X - X(t0))), whatever the path; with time, A is zero there.
    a = jnp.array([[0.1, 0.5], [-0.5, -0.2]])
    with_time = control == "rectilinear"
    matrices = jnp.stack([0 * a, a]) if with_time else a[None]
    model = NeuralCDE(
        lambda z: jnp.einsum("kij,j->ik", matrices, z), lambda x: jnp.array([1.0, 2.0]) + 0 * x[0],
        control=control, time_channel=with_time, **TIGHT,
    )  # fmt: skip
    ts, xs = SERIES[0], jnp.asarray(SERIES[1][..., :1])
    flows = exponentials((xs - xs[:, :1])[..., None] * a)
    found = eqx.filter_jit(model)(ts, xs, evolving=True)
    assert found.shape == (3, 7, 2)
    np.testing.assert_allclose(found, flows @ jnp.array([1.0, 2.0]), atol=1e-6)


def small(**options):
    return NeuralCDE.mlp(2, 1, hidden=3, width=4, key=jax.random.key(0), **options)


@pytest.mark.slow
def test_padding_gaps_and_company_change_nothing():
    ts, xs = SERIES[0].copy(), SERIES[1].copy()
    xs[0, 1, 0] = np.nan
    xs[1, 4:], ts[1, 4:] = np.nan, np.nan
    model = small(**TIGHT, counts=True)
    lengths, times = np.array([7, 4, 7]), np.full((3, 2), 100.0)
    times[:, 0] = ts[:, 1]
    together = model(ts, xs, lengths=lengths, times=times)
    alone = model(ts[1:2, :4], xs[1:2, :4])
    assert (together.shape, alone.shape) == ((3, 2, 1), (1, 1))
    np.testing.assert_allclose(together[1, 1], alone[0], atol=1e-7)  # it stays after its end
    assert jnp.abs(together[:, 0] - together[:, 1]).min() > 1e-3


@pytest.mark.slow
def test_back_in_time():
    model = small(**TIGHT)
    there = eqx.filter_jit(model.solve)(*SERIES)
    back = eqx.filter_jit(model.inverse)(there.y1, *SERIES)
    np.testing.assert_allclose(back, there.ys[:, 0], atol=1e-7)
    assert jnp.abs(there.y1 - there.ys[:, 0]).max() > 1e-2


def test_rectilinear_never_looks_ahead():
    ts, xs = SERIES[0], SERIES[1].copy()
    xs[:, 2, 0] = np.nan
    later = xs.copy()
    later[:, 4:] += 1.0
    times = np.stack([ts[:, 1], ts[:, 3], ts[:, 4] - 1e-4, ts[:, 4]], axis=1)
    model = small(control="rectilinear", counts=True, **TIGHT)
    evaluated = eqx.filter_jit(model)
    one, two = evaluated(ts, xs, times=times), evaluated(ts, later, times=times)
    np.testing.assert_allclose(one[:, :3], two[:, :3], atol=1e-7)
    assert jnp.abs(one[:, 3] - two[:, 3]).min() > 1e-3


@pytest.mark.slow
def test_linear_equation_along_lines_at_any_pace():
    matrices = jnp.asarray(0.5 * RNG.normal(size=(2, 3, 3)))
    model = NeuralCDE(
        lambda z: jnp.einsum("kij,j->ik", matrices, z), lambda x: jnp.append(x, 1.0),
        control="linear", time_channel=False, **TIGHT,
    )  # fmt: skip
    ts, xs = SERIES[0], jnp.asarray(SERIES[1])
    flows = exponentials(jnp.einsum("bnk,kij->bnij", jnp.diff(xs, axis=1), matrices))
    states = [jnp.concatenate([xs[:, 0], jnp.ones((3, 1))], axis=1)]
    for piece in range(6):
        states.append(jnp.einsum("bij,bj->bi", flows[:, piece], states[-1]))
    expected = jnp.stack(states, axis=1)
    evaluated = eqx.filter_jit(model)
    np.testing.assert_allclose(evaluated(ts, xs, evolving=True), expected, atol=1e-7)
    np.testing.assert_allclose(evaluated(ts**2, xs, evolving=True), expected, atol=1e-7)


@pytest.mark.slow
def test_gradients_against_differences_with_gaps_and_padding():
    ts, xs = SERIES[0][:2], SERIES[1][:2].copy()
    xs[0, 1, 0] = xs[1, 5:] = np.nan
    lengths = jnp.array([7, 5])
    model = small(solver="rk4", dt=0.2, control="linear")
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def loss(parts):
        arrays, shift = parts
        model = eqx.combine(arrays, rest)
        return jnp.sum(model(ts, xs + shift, lengths=lengths) ** 2 * jnp.array([[1.0], [0.7]]))

    point = arrays, jnp.zeros(2)
    assert_close(jax.jit(jax.grad(loss))(point), central(loss, point), 1e-7)


def spirals(key, count=64):
    """Spirals inwards, half of them clockwise."""
    turn, noise = jax.random.split(key)
    t = jnp.linspace(0.0, 4 * jnp.pi, 50)
    angle = t + jax.random.uniform(turn, (count, 1), maxval=2 * jnp.pi)
    x = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1) / (1 + t / 2)[:, None]
    clockwise = jnp.arange(count) % 2
    x = x.at[:, :, 0].multiply(1 - 2 * clockwise[:, None])
    return t, x + 0.01 * jax.random.normal(noise, x.shape), clockwise


@pytest.mark.slow
def test_it_learns_which_way_spirals_turn():
    model = NeuralCDE.mlp(2, 1, width=16, key=jax.random.key(0), rtol=1e-2, atol=1e-3)
    ts, x, clockwise = spirals(jax.random.key(1))

    def loss(model, batch):
        logits = model(ts, batch[0])[:, 0]
        return optax.sigmoid_binary_cross_entropy(logits, batch[1]).mean()

    model, log = jo.fit(
        model, (x, clockwise), loss=loss, optimizer=optax.adam(1e-2), steps=60, progress=False
    )
    _, x, clockwise = spirals(jax.random.key(2), 200)
    assert log.loss[-1] < 0.1 * log.loss[0]
    assert jnp.mean((model(ts, x)[:, 0] > 0) == clockwise) >= 0.99


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"control": "hermit"}, jo.OptionError, "'hermite'"),
        ({"control": "rectilinear", "time_channel": False}, jo.OptionError, "needs the time"),
        ({"control": "log_ode", "window": 0}, jo.OptionError, "window must be"),
        ({"solver": "tsit6"}, jo.OptionError, "'tsit5'"),
        ({"tolerance": 1e-3}, jo.OptionError, "tolerance"),
    ],
)
def test_bad_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        small(**options)


def test_bad_parts_and_data_are_refused():
    ts, xs = SERIES
    with pytest.raises(jo.FieldError, match="initial must be a callable"):
        NeuralCDE(lambda z: z, None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(jo.FieldError, match=r"matrix of shape \(3, 3\).*got shape \(3,\)"):
        NeuralCDE(lambda z: z, lambda x: x)(ts, xs)
    model = small()
    with pytest.raises(jo.DataError, match="sample 1 has no observation"):
        model(ts, np.where(np.arange(3)[:, None, None] == 1, np.nan, xs))
    with pytest.raises(jo.TimesError, match="sample 0, which begins at"):
        model(ts, xs, times=np.array([0.0, 1.0]))
    with pytest.raises(jo.DataError, match=r"times must have shape \(m,\) or \(3, m\)"):
        model(ts, xs, times=np.ones((2, 4)))
    with pytest.raises(jo.OptionError, match="evolving"):
        model(ts, xs, times=np.array([5.0]), evolving=True)
    with pytest.raises(jo.DataError, match=r"z1 must have shape \(3, hidden\)"):
        model.inverse(jnp.ones(3), ts, xs)
