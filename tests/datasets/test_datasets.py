"""The data: same key same data, known shapes and figures, and bad input refused by name."""

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial import KDTree
from scipy.special import digamma

import jaxode as jo
from jaxode import datasets
from jaxode.problem.errors import DataError, OptionError

KEY = jax.random.key(0)
LABELLED: dict[str, tuple[Any, int]] = {
    "circles": (datasets.circles, 2),
    "rings": (datasets.rings, 4),
    "moons": (datasets.moons, 2),
    "eight_gaussians": (datasets.eight_gaussians, 8),
    "pinwheel": (datasets.pinwheel, 5),
    "two_spirals": (datasets.two_spirals, 2),
}
SERIES: dict[str, Callable[[jax.Array], Any]] = {
    "annulus": lambda key: datasets.annulus(4000, key=key),
    "latent_spirals": lambda key: datasets.latent_spirals(200, key=key, shown=30),
    "periodic": lambda key: datasets.periodic(300, key=key),
    "spiral_chirality": lambda key: datasets.spiral_chirality(40, key=key, missing=0.7),
    "simulate": lambda key: datasets.simulate("rlc", 2, key=key, times=25, noise=0.1),
}


@functools.cache
def program(name: str) -> Callable[[jax.Array], Any]:
    """The draw of 20,000 points and their labels, compiled once: that is what takes long."""
    options = {"labels": True} if name in LABELLED else {}
    draw = functools.partial(datasets.DENSITIES[name], 20_000, **options)
    return jax.jit(lambda key: draw(key) if options else (draw(key), jnp.zeros(20_000, int)))


