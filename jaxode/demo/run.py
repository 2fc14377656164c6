"""The whole demo: train, measure, print and draw."""

import dataclasses
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ..plotting.axes import require_matplotlib
from ..plotting.figure import new_figure, save_png
from ..problem.errors import OptionError
from .figures import NAMES, draw_boundary, draw_flow, draw_forecast, draw_phase
from .lotka_volterra import LotkaVolterra, fit_lotka_volterra
from .pelts import FITTED, LogScale, Pelts, forecast_error, load_pelts, persistence
from .population import Population, count_field, fit_population
from .report import MODEL, format_errors, format_fits, verdict
from .spiral import SpiralFit, fit_spiral


@dataclasses.dataclass(frozen=True)
class Effort:
    """The number of optimiser steps of each fit."""

    spiral: int
    windows: int
    series: int
    lotka_volterra: int


FULL = Effort(spiral=300, windows=300, series=500, lotka_volterra=600)
QUICK = Effort(spiral=3, windows=3, series=3, lotka_volterra=3)


@dataclasses.dataclass(frozen=True)
class PeltFits:
    """The two models fitted to the pelts, and the scale of the neural ODE."""

    pelts: Pelts
    scale: LogScale
    population: Population
    lotka_volterra: LotkaVolterra

    def curves(self, ts: np.ndarray) -> dict[str, np.ndarray]:
        """The counts of both models at years `ts` since the first, each of shape (len(ts), 2)."""
        times = jnp.asarray(ts)
        neural_ode = self.scale.decode(self.population(times).ys)
        lotka_volterra = jnp.exp(self.lotka_volterra(times).ys)
        return {MODEL: np.asarray(neural_ode), "Lotka-Volterra": np.asarray(lotka_volterra)}


def run(
    out: str | Path = "demo", effort: Effort = FULL, progress: bool | None = None
) -> list[Path]:
    """Train both models, print the table, and write four PNGs into the folder `out`.

    **Arguments:** `effort`: `FULL` or `QUICK`, which only shows that everything runs. `progress`:
    show bars; by default if tqdm is installed.

    **Returns:** the paths of the PNGs.

    **Raises:** `OptionError` if matplotlib is missing, or `out` is a file.
    """
    start = time.perf_counter()
    folder = _make_folder(out)
    spiral = fit_spiral(effort.spiral, progress)
    pelts = load_pelts()
    population, logs = fit_population(pelts.fitted, effort.windows, effort.series, progress)
    lotka_volterra, lotka_volterra_log = fit_lotka_volterra(
        pelts.fitted, effort.lotka_volterra, progress
    )
    fits = PeltFits(pelts, LogScale.of(pelts.fitted.counts), population, lotka_volterra)
    named_logs = {
        "spiral": spiral.log,
        "pelts, windows of 3 years": logs[0],
        "pelts, whole series": logs[1],
        "pelts, Lotka-Volterra": lotka_volterra_log,
    }
    print(f"\nheld-out accuracy on the spiral: {spiral.accuracy:.1%} of {len(spiral.y)} points\n")
    errors = _forecast_errors(fits)
    print(format_errors(errors), verdict(errors), format_fits(named_logs), sep="\n\n", end="\n\n")
    paths = _draw_figures(folder, spiral, fits)
    for path in paths:
        print(f"wrote {path}")
    print(f"{time.perf_counter() - start:.0f} seconds in all")
    return paths


def _make_folder(out: str | Path) -> Path:
    # Checked before the training, so that a mistake shows at once.
    require_matplotlib()
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OptionError(f"--out must be a folder, but {folder} is a file") from error
    return folder


def _forecast_errors(fits: PeltFits) -> dict[str, np.ndarray]:
    forecasts = {name: ys[FITTED:] for name, ys in fits.curves(np.asarray(fits.pelts.ts)).items()}
    neural_ode = forecasts.pop(MODEL)
    forecasts = {MODEL: neural_ode, "persistence": persistence(fits.pelts), **forecasts}
    return {name: forecast_error(fits.pelts, ys) for name, ys in forecasts.items()}


def _draw_figures(folder: Path, spiral: SpiralFit, fits: PeltFits) -> list[Path]:
    years, counts = np.asarray(fits.pelts.years), np.asarray(fits.pelts.counts)
    ts = np.linspace(0, len(years) - 1, 401)
    curves = {name: (years[0] + ts, ys) for name, ys in fits.curves(ts).items()}
    held_out_years = years[FITTED - 1 :]
    last_fitted = np.repeat(counts[FITTED - 1 : FITTED], len(held_out_years), axis=0)
    baselines = {
        "persistence": (held_out_years, last_fitted),
        "Lotka-Volterra": curves["Lotka-Volterra"],
    }
    sizes = ((6.4, 6.0), (6.8, 6.0), (7.2, 5.6), (7.6, 7.0))
    figures = [new_figure(size) for size in sizes]
    draw_boundary(figures[0], spiral)
    draw_flow(figures[1], spiral)
    draw_phase(figures[2], count_field(fits.population, fits.scale), counts, curves)
    draw_forecast(figures[3], years, counts, curves[MODEL], baselines)
    return [save_png(figure, folder, name) for figure, name in zip(figures, NAMES, strict=True)]
