"""The demo in its quick form, its numbers and figures, and the command line."""

import matplotlib

matplotlib.use("Agg")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode import demo
from jaxode.__main__ import info, main
from jaxode.demo import lotka_volterra, pelts, population, report
from jaxode.solvers.registry import SOLVERS

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_quick_demo_prints_its_figures_and_writes_four_pngs(tmp_path, capsys):
    paths = demo.run(tmp_path / "out", demo.QUICK, progress=False)
    printed = capsys.readouterr().out
    assert len(paths) == 4 and len(set(paths)) == 4
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(PNG) and len(data) > 10_000
        assert f"wrote {path}" in printed
    for words in (
        "held-out accuracy",
        "forecast RMSE, 1915-1920, thousand pelts",
        "persistence",
        "evaluations per solve",
        "rejected steps per solve",
        "ms per step",
        "compile s",
        "seconds in all",
    ):
        assert words in printed
    # The error of repeating 1914 can be worked out by hand from the table of counts.
    (line,) = [line for line in printed.splitlines() if line.startswith("persistence")]
    assert line.split()[1:] == ["37.1", "29.2"]


def test_demo_refuses_a_file_as_its_folder(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert main(["demo", "--quick", "--out", str(tmp_path / "taken")]) == 1
    assert "--out must be a folder" in capsys.readouterr().err


def test_models_see_the_first_fifteen_years_only():
    record = pelts.load_pelts()
    assert int(record.fitted.years[-1]) == 1914
    assert record.fitted.counts.shape == (15, 2)
    np.testing.assert_allclose(record.fitted.counts, record.counts[:15])


def test_log_scale_standardises_and_comes_back():
    counts = pelts.load_pelts().fitted.counts
    scale = pelts.LogScale.of(counts)
    z = scale.encode(counts)
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(scale.decode(z), counts, rtol=1e-5)


def test_windows_are_runs_of_successive_years():
    ts, z = jnp.arange(5.0), jnp.arange(10.0).reshape(5, 2)
    times, runs = population.windows(ts, z, 3)
    np.testing.assert_allclose(times, [[0, 1, 2, 3]] * 2)
    np.testing.assert_allclose(runs, np.stack([z[:4], z[1:]]))


def test_lotka_volterra_rests_at_the_mean_of_the_counts():
    counts = pelts.load_pelts().fitted.counts
    guess = lotka_volterra.textbook_guess(counts)
    slope = lotka_volterra.log_growth(
        jnp.array(0.0), jnp.log(counts.mean(0)), jnp.exp(guess.log_rates)
    )
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


def test_forecast_error_is_zero_for_the_truth():
    record = pelts.load_pelts()
    np.testing.assert_allclose(pelts.forecast_error(record, record.counts[15:]), 0.0)
    np.testing.assert_allclose(
        pelts.forecast_error(record, record.counts[15:] + jnp.array([3.0, -2.0])), [3, 2], rtol=1e-5
    )


def test_verdict_says_plainly_what_was_not_beaten():
    errors = {
        "neural ODE": np.array([2.0, 5.0]),
        "persistence": np.array([9.0, 9.0]),
        "mixed": np.array([3.0, 4.0]),
        "better": np.array([1.0, 1.0]),
    }
    assert report.verdict(errors).splitlines() == [
        "The neural ODE beats persistence on hare and lynx.",
        "The neural ODE beats mixed on hare, but does NOT beat mixed on lynx.",
        "The neural ODE does NOT beat better on hare or lynx.",
    ]


def test_table_is_aligned():
    lines = report.format_table(["name", "value"], [["a", "1.0"], ["longer", "100.0"]]).splitlines()
    assert lines == ["name    value", "------  -----", "a         1.0", "longer  100.0"]


def test_info_names_versions_devices_and_solvers(capsys):
    assert main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["jaxode"] == jo.__version__
    for name in ("python", "jax", "jaxlib", "equinox", "optax", "devices"):
        assert lines[name]
    assert set(lines["solvers"].split(", ")) == set(SOLVERS)
    assert info().startswith("jaxode")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dmeo"], "there is no command called 'dmeo'; did you mean 'demo'?"),
        (["xyz"], "known: demo, info"),
        ([], "required: demo|info"),
        (["demo", "--outt"], "--outt"),
        (["info", "more"], "unrecognized arguments: more"),
    ],
)
def test_misuse_of_the_command_line_is_explained(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_matplotlib_is_said_before_the_training(monkeypatch, tmp_path, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "jaxode[plot]" in capsys.readouterr().err


def test_the_field_of_counts_is_the_derivative_of_the_decoded_flow():
    scale = pelts.LogScale(jnp.array([2.0, 3.0]), jnp.array([0.5, 0.8]))
    model = population.Population(jo.NeuralODE(lambda z: jnp.sin(z[::-1])), jnp.zeros(2))
    z = jnp.array([0.3, -0.6])
    slope = jax.jvp(scale.decode, (z,), (jnp.sin(z[::-1]),))[1]
    np.testing.assert_allclose(population.count_field(model, scale)(scale.decode(z)), slope)
