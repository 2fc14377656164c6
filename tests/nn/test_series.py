"""Irregular series: made rectangular, and bad ones refused with the sample they are about."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.nn.series import prepare_series

TS = np.array([[0.0, 1.0, 2.0], [0.5, 0.75, 3.0]])
XS = np.arange(12.0).reshape(2, 3, 2)


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def test_missing_values_are_zero_and_masked():
    series = prepare_series(TS, changed(XS, (1, 2, 0), np.nan))
    assert not series.mask[1, 2, 0]
    assert int(series.mask.sum()) == 11
    assert series.xs[1, 2, 0] == 0.0
    np.testing.assert_array_equal(series.xs[0], XS[0])


def test_behind_its_length_a_sample_stays_at_its_last_time():
    times = changed(TS, (0, 2), np.nan)
    series = prepare_series(times, changed(XS, (0, 2), np.nan), lengths=np.array([2, 3]))
    np.testing.assert_array_equal(series.ts, [[0.0, 1.0, 1.0], [0.5, 0.75, 3.0]])
    np.testing.assert_array_equal(series.mask[..., 0], [[True, True, False], [True, True, True]])


def test_one_mask_for_all_channels_and_times_for_all_samples():
    mask = np.array([[True, False, True], [True, True, True]])
    series = prepare_series(TS[0], XS, mask=mask)
    np.testing.assert_array_equal(series.ts, [TS[0], TS[0]])
    np.testing.assert_array_equal(series.mask, np.stack([mask, mask], -1))
    assert series.xs.dtype == jnp.float64


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"mask": np.ones((2, 3), bool), "xs": changed(XS, (1, 0, 1), np.nan)}, jo.DataError,
         "sample 1 has nan at place 0, channel 1"),
        ({"xs": changed(XS, (0, 1, 0), np.inf)}, jo.DataError, "sample 0 has inf"),
        ({"ts": changed(TS, (1, 1), 0.1)}, jo.TimesError, "times of sample 1"),
        ({"ts": changed(TS, (0, 1), np.nan)}, jo.TimesError, "times of sample 0"),
        ({"xs": XS[:, :1], "ts": TS[:, :1]}, jo.DataError, "at least 2 points"),
        ({"xs": XS[:, :0], "ts": TS[:, :0]}, jo.DataError, "at least 2 points"),
        ({"lengths": np.array([3, 1])}, jo.DataError, "sample 1 has 1"),
        ({"lengths": np.array([3, 3, 3])}, jo.DataError, "lengths must have shape"),
        ({"ts": TS[:, :2]}, jo.DataError, "as many times as xs has places"),
        ({"xs": XS[0]}, jo.DataError, "shape .batch, n, channels."),
        ({"mask": np.ones((2, 2))}, jo.DataError, "mask must have shape"),
        ({"xs": np.full_like(XS, np.nan)}, jo.DataError, "sample 0 has no observation"),
    ],
)  # fmt: skip
def test_bad_series_are_refused(changes, error, match):
    with pytest.raises(error, match=match):
        prepare_series(**{"ts": TS, "xs": XS, **changes})
