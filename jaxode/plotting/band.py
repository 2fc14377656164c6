"""The band around a forecast: between two curves, or between quantiles of samples."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from ..problem.errors import DataError, OptionError
from ..problem.validation import check_pair, shown_value
from .axes import COLOURS
from .checks import check_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Band = ArrayLike | tuple[ArrayLike, ArrayLike]
Edges = tuple[np.ndarray, np.ndarray]


def check_band(band: Any, quantiles: Any, values: np.ndarray | None) -> tuple[Edges | None, str]:
    """The lower and the upper edge, of the shape of `values`, and what the legend calls them.

    **Raises:** `DataError` and `OptionError`.
    """
    low, high = check_pair("quantiles", "a pair (low, high) of shares", quantiles)
    if not 0 <= low < high <= 1:
        raise OptionError(f"quantiles must be 0 <= low < high <= 1, got {shown_value(quantiles)}")
    if band is None:
        return None, ""
    if values is None:
        raise OptionError("a band lies around a prediction, and there is none")
    if isinstance(band, tuple | list):
        if len(band) != 2:
            raise OptionError(f"band must be a pair (lower, upper), or an array, got {len(band)}")
        names = "the lower edge of band", "the upper edge of band"
        lower, upper = map(check_array, names, band, (values.shape, values.shape))
        if (lower > upper).any():
            raise DataError("the lower edge of band lies above the upper one")
        return (lower, upper), "band"
    samples = check_array("band", band, (None, *values.shape))
    if len(samples) < 3:
        raise DataError(
            f"band has {len(samples)} samples, of which quantiles say nothing; two curves are a "
            "tuple (lower, upper)"
        )
    lower, upper = np.quantile(samples, (low, high), axis=0)
    return (lower, upper), f"{100 * (high - low):.3g} % of samples"


def draw_band(ax: "Axes", ts: np.ndarray, lower: np.ndarray, upper: np.ndarray, label: str) -> None:
    """Shade what lies between two curves, behind all lines."""
    ax.fill_between(
        ts, lower, upper, color=COLOURS[0], alpha=0.22, linewidth=0, zorder=1.5, label=label
    )