def drawn(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = program(name)(jax.random.key(seed))
    return np.asarray(x), np.asarray(y)


def radius(x: Any) -> np.ndarray:
    return np.linalg.norm(np.asarray(x), axis=-1)


def nearest_neighbour_entropy(x: np.ndarray, k: int = 8) -> float:
    """The estimate of Kozachenko and Leonenko in two dimensions."""
    distance = KDTree(x).query(x, k + 1)[0][:, k]
    n = len(x)
    return float(digamma(n) - digamma(k) + math.log(math.pi) + 2 * np.mean(np.log(distance)))


# Densities.


@pytest.mark.parametrize("name", sorted(datasets.DENSITIES))
def test_density_is_the_keys_alone(name: str) -> None:
    x, _ = drawn(name)
    assert x.shape == (20_000, 2)
    assert x.dtype == jnp.result_type(float)
    np.testing.assert_array_equal(x, drawn(name)[0])
    assert np.mean(x == drawn(name, 1)[0]) < 0.001


def test_density_is_the_same_outside_jit_and_without_labels() -> None:
    np.testing.assert_allclose(datasets.moons(20_000, KEY), drawn("moons")[0], atol=1e-12)


@pytest.mark.parametrize("name", sorted(datasets.DENSITIES))
def test_entropy_floor_is_that_of_the_nearest_neighbours(name: str) -> None:
    assert set(datasets.ENTROPY_FLOORS) == set(datasets.DENSITIES)
    # The estimate smooths the edges of the checkerboard away, so it is above the exact value.
    slack = 0.06 if name == "checkerboard" else 0.04
    found = nearest_neighbour_entropy(drawn(name)[0])
    assert abs(found - datasets.ENTROPY_FLOORS[name]) < slack


@pytest.mark.parametrize("name", sorted(LABELLED))
def test_labels_are_shared_out_in_random_order(name: str) -> None:
    labels, classes = drawn(name)[1], LABELLED[name][1]
    counts = np.bincount(labels, minlength=classes)
    assert counts.size == classes
    assert counts.max() - counts.min() <= 1
    assert abs(np.mean(labels[1:] == labels[:-1]) - 1 / classes) < 0.03


def test_circles_and_rings_have_their_radii() -> None:
    x, y = drawn("circles")
    for label, r in enumerate((3.0, 1.5)):
        ring = radius(x)[np.asarray(y) == label]
        assert abs(ring.mean() - r) < 0.04
        assert abs(ring.std() - 0.24) < 0.02
    x, y = drawn("rings")
    for label, r in enumerate((3.0, 2.25, 1.5, 0.75)):
        ring = radius(x)[np.asarray(y) == label]
        assert abs(ring.mean() - r) < 0.02
        assert abs(ring.std() - 0.08) < 0.01


def test_moons_are_half_circles() -> None:
    x, y = drawn("moons")
    for label, (centre, side) in enumerate((((-1.0, -0.2), 1), ((1.0, 0.8), -1))):
        moon = np.asarray(x)[np.asarray(y) == label] - np.asarray(centre)
        assert abs(radius(moon).mean() - 2) < 0.03
        assert abs(radius(moon).std() - 0.2) < 0.02
        assert np.min(side * moon[:, 1]) > -1.0  # noise alone goes beyond the diameter


def test_eight_gaussians_stand_on_their_centres() -> None:
    x, y = drawn("eight_gaussians")
    for k in range(8):
        mine = np.asarray(x)[np.asarray(y) == k]
        angle = math.pi / 4 * k
        centre = 4 / 1.414 * np.array([math.cos(angle), math.sin(angle)])
        assert np.all(np.abs(mine.mean(axis=0) - centre) < 0.06)
        assert np.all(np.abs(mine.std(axis=0) - 0.5 / 1.414) < 0.04)


def test_pinwheel_unwound_is_a_normal_distribution() -> None:
    x, y = drawn("pinwheel")
    turn = 2 * np.pi / 5 * y  # taking each blade's own turn back puts all on the first
    first = (x[:, 0] + 1j * x[:, 1]) * np.exp(1j * turn) / 2
    along = np.abs(first)  # across is small, so this is nearly the first feature
    np.testing.assert_allclose(along.mean(), 1.0, atol=0.03)
    np.testing.assert_allclose(along.std(), 0.3, atol=0.02)
    across = np.imag(first * np.exp(1j * 0.25 * np.exp(along)))
    np.testing.assert_allclose(across.mean(), 0.0, atol=0.01)
    np.testing.assert_allclose(across.std(), 0.1, atol=0.01)


def distance_to_curve(x: np.ndarray, curve: Callable, begin: float, end: float) -> float:
    """The root mean square of the distances of the points from the curve."""
    distance = KDTree(curve(np.linspace(begin, end, 5000))).query(x)[0]
    return float(np.sqrt(np.mean(distance**2)))


def test_spirals_lie_along_their_curves() -> None:
    def roll(turn: np.ndarray) -> np.ndarray:
        return np.stack([turn * np.cos(turn), turn * np.sin(turn)], axis=-1) / 5

    def arm(turn: np.ndarray) -> np.ndarray:
        return 5 * roll(turn) * np.array([-1, 1]) / 3 + 0.25 / 3  # the mean of the uniform noise

    x, _ = drawn("swiss_roll")
    assert abs(distance_to_curve(x, roll, 1.5 * np.pi, 4.5 * np.pi) - 0.2) < 0.02
    x, y = drawn("two_spirals")
    across = math.sqrt(0.1**2 + (0.5 / 3) ** 2 / 12)
    assert abs(distance_to_curve(x[y == 0], arm, 0, 3 * np.pi) - across) < 0.015
    assert abs(distance_to_curve(-x[y == 1], arm, 0, 3 * np.pi) - across) < 0.015
    assert abs(np.median(radius(x)) - np.pi * math.sqrt(0.5)) < 0.1  # uniform in the squared turn


def test_checkerboard_keeps_to_its_squares() -> None:
    x, _ = drawn("checkerboard")
    assert np.all(np.abs(x) <= 4)
    column, row = np.floor(x / 2).astype(int).T
    assert np.all((column + row) % 2 == 0)
    counts = np.unique(column * 10 + row, return_counts=True)[1]
    assert counts.size == 8
    assert np.all(np.abs(counts - 2500) < 5 * math.sqrt(2500))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_annulus_is_a_ball_in_a_shell(dim: int) -> None:
    x, labels = datasets.annulus(4000, key=KEY, dim=dim)
    assert x.shape == (4000, dim)
    r, inner = radius(x), np.asarray(labels) == 0
    assert inner.sum() == 1000
    assert np.all(r[inner] <= 0.5 + 1e-12)
    assert np.all((r[~inner] >= 1 - 1e-12) & (r[~inner] <= 1.5 + 1e-12))
    # uniform in the volume: the part of it within the median radius is a half
    assert abs((2 * np.median(r[inner])) ** dim - 0.5) < 0.05
    volume = (np.median(r[~inner]) ** dim - 1) / (1.5**dim - 1)
    assert abs(volume - 0.5) < 0.05
    assert np.all(np.abs(np.asarray(x).mean(axis=0)) < 0.1)


# Series.


@pytest.mark.parametrize("name", sorted(SERIES))
def test_series_are_the_keys_alone(name: str) -> None:
    first, again, other = (SERIES[name](jax.random.key(k)) for k in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    changed = [not np.array_equal(a, b, equal_nan=True) for a, b in zip(first, other, strict=True)]
    assert any(changed)


def test_latent_spirals_follow_the_formula() -> None:
    drawn = datasets.latent_spirals(200, key=KEY, shown=30)
    assert isinstance(drawn, datasets.LatentSpirals)
    assert [a.shape for a in drawn] == [(100,), (200, 100, 2), (200, 100), (200, 200, 2), (200,)]
    np.testing.assert_array_equal(drawn.mask.sum(axis=1), 30)
    assert np.all(np.asarray(drawn.mask).any(axis=0))  # every place is shown by some series
    np.testing.assert_allclose(drawn.times[-1], 199 * 6 * np.pi / 499)
    noise = np.asarray(drawn.xs - drawn.truth[:, :100])
    assert abs(noise.std() - 0.3) < 0.01
    ts = np.linspace(0, 6 * np.pi, 500)
    starts = []
    for series in np.asarray(drawn.truth):
        # On a spiral the radius about its centre tells the angle, and so where the series begins.
        out = radius(series - np.array([5.0, 0.0])) / 0.3
        back = 0.3 * 50 / radius(series - np.array([-5.0, 0.0]))
        if np.all(np.diff(out) > 0) and np.allclose(np.diff(out), ts[1]):
            i, angle, centre, r = round(out[0] / ts[1]), out, 5.0, 0.3 * out
        else:
            np.testing.assert_allclose(np.diff(back), -ts[1], rtol=1e-9)
            i, angle, centre, r = round((ts[-1] + 1 - back[0]) / ts[1]), back, -5.0, 15 / back
        expected = np.stack([centre + r * np.cos(angle), r * np.sin(angle)], axis=-1)
        np.testing.assert_allclose(series, expected, atol=1e-9)
        starts.append((centre, i))
    assert {c for c, _ in starts} == {5.0, -5.0}
    assert min(i for _, i in starts) >= 100
    assert max(i for _, i in starts) <= 300


def test_periodic_is_a_sine_of_drifting_frequency() -> None:
    drawn = datasets.periodic(300, key=KEY, shown=50, noise=0.01)
    assert isinstance(drawn, datasets.Periodic)
    assert [a.shape for a in drawn] == [(300, 100), (300, 100, 1), (300, 100), (300, 100, 1)]
    ts = np.asarray(drawn.ts)
    assert np.all(ts[:, 1:] >= ts[:, :-1])
    assert np.all((ts >= 0) & (ts <= 5))
    np.testing.assert_array_equal(drawn.mask.sum(axis=1), 50)
    added = np.asarray(drawn.xs - drawn.truth)
    assert np.all((added >= -1e-12) & (added <= 0.01))
    truth = np.asarray(drawn.truth)[..., 0]
    assert np.all(np.abs(truth.max(axis=1) - truth.min(axis=1) - 2) < 0.4)  # amplitude 1
    middle = (truth.max(axis=1) + truth.min(axis=1)) / 2
    assert abs(middle.mean() - 1) < 0.03
    crossings = np.sum(np.diff(np.sign(truth - middle[:, None]), axis=1) != 0, axis=1)
    assert abs(crossings.mean() - (2 * 0.6 * 5 - 0.5)) < 0.2  # the last half cycle is cut off
    for t, x in zip(ts[:8], truth[:8], strict=True):
        first, last, offset = fitted_chirp(t, x)
        assert 0.4 <= first <= 0.8 and 0.4 <= last <= 0.8 and abs(offset - 1) < 0.5


def fitted_chirp(t: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The frequencies at t = 0 and t = 5 and the offset of a sine that is exactly `x`."""

    def gap(p: np.ndarray) -> np.ndarray:
        return p[2] + np.sin(2 * np.pi * (p[0] * t + (p[1] - p[0]) * t**2 / 10)) - x

    grid = np.linspace(0.4, 0.8, 21)
    starts = [np.array([first, last, 1.0]) for first in grid for last in grid]
    nearest = min(starts, key=lambda p: np.var(gap(p)))
    found = least_squares(gap, nearest, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert np.max(np.abs(found.fun)) < 1e-10
    return found.x


def test_chirality_is_the_way_a_spiral_turns() -> None:
    ts, xs, labels = datasets.spiral_chirality(40, key=KEY, noise=0.0)
    np.testing.assert_allclose(ts, np.linspace(0, 4 * np.pi, 100))
    np.testing.assert_allclose(radius(xs), np.tile(1 / (1 + np.asarray(ts) / 2), (40, 1)))
    x, y = np.moveaxis(np.asarray(xs), -1, 0)
    turned = np.sign(x[:, 0] * y[:, 1] - y[:, 0] * x[:, 1])
    np.testing.assert_array_equal(turned, np.where(np.asarray(labels) == 1, -1, 1))
    assert int(labels.sum()) == 20
    gone = np.isnan(np.asarray(datasets.spiral_chirality(40, key=KEY, missing=0.7)[1]))
    np.testing.assert_array_equal(gone[..., 0], gone[..., 1])
    assert not gone[:, [0, -1]].any()
    np.testing.assert_array_equal(gone[..., 0].sum(axis=1), 70)


# Simulators.


def test_undamped_pendulums_keep_their_energy() -> None:
    sim = datasets.simulate("damped_pendulum", 3, key=KEY, times=20, damping=0.0)
    angle, speed = np.moveaxis(np.asarray(sim.truth), -1, 0)
    energy = speed**2 / 2 - 9.81 * np.cos(angle)
    np.testing.assert_allclose(energy, np.tile(energy[:, :1], 20), rtol=1e-7)
    lost = datasets.simulate("damped_pendulum", 3, key=KEY, times=20).truth
    ends = np.asarray(lost)[:, -1]
    assert np.all(ends[:, 1] ** 2 / 2 - 9.81 * np.cos(ends[:, 0]) < energy[:, 0] - 0.1)


def test_double_pendulums_keep_their_energy() -> None:
    mass2, length1 = 0.5, 0.7  # unequal, so that each term counts
    sim = datasets.simulate(
        "double_pendulum", 2, key=KEY, times=20, end=4.0, mass2=mass2, length1=length1
    )
    a, b, u, v = np.moveaxis(np.asarray(sim.truth), -1, 0)
    first = np.stack([length1 * u * np.cos(a), length1 * u * np.sin(a)])
    second = first + np.stack([v * np.cos(b), v * np.sin(b)])
    kinetic = 0.5 * np.sum(first**2, axis=0) + 0.5 * mass2 * np.sum(second**2, axis=0)
    height1 = -length1 * np.cos(a)
    energy = kinetic + 9.81 * (height1 + mass2 * (height1 - np.cos(b)))
    np.testing.assert_allclose(energy, np.tile(energy[:, :1], 20), rtol=1e-7)


def test_lotka_volterra_keeps_its_invariant_at_each_ones_own_rates() -> None:
    alpha = np.array([1.0, 1.5, 2.0])
    sim = datasets.simulate(
        "lotka_volterra", 3, key=KEY, times=30, irregular=True, alpha=jnp.asarray(alpha)
    )
    x, y = np.moveaxis(np.asarray(sim.truth), -1, 0)
    kept = x - 3 * np.log(x) + y - alpha[:, None] * np.log(y)
    np.testing.assert_allclose(kept, np.tile(kept[:, :1], 30), rtol=1e-7)
    ts = np.asarray(sim.ts)
    assert np.all(ts[:, 0] == 0)
    assert np.all((ts[:, 1:] >= ts[:, :-1]) & (ts[:, 1:] <= 10))
    assert not np.any(ts[0, 1:] == ts[1, 1:])


def test_sir_loses_nobody_and_has_its_final_size() -> None:
    sim = datasets.simulate("sir", 2, key=KEY, times=20, end=60.0)
    people = np.asarray(sim.truth)
    total = people.sum(axis=-1)
    np.testing.assert_allclose(total, np.tile(total[:, :1], 20), rtol=1e-9)
    # S exp(beta R / (gamma N)) does not change along a trajectory
    kept = np.log(people[..., 0]) + 1.66 / 0.44 * people[..., 2] / total
    np.testing.assert_allclose(kept, np.tile(kept[:, :1], 20), rtol=1e-7)
    assert np.all(people[:, -1, 1] < 1)


def test_rlc_is_its_closed_form() -> None:
    sim = datasets.simulate("rlc", 2, key=KEY, times=25, noise=0.1, voltage=1.0)
    t = np.asarray(sim.ts[0])
    at_rest, damping = 0.25, 0.25  # C V, and R / 2 L
    omega = math.sqrt(1 / 0.25 - damping**2)
    for states in np.asarray(sim.truth):
        q0, i0 = states[0, 0] - at_rest, states[0, 1]
        wave = q0 * np.cos(omega * t) + (i0 + damping * q0) / omega * np.sin(omega * t)
        np.testing.assert_allclose(states[:, 0], at_rest + np.exp(-damping * t) * wave, atol=1e-8)


@pytest.mark.parametrize("name", ["fitzhugh_nagumo", "duffing"])
def test_driven_systems_satisfy_their_equations(name: str) -> None:
    end = 2.0
    sim = datasets.simulate(name, 1, key=KEY, times=201, end=end)
    t, (x, y) = np.asarray(sim.ts[0]), np.asarray(sim.truth[0]).T
    if name == "duffing":
        slopes = y, -0.3 * y + x - x**3 + 0.5 * np.cos(1.2 * t)
    else:
        slopes = x - x**3 / 3 - y + 0.5, (x + 0.7 - 0.8 * y) / 12.5
    for values, slope in zip((x, y), slopes, strict=True):
        central = (values[2:] - values[:-2]) / (t[2:] - t[:-2])
        np.testing.assert_allclose(central, slope[1:-1], atol=2e-3)


def test_simulation_inside_jit_with_the_noise_that_was_asked_for() -> None:
    draw = functools.partial(datasets.simulate, "sir", 40, times=50, noise=0.1)
    sim = jax.jit(lambda key: draw(key=key))(KEY)
    spread = np.asarray(sim.truth).std(axis=(0, 1))
    added = np.asarray(sim.ys - sim.truth).std(axis=(0, 1))
    np.testing.assert_allclose(added / spread, 0.1, rtol=0.1)


def grow(t, y, parameters):
    return parameters["rate"] * y


def test_a_system_may_be_the_users_own() -> None:
    assert all(isinstance(system, datasets.System) for system in datasets.SYSTEMS.values())
    growth = datasets.System(grow, ("size",), {"rate": 0.5}, ((1.0,), (2.0,)), 3.0)
    sim = datasets.simulate(growth, 4, key=KEY, times=5)
    assert isinstance(sim, datasets.Simulated)
    start = np.asarray(sim.truth[:, :1])
    assert np.all((start >= 1) & (start <= 2))
    np.testing.assert_allclose(sim.truth, start * np.exp(0.5 * sim.ts)[..., None], rtol=1e-7)
    np.testing.assert_array_equal(sim.ys, sim.truth)


def test_cells_are_brighter_than_what_is_around_them() -> None:
    images, masks = datasets.cells(40, KEY)
    assert images.shape == (40, 1, 64, 64)
    assert masks.shape == (40, 64, 64)
    assert jnp.issubdtype(masks.dtype, jnp.integer)
    np.testing.assert_array_equal(np.unique(masks), [0, 1])
    image, inside = np.asarray(images[:, 0]), np.asarray(masks) == 1
    assert 0.05 < inside.mean() < 0.3
    assert image[inside].mean() > image[~inside].mean() + 0.3
    # No threshold for all: the haze is brighter than the faint cells.
    assert np.quantile(image[~inside], 0.95) > np.quantile(image[inside], 0.05)


def test_cells_without_noise_are_the_same_but_for_the_noise() -> None:
    clear, masks = datasets.cells(3, KEY, size=32, noise=0.0)
    noisy, same = datasets.cells(3, KEY, size=32, noise=0.1)
    np.testing.assert_array_equal(masks, same)
    deviation = np.asarray((noisy - clear) / jnp.sqrt(clear))
    np.testing.assert_allclose(deviation.std(), 0.1, rtol=0.05)


# Records.


def test_lynx_and_hare_are_those_of_the_company() -> None:
    years, pelts = datasets.lynx_hare()
    np.testing.assert_array_equal(years, np.arange(1900, 1921))
    assert pelts.shape == (21, 2)
    np.testing.assert_allclose(np.asarray(pelts)[[0, -1]], [[30.0, 4.0], [24.7, 8.6]])


def test_digits() -> None:
    x, y = datasets.digits()
    assert x.shape == (1797, 1, 8, 8)
    assert float(x.min()) == 0.0
    assert float(x.max()) == 1.0
    np.testing.assert_array_equal(y[:10], np.arange(10))
    np.testing.assert_allclose(x[0, 0, 0], np.array([0, 0, 5, 13, 9, 1, 0, 0]) / 16)


def test_mnist_has_all_digits_in_random_order() -> None:
    x, y = datasets.mnist()
    assert x.shape == (5000, 1, 28, 28)
    assert float(x.min()) == 0.0
    assert float(x.max()) == 1.0
    np.testing.assert_array_equal(np.bincount(y), np.full(10, 500))
    assert np.bincount(y[4000:]).min() > 80
    # The digits are centred, and a one has less ink than a zero.
    ink = np.asarray(x.sum((1, 2, 3)))
    assert ink[y == 1].mean() < 0.5 * ink[y == 0].mean()
    middle = np.sum(np.asarray(x[:, 0]) * np.arange(28), (1, 2)) / ink
    assert abs(middle.mean() - 14.0) < 0.1


def test_co2_has_its_gaps() -> None:
    ts, xs = datasets.co2()
    assert ts.shape == (2284,)
    assert xs.shape == (2284, 1)
    assert int(jnp.isnan(xs).sum()) == 59
    np.testing.assert_allclose(ts[0], 1958 + 87 / 365)  # 29 March
    np.testing.assert_allclose(xs[0, 0], 316.1)
    np.testing.assert_allclose(jnp.diff(ts), 7 / 365.25, rtol=0.01)


def test_sunspots() -> None:
    years, xs = datasets.sunspots()
    np.testing.assert_array_equal(years, np.arange(1700, 2009))
    np.testing.assert_allclose(xs[:2, 0], [5.0, 11.0])


def test_stocks_are_nan_before_they_were_sold() -> None:
    ts, xs, names = datasets.stocks()
    assert xs.shape == (390, 10) == (ts.size, len(names))
    assert names[:3] == ("IBM", "AAPL", "MSFT")
    np.testing.assert_allclose(xs[0, 0], 10.970438003540039)
    assert float(ts[0]) == 1990.0
    assert np.all(np.asarray(ts[1:] > ts[:-1]))
    google = np.isnan(np.asarray(xs[:, names.index("GOOGL")]))
    assert google[0] and not google[-1]
    assert 2004 < float(ts[google.argmin()]) < 2005


def test_airline_passengers() -> None:
    ts, xs = datasets.airline()
    assert ts.shape == (144,) and xs.shape == (144, 1)
    np.testing.assert_allclose(xs[:3, 0], [112, 118, 132])
    np.testing.assert_allclose(xs[-1, 0], 432)
    np.testing.assert_allclose(ts[12 * np.arange(12)], 1949 + np.arange(12))


def test_sp500_has_the_crash_of_2008() -> None:
    ts, xs = datasets.sp500()
    assert ts.shape == (5031,) and xs.shape == (5031, 1)
    np.testing.assert_allclose(xs[[0, -1], 0], [1228.099976, 2506.850098], rtol=1e-6)
    assert np.all(np.asarray(ts[1:] > ts[:-1]))
    falls = np.diff(np.log(np.asarray(xs[:, 0])))
    assert 2008.7 < float(ts[1:][falls.argmin()]) < 2008.9  # 15 October


def test_utterances_are_nan_after_their_ends() -> None:
    for split, n in (("train", 270), ("test", 370)):
        data = datasets.japanese_vowels(split)  # pyright: ignore
        assert isinstance(data, datasets.Utterances)
        assert data.ts.shape == (29,) and data.xs.shape == (n, 29, 12)
        ended = np.arange(29) >= np.asarray(data.lengths)[:, None]
        np.testing.assert_array_equal(
            np.isnan(np.asarray(data.xs)), np.repeat(ended[..., None], 12, 2)
        )
        assert int(data.lengths.min()) == 7 and int(data.lengths.max()) in (26, 29)
        np.testing.assert_array_equal(np.unique(data.labels), np.arange(9))
    train = datasets.japanese_vowels()
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(9), 30))
    np.testing.assert_allclose(train.xs[0, :2, 0], [1.860936, 1.891651])


# Windows.


def test_windows_cut_times_and_values_together() -> None:
    ts = np.cumsum(np.random.default_rng(0).uniform(0.1, 1.0, 20))  # irregular
    ys = np.stack([ts, -ts], -1)
    cut = datasets.windows(ts, ys, length=5, horizon=3, stride=4)
    assert isinstance(cut, datasets.Windows)
    assert cut.ys.shape == (4, 5, 2) and cut.next_ys.shape == (4, 3, 2)
    np.testing.assert_allclose(cut.ys[..., 0], cut.ts)
    np.testing.assert_allclose(cut.next_ys[..., 1], -cut.next_ts)
    np.testing.assert_allclose(cut.ts[:, 0], ts[[0, 4, 8, 12]])
    np.testing.assert_allclose(np.concatenate([cut.ts[3], cut.next_ts[3]]), ts[12:20])


def test_windows_keep_missing_values_and_may_have_no_horizon() -> None:
    ys = np.array([[0.0], [np.nan], [2.0]])
    cut = datasets.windows(np.arange(3), ys, 2)
    np.testing.assert_array_equal(cut.ys[..., 0], [[0, np.nan], [np.nan, 2]])
    assert cut.next_ts.shape == (2, 0) and cut.next_ys.shape == (2, 0, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: datasets.windows(np.arange(3), np.ones(3), 2), "shapes"),
        (lambda: datasets.windows(np.arange(4), np.ones((3, 1)), 2), "shapes"),
        (
            lambda: datasets.windows(np.array([0, 2, 1]), np.ones((3, 1)), 2),
            "must be finite and increase",
        ),
        (
            lambda: datasets.windows(np.arange(3), np.ones((3, 1)), 2, 2),
            "a window with its horizon 4",
        ),
        (
            lambda: datasets.windows(np.arange(3), np.array([["a"]] * 3), 2),
            "ys must hold real numbers",
        ),
    ],
)
def test_series_that_cannot_be_cut_are_refused(call: Callable, words: str) -> None:
    with pytest.raises(DataError, match=words):
        call()


def test_eeg() -> None:
    ts, xs = datasets.eeg()
    assert xs.shape == (800, 4)
    np.testing.assert_allclose(ts[-1], 9.9875)
    assert np.all(np.isfinite(np.asarray(xs)))


@pytest.mark.parametrize(
    "load",
    [
        datasets.digits,
        datasets.mnist,
        datasets.co2,
        datasets.stocks,
        datasets.airline,
        datasets.sp500,
        datasets.japanese_vowels,
    ],
)
def test_record_without_its_package_says_what_to_install(
    load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "jaxode\[data\]"'):
        load()


# Bad input.


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: datasets.moons(0, KEY), "n_points must be an integer of at least 1, got 0"),
        (lambda: datasets.rings(2.5, KEY), "n_points must be an integer"),  # pyright: ignore
        (lambda: datasets.checkerboard(10, 0), "key must be one key"),  # pyright: ignore
        (lambda: datasets.pinwheel(10, jax.random.split(KEY)), "key must be one key"),
        (lambda: datasets.annulus(3, key=KEY), "n_points must be an integer of at least 4, got 3"),
        (lambda: datasets.annulus(8, key=KEY, dim=0), "dim must be an integer of at least 1"),
        (lambda: datasets.latent_spirals(True, key=KEY), "n_series must be an integer"),
        (lambda: datasets.latent_spirals(2, key=KEY, shown=101), "shown must be at most 100"),
        (lambda: datasets.latent_spirals(2, key=KEY, future=301), "integer from 0 to 300, got 301"),
        (lambda: datasets.periodic(2, key=KEY, shown=1), "shown must be an integer of at least 2"),
        (lambda: datasets.periodic(2, key=KEY, noise=-1.0), "noise must be"),
        (lambda: datasets.spiral_chirality(2, key=KEY, missing=1.0), "missing must be a share"),
        (lambda: datasets.japanese_vowels("all"), "no split called 'all'"),  # pyright: ignore
        (lambda: datasets.windows(np.arange(3), np.ones((3, 1)), 0), "length must be an integer"),
        (lambda: datasets.windows(np.arange(3), np.ones((3, 1)), 1, -1), "horizon must be"),
        (lambda: datasets.windows(np.arange(3), np.ones((3, 1)), 1, 0, 0.5), "stride must be"),  # pyright: ignore
        (lambda: datasets.cells(2, KEY, size=7), "size must be an integer of at least 8, got 7"),
        (lambda: datasets.cells(2, KEY, noise=-1.0), "noise must be"),
        (lambda: datasets.simulate("sri", key=KEY), "did you mean 'sir'"),
        (lambda: datasets.simulate("sir", key=KEY, betta=1.0), "did you mean 'beta'"),
        (lambda: datasets.simulate("sir", 2, key=KEY, beta=jnp.ones(3)), r"shape \(2,\)"),
        (lambda: datasets.simulate("sir", key=KEY, times=1), "times must be .* at least 2, got 1"),
        (lambda: datasets.simulate("sir", key=KEY, end=-1.0), "end must be a positive number"),
        (lambda: datasets.simulate("sir", key=KEY, noise=math.nan), "noise must be"),
        (lambda: datasets.simulate(3, key=KEY), "a name or a System"),  # pyright: ignore
    ],
)
def test_bad_input_is_refused_by_name(call: Callable, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        call()


def test_old_keys_do_as_well() -> None:
    x = jo.datasets.moons(5, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(x, datasets.moons(5, jax.random.key(0)))


def test_the_two_arms_of_the_spiral_are_opposite():
    points, labels = jo.datasets.Spiral(n_points=200, noise=0.0)()
    length = jnp.linalg.norm(points, axis=1)
    arm = jnp.stack([-jnp.cos(3 * length), jnp.sin(3 * length)], axis=1)
    side = jnp.sum(arm * points, axis=1) / length
    np.testing.assert_allclose(side, jnp.where(labels == 0, 1.0, -1.0), atol=1e-4)
