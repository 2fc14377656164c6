"""The figures: what they draw, on which Axes, and what they refuse."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex

import jaxode as jo
from jaxode.plotting.axes import COLOURS

X = np.array([[-1.0, 0.0], [-0.5, 1.0], [0.5, -1.0], [1.0, 0.5]])
Y = np.array([0, 0, 1, 1])


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def half_planes(x):
    return jnp.stack([-x[0], x[0]])


def rotation(t, y, args):
    return jnp.stack([-y[1], y[0]])


def scatters(ax):
    return [c for c in ax.collections if isinstance(c, PathCollection)]


def offsets(scatter):
    return np.asarray(scatter.get_offsets())


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# decision_boundary


def test_boundary_draws_points_and_regions(ax):
    assert jo.plotting.decision_boundary(half_planes, X, Y, ax, resolution=51) is ax
    drawn = np.concatenate([offsets(c) for c in scatters(ax)])
    np.testing.assert_allclose(drawn, X)
    assert legend(ax) == ["class 0", "class 1"]
    picture = ax.images[0].get_array()
    assert picture.shape[:2] == (51, 51)
    # The left half in the tint of class 0, the right in that of class 1, one row like another.
    np.testing.assert_allclose(picture[0, 0], picture[-1, 24])
    np.testing.assert_allclose(picture[0, -1], picture[-1, 26])
    assert not np.allclose(picture[0, 0], picture[0, -1])


def test_boundary_contour_lies_where_the_logits_are_equal(ax):
    jo.plotting.decision_boundary(half_planes, X, Y, ax, resolution=50)
    contours = [c for c in ax.collections if not isinstance(c, PathCollection)]
    vertices = np.concatenate([path.vertices for c in contours for path in c.get_paths()])
    np.testing.assert_allclose(vertices[:, 0], 0.0, atol=1e-6)


def test_boundary_limits_hold_the_points_and_the_margin(ax):
    jo.plotting.decision_boundary(half_planes, X, Y, ax, resolution=5, margin=0.5)
    np.testing.assert_allclose([ax.get_xlim(), ax.get_ylim()], [(-2, 2), (-2, 2)])


def test_boundary_of_a_batched_model(ax):
    model = jo.NeuralODE(lambda y: jnp.zeros_like(y), augment=1)
    jo.plotting.decision_boundary(model, X, Y, ax, resolution=10)
    picture = ax.images[0].get_array()
    # The logits are the coordinates: class 0 where the first is largest.
    assert not np.allclose(picture[0, -1], picture[-1, 0])


def test_boundary_makes_its_own_axes():
    ax = jo.plotting.decision_boundary(half_planes, X, Y, resolution=5)
    assert plt.gcf().axes == [ax]
    plt.close()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"X": X[:, 0]}, jo.DataError, r"X must have shape \(n, n\), got \(4,\)"),
        ({"X": X[:, :1]}, jo.DataError, "two features"),
        ({"X": np.zeros((4, 3))}, jo.DataError, r"shape \(n, 2\), got \(4, 3\)"),
        ({"X": np.zeros((0, 2))}, jo.DataError, "X must have shape"),
        ({"X": "points"}, jo.DataError, "numeric array, got str"),
        ({"X": np.where(X == 1, np.nan, X)}, jo.DataError, "finite"),
        ({"y": Y[:3]}, jo.DataError, r"integers of shape \(4,\)"),
        ({"y": Y - 1.0}, jo.DataError, "class numbers"),
        ({"y": Y - 1}, jo.DataError, "class numbers from 0"),
        ({"model": lambda x: x[0]}, jo.DataError, r"logits .* got \(25,\)"),
        ({"model": lambda x: half_planes(x) / 0}, jo.DataError, "logits are not finite at"),
        ({"model": None}, jo.FieldError, "callable"),
        ({"resolution": 1}, jo.OptionError, "integer of at least 2, got 1"),
        ({"margin": -0.1}, jo.OptionError, "margin"),
        ({"ax": "axes"}, jo.OptionError, "one matplotlib Axes or None, got str"),
    ],
)
def test_boundary_refuses(change, error, words, ax):
    given = {"model": half_planes, "X": X, "y": Y, "ax": ax, "resolution": 5} | change
    with pytest.raises(error, match=words):
        jo.plotting.decision_boundary(**given)


# flow


def test_flow_draws_each_path_from_input_to_output(ax):
    model = jo.NeuralODE(lambda y: y, rtol=1e-6)
    assert jo.plotting.flow(model, X, Y, ax=ax) is ax
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    paths = np.stack(lines.get_segments())
    assert paths.shape == (4, 40, 2)
    np.testing.assert_allclose(paths[:, 0], X, atol=1e-6)
    np.testing.assert_allclose(paths[:, -1], np.e * X, rtol=1e-3)
    start, end = scatters(ax)
    np.testing.assert_allclose(offsets(start), X, atol=1e-6)
    np.testing.assert_allclose(offsets(end), np.e * X, rtol=1e-3)
    assert [to_hex(c).upper() for c in np.asarray(end.get_facecolor())] == [COLOURS[k] for k in Y]
    assert legend(ax) == ["input", "output", "class 0", "class 1"]


def test_flow_of_an_augmented_model_at_given_times(ax):
    model = jo.NeuralODE(eqx.nn.MLP(4, 4, 8, 1, key=jax.random.key(0)), augment=2)
    jo.plotting.flow(model, X, times=np.array([0.0, 0.5, 1.0]), ax=ax)
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert np.stack(lines.get_segments()).shape == (4, 3, 2)
    assert legend(ax) == ["input", "output"]
    low, high = ax.get_xlim()
    assert low < X[:, 0].min() and high > X[:, 0].max()


def test_flow_refuses(ax):
    model = jo.NeuralODE(lambda y: y)
    with pytest.raises(jo.OptionError, match="must be a NeuralODE or a CNF, got function"):
        jo.plotting.flow(half_planes, X, ax=ax)  # pyright: ignore[reportArgumentType]
    with pytest.raises(jo.DataError, match="two features"):
        jo.plotting.flow(model, X[:, :1], ax=ax)
    with pytest.raises(jo.DataError, match="class numbers"):
        jo.plotting.flow(model, X, Y[:2], ax=ax)
    with pytest.raises(jo.TimesError):
        jo.plotting.flow(model, X, times=np.array([0.0, 1.0, 0.5]), ax=ax)


def test_flow_of_a_density_goes_from_the_base_to_the_data(ax):
    model = jo.nn.CNF(lambda y: -y, 2, rtol=1e-6)
    jo.plotting.flow(model, X, ax=ax)
    start, end = scatters(ax)
    np.testing.assert_allclose(offsets(start), X, atol=1e-6)
    np.testing.assert_allclose(offsets(end), X / np.e, rtol=1e-3)


# density


def log_normal(x):
    return -0.5 * np.sum(np.asarray(x) ** 2, -1) - np.log(2 * np.pi)


def test_density_draws_its_values_and_the_samples(ax):
    samples = np.array([[-4.0, -5.0], [4.0, 5.0], [0.0, 1.0]])
    assert jo.plotting.density(log_normal, samples, ax, resolution=41, margin=0.0) is ax
    np.testing.assert_allclose([ax.get_xlim(), ax.get_ylim()], [(-4, 4), (-5, 5)])
    np.testing.assert_allclose(offsets(scatters(ax)[0]), samples)
    picture = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(picture[20, 20], 1 / (2 * np.pi))
    np.testing.assert_allclose(picture.sum() * 8 * 10 / 40**2, 1.0, rtol=0.01)
    # Rows go upwards: the point (0, 1) of the plane lies 4 rows above the middle.
    np.testing.assert_allclose(picture[24, 20], np.exp(-0.5) / (2 * np.pi))


def test_density_of_a_model_between_given_limits(ax):
    model = jo.nn.CNF(lambda y: 0.0 * y, 2)
    jo.plotting.density(model, ax=ax, xlim=(-1, 1), ylim=(0, 2), resolution=3)
    assert not scatters(ax)
    picture = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(picture[0, 1], 1 / (2 * np.pi), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": lambda x: x}, jo.DataError, r"log densities of shape \(25,\)"),
        ({"model": lambda x: np.nan * x[:, 0]}, jo.DataError, "NaN at the point"),
        ({"model": 3}, jo.FieldError, "log_prob"),
        ({"X": X[:, :1]}, jo.DataError, r"shape \(n, 2\)"),
        ({"X": None}, jo.OptionError, r"needs xlim=\(low, high\)"),
        ({"xlim": (1, 0)}, jo.OptionError, "low < high"),
        ({"resolution": 1}, jo.OptionError, "integer of at least 2"),
    ],
)
def test_density_refuses(change, error, words, ax):
    given = {"model": log_normal, "X": X, "ax": ax, "resolution": 5} | change
    with pytest.raises(error, match=words):
        jo.plotting.density(**given)


# animate_flow


def test_animation_shows_each_point_at_each_time_and_goes_back(ax):
    model, times = jo.NeuralODE(lambda y: y, rtol=1e-6), np.array([0.0, 0.5, 1.0])
    animation = jo.plotting.animate_flow(model, X, Y, ax=ax, times=times, pause=1, back=True)
    (dots,) = scatters(ax)
    seen = []
    for _ in animation.new_frame_seq():
        animation._draw_next_frame(len(seen), False)  # pyright: ignore[reportAttributeAccessIssue]
        seen.append(offsets(dots)[-1, 0])
    np.testing.assert_allclose(seen, np.exp([0.0, 0.0, 0.5, 1.0, 1.0, 0.5]), rtol=1e-3)
    assert ax.get_xlim()[1] > np.e


def test_animation_is_saved_as_a_gif(tmp_path):
    from PIL import Image

    model, path = jo.nn.CNF(lambda y: -y, 2), tmp_path / "flow.gif"
    times = np.array([0.0, 0.5, 1.0])
    jo.plotting.animate_flow(model, X, path=path, times=times, pause=0, dpi=20, fps=10)
    plt.close("all")
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.size == (120, 120)
        assert image.n_frames == 3  # pyright: ignore[reportAttributeAccessIssue]
        assert image.info["duration"] == 100
        assert image.info["loop"] == 0


def test_animation_refuses(ax):
    model = jo.NeuralODE(lambda y: y)
    with pytest.raises(jo.OptionError, match="must be a NeuralODE or a CNF, got int"):
        jo.plotting.animate_flow(3, X, ax=ax)
    with pytest.raises(jo.OptionError, match=r"a file \*.gif, got 'flow.mp4'"):
        jo.plotting.animate_flow(model, X, path="flow.mp4", ax=ax)
    with pytest.raises(jo.OptionError, match="pause must be an integer"):
        jo.plotting.animate_flow(model, X, ax=ax, pause=-1)


# phase_portrait


def test_phase_portrait_follows_the_field(ax):
    assert jo.plotting.phase_portrait(rotation, (-2, 2), (-1, 1), ax=ax) is ax
    np.testing.assert_allclose([ax.get_xlim(), ax.get_ylim()], [(-2, 2), (-1, 1)])
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    segments = np.stack([s[[0, -1]] for s in lines.get_segments()])
    middle, way = segments.mean(1), segments[:, 1] - segments[:, 0]
    # Along circles: at a right angle to the radius.
    cosine = np.sum(middle * way, -1) / np.linalg.norm(middle, axis=-1)
    assert np.median(np.abs(cosine) / np.linalg.norm(way, axis=-1)) < 0.05


@pytest.mark.parametrize("field", [lambda y: -y, lambda t, y: -y, lambda t, y, args: -y])
def test_phase_portrait_takes_fields_of_any_arity(field, ax):
    jo.plotting.phase_portrait(field, (-1, 1), (-1, 1), ax=ax, resolution=10)


def test_phase_portrait_draws_trajectories(ax):
    curves = {"one": X, "two": X[::-1]}
    jo.plotting.phase_portrait(rotation, (-2, 2), (-2, 2), curves, ax, resolution=10)
    assert legend(ax) == ["one", "two"]
    first, start = ax.lines[:2]
    np.testing.assert_allclose(first.get_xydata(), X)
    np.testing.assert_allclose(start.get_xydata(), X[:1])
    assert first.get_color() != ax.lines[2].get_color()


def test_phase_portrait_draws_unnamed_trajectories(ax):
    jo.plotting.phase_portrait(rotation, (-2, 2), (-2, 2), [X], ax, resolution=10)
    assert ax.get_legend() is None and len(ax.lines) == 2


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"xlim": (1, -1)}, jo.OptionError, "xlim must be finite with low < high"),
        ({"ylim": 3}, jo.OptionError, r"ylim must be a pair \(low, high\)"),
        ({"trajectories": X}, jo.DataError, r"trajectory .* shape \(n, 2\), got \(2,\)"),
        ({"trajectories": [X.T]}, jo.DataError, r"got \(2, 4\)"),
        ({"trajectories": 3}, jo.DataError, "sequence of arrays or a dict of them, got int"),
        ({"field": lambda y: y[0]}, jo.FieldError, r"return shape \(2,\) .* got \(\)"),
        ({"field": 3}, jo.FieldError, "callable"),
        ({"resolution": 2.5}, jo.OptionError, "resolution"),
    ],
)
def test_phase_portrait_refuses(change, error, words, ax):
    given = {"field": rotation, "xlim": (-1, 1), "ylim": (-1, 1), "ax": ax} | change
    with pytest.raises(error, match=words):
        jo.plotting.phase_portrait(**given)


# forecast

TS = np.arange(6.0)
CURVE = (np.linspace(0, 5, 11), np.linspace(0, 10, 11))


def test_forecast_parts_the_curve_and_the_points_at_the_split(ax):
    baselines = {"last value": (TS[3:], np.full(3, 6.0))}
    assert jo.plotting.forecast(TS, 2 * TS, CURVE, 3.0, baselines, ax, label="ours") is ax
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    assert lines["ours, fitted"][:, 0].max() == 3 == lines["ours, forecast"][:, 0].min()
    np.testing.assert_allclose(lines["last value"], np.stack([TS[3:], np.full(3, 6.0)], -1))
    seen, held = (offsets(c) for c in scatters(ax))
    np.testing.assert_allclose(seen, np.stack([TS[:4], 2 * TS[:4]], -1))
    np.testing.assert_allclose(held, np.stack([TS[4:], 2 * TS[4:]], -1))
    (shade,) = ax.patches
    assert shade.get_extents().transformed(ax.transData.inverted()).intervalx == pytest.approx(
        [3, 5]
    )
    wanted = ["last value", "ours, fitted", "ours, forecast", "data, fitted", "data, held out"]
    assert legend(ax) == wanted


def test_forecast_draws_what_is_given_alone(ax):
    late = TS[3:], 2 * TS[3:]
    jo.plotting.forecast(TS, 2 * TS, late, 3.0, ax=ax)
    assert legend(ax) == ["model, forecast", "data, fitted", "data, held out"]
    ax.clear()
    jo.plotting.forecast(TS, 2 * TS, (TS[:4], TS[:4]), 3.0, ax=ax)
    assert legend(ax) == ["model, fitted", "data, fitted", "data, held out"]
    ax.clear()
    jo.plotting.forecast(TS, 2 * TS, split=3.0, ax=ax)
    assert legend(ax) == ["data, fitted", "data, held out"] and not ax.lines
    ax.clear()
    jo.plotting.forecast(TS, 2 * TS, CURVE, ax=ax)
    assert legend(ax) == ["model", "data"] and not ax.patches
    ax.clear()
    jo.plotting.forecast(TS, 2 * TS, CURVE, 2.8, ax=ax)  # between two points of the curve
    fitted, ahead = (line.get_xydata() for line in ax.lines)
    np.testing.assert_allclose([fitted[-1], ahead[0]], [[2.8, 5.6]] * 2)


def test_forecast_has_a_panel_for_each_channel():
    truth = np.stack([TS, 2 * TS, 3 * TS], -1)
    curve = CURVE[0], np.stack([CURVE[0], CURVE[0] + 1, CURVE[0] + 2], -1)
    panels = jo.plotting.forecast(TS, truth, curve, 3.0, {"same": curve})
    assert [ax.get_ylabel() for ax in panels] == ["$y_{1}$", "$y_{2}$", "$y_{3}$"]
    assert [ax.get_xlabel() for ax in panels] == ["", "", "$t$"]
    for i, ax in enumerate(panels):
        drawn = np.concatenate([offsets(c) for c in scatters(ax)])
        np.testing.assert_allclose(drawn, np.stack([TS, truth[:, i]], -1))
        np.testing.assert_allclose(ax.lines[0].get_ydata(), curve[1][:, i])
    assert len(legend(panels[0])) == 5 and panels[1].get_legend() is None
    again = jo.plotting.forecast(TS, truth, curve, 3.0, ax=panels)
    assert list(again) == list(panels)
    with pytest.raises(jo.OptionError, match="ax must be 3 Axes, one for each channel, got 2"):
        jo.plotting.forecast(TS, truth, curve, 3.0, ax=panels[:2])
    with pytest.raises(jo.DataError, match=r"values of prediction must have shape \(11, 3\)"):
        jo.plotting.forecast(TS, truth, CURVE, 3.0)
    plt.close(panels[0].figure)


def band_of(ax):
    """The polygon that is shaded around a curve: its corners, and its name."""
    (band,) = [c for c in ax.collections if isinstance(c, PolyCollection) and c.get_label()]
    return np.asarray(band.get_paths()[0].vertices), band.get_label()


def test_forecast_shades_a_band_between_two_curves(ax):
    times, values = CURVE
    jo.plotting.forecast(TS, 2 * TS, CURVE, 3.0, ax=ax, band=(values - 1, values + 2), label="ours")
    corners, name = band_of(ax)
    assert name == "ours, band" and name in legend(ax)
    for t, y in zip(times, values, strict=True):
        heights = corners[np.isclose(corners[:, 0], t), 1]
        assert (heights.min(), heights.max()) == pytest.approx((y - 1, y + 2))


def test_forecast_shades_the_quantiles_of_samples(ax):
    samples = CURVE[1] + np.linspace(-1, 1, 101)[:, None]
    jo.plotting.forecast(TS, 2 * TS, CURVE, 3.0, ax=ax, band=samples, quantiles=(0.1, 0.9))
    corners, name = band_of(ax)
    assert name == "model, 80 % of samples"
    at_five = corners[corners[:, 0] == 5, 1]
    assert (at_five.min(), at_five.max()) == pytest.approx((10 - 0.8, 10 + 0.8))


def test_forecast_has_a_band_for_each_channel():
    values = np.stack([CURVE[1], -CURVE[1]], -1)
    samples = values + np.linspace(-1, 1, 5)[:, None, None]
    truth = np.stack([TS, TS], -1)
    panels = jo.plotting.forecast(TS, truth, (CURVE[0], values), band=samples)
    for sign, ax in zip((1, -1), panels, strict=True):
        assert band_of(ax)[0][:, 1].max() == pytest.approx((10 if sign > 0 else 0) + 0.9)
    plt.close(panels[0].figure)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"band": CURVE[1]}, jo.DataError, r"band must have shape \(n, 11\), got \(11,\)"),
        ({"band": np.stack([CURVE[1]] * 2)}, jo.DataError, "band has 2 samples"),
        ({"band": (CURVE[1], CURVE[1] - 1)}, jo.DataError, "lower edge of band lies above"),
        ({"band": (CURVE[1], CURVE[1][1:])}, jo.DataError, "the upper edge of band must have"),
        ({"band": [CURVE[1]] * 3}, jo.OptionError, r"band must be a pair \(lower, upper\)"),
        ({"prediction": None, "band": CURVE}, jo.OptionError, "there is none"),
        ({"quantiles": (0.9, 0.1)}, jo.OptionError, "0 <= low < high <= 1"),
        ({"truth": TS[:3]}, jo.DataError, r"truth must have shape \(6\), got \(3,\)"),
        ({"ts": TS[:, None]}, jo.DataError, r"ts must have shape \(n\)"),
        ({"prediction": TS}, jo.OptionError, r"prediction must be a pair \(times, values\)"),
        ({"prediction": (TS, TS[1:])}, jo.DataError, "values of prediction"),
        ({"baselines": {"b": (TS, 1.0)}}, jo.DataError, "values of b"),
        ({"split": 5.0}, jo.OptionError, "split must lie in ts, from 0 to 5, got 5"),
        ({"split": "x"}, jo.OptionError, "split must be a number"),
        ({"ax": np.array([1])}, jo.OptionError, "one matplotlib Axes"),
    ],
)
def test_forecast_refuses(change, error, words, ax):
    given = {"ts": TS, "truth": 2 * TS, "prediction": CURVE, "split": 3.0, "ax": ax} | change
    with pytest.raises(error, match=words):
        jo.plotting.forecast(**given)


# matplotlib itself


def test_jaxode_does_not_import_matplotlib():
    code = "import sys, jaxode; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(jo.OptionError, match=r'pip install "jaxode\[plot\]"'):
        jo.plotting.decision_boundary(half_planes, X, Y)
