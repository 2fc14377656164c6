"""The simulated shop and customers: their means against closed forms, and bad input."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from jaxode import datasets
from jaxode.problem.errors import OptionError

KEY = jax.random.key(0)


@functools.cache
def year() -> Any:
    return jax.tree.map(np.asarray, datasets.shop(key=KEY))


def expected_demand(t: Any) -> Any:
    """Customers up to the time `t`, at the default rates."""
    phase = 2 * np.pi / 365
    return 240 * (t + 0.5 / phase * (np.sin(phase * (t - 180)) + np.sin(phase * 180)))


def test_the_pieces_of_a_shop_add_up() -> None:
    log = year()
    assert isinstance(log, datasets.ShopLog)
    assert [x.shape for x in log[4:]] == [(366,), (365,), (365,)]
    assert all(x.dtype == jnp.result_type(float) for x in log)
    delivered = 3000 * np.histogram(log.deliveries, np.arange(366))[0]
    customers = log.stock[:-1] + delivered - log.stock[1:] + log.lost
    assert np.all(customers >= 0)
    # A Poisson process of 87,600 customers: four standard deviations.
    assert abs(customers.sum() - 87_600) < 4 * 87_600**0.5
    seen, mean = np.cumsum(customers), expected_demand(np.arange(1.0, 366.0))
    assert np.max(np.abs(seen - mean)) < 4 * 87_600**0.5


def test_a_shop_orders_at_the_reorder_point_and_is_supplied_after_the_lead_time() -> None:
    log = year()
    assert np.all(log.order_stock == 1700)  # one piece at a time
    leads = log.deliveries - log.orders[: log.deliveries.size]
    assert abs(leads.mean() - 6.0) < 4 * 0.2 / leads.size**0.5
    assert 0.1 < leads.std() < 0.3
    assert np.all(log.orders[1:] > log.deliveries[: log.orders.size - 1])
    # What is left at a delivery is the reorder point without the sales of the lead time.
    sold = expected_demand(log.deliveries) - expected_demand(log.orders[: log.deliveries.size])
    left = np.maximum(1700 - sold, 0.0)
    assert np.max(np.abs(log.delivery_stock - left)) < 4 * 2160**0.5


def test_sales_are_lost_while_the_shelf_is_empty() -> None:
    log = year()
    assert np.all((log.empty >= 0) & (log.empty <= 1))
    assert np.all(log.lost[log.empty == 0] == 0)
    assert log.empty.sum() > 5
    # Customers come while it is empty at the seasonal rate.
    rate = np.diff(expected_demand(np.arange(366.0)))
    lost = (rate * log.empty).sum()
    assert abs(log.lost.sum() - lost) < 4 * lost**0.5


def test_a_shop_that_is_never_supplied_stays_empty() -> None:
    log = datasets.shop(10, key=KEY, lead=100.0, lead_spread=0.0, start=1200.0, season=0.0)
    assert log.orders.tolist() == [0.0]
    assert log.order_stock.tolist() == [1200.0]
    assert log.deliveries.size == 0
    assert 3 < float(log.empty.sum()) < 7
    assert abs(float(log.empty[-1]) - 1.0) < 1e-5


def test_data_are_the_keys_alone() -> None:
    for draw in (lambda key: datasets.shop(20, key=key), lambda key: datasets.visits(20, key=key)):
        first, again, other = draw(KEY), draw(KEY), draw(jax.random.PRNGKey(1))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@functools.cache
def customers() -> Any:
    return jax.tree.map(np.asarray, datasets.visits(4000, key=KEY))


GENERATOR = np.array([[-1 / 90 - 1 / 400, 1 / 90, 1 / 400], [1 / 120, -11 / 600, 1 / 100], [0] * 3])


def test_visits_are_padded_and_in_order() -> None:
    found = customers()
    assert isinstance(found, datasets.Visits)
    n, most = found.ts.shape
    within = np.arange(most) < found.lengths[:, None]
    assert n == 4000
    assert most == found.lengths.max()
    assert np.all((found.ts == 730) == ~within)
    assert np.all((found.states >= 0) == within)
    assert np.all(found.ts[:, 0] == 0)
    assert np.all(found.ts[within] < 365)
    assert np.all(np.diff(found.ts, axis=1) >= 0)
    assert not np.any(found.states == 2)  # who is lost does not come


def test_customers_change_their_state_at_the_rates_of_the_chain() -> None:
    share = expm(365 * GENERATOR)[0]
    found = np.bincount(customers().last, minlength=3) / 4000
    assert np.max(np.abs(found - share)) < 4 * 0.5 / 4000**0.5


def test_customers_come_at_the_rates_of_their_states() -> None:
    # The integral of the share of each state over the year, by one more row of the exponential.
    for state, rate in enumerate((1 / 7, 1 / 40)):
        grown = np.zeros((4, 4))
        grown[:3, :3], grown[state, 3] = GENERATOR, rate
        expected = expm(365 * grown)[0, 3]
        counts = (customers().states[:, 1:] == state).sum(1)
        assert abs(counts.mean() - expected) < 4 * counts.std() / 4000**0.5


def test_one_state_is_a_poisson_process() -> None:
    found = datasets.visits(2000, key=KEY, days=30.0, changes=[[5.0]], rates=[0.5])
    counts = np.asarray(found.lengths) - 1
    assert abs(counts.mean() - 15) < 4 * (15 / 2000) ** 0.5
    assert abs(counts.var() - 15) < 2.5
    assert np.all(np.asarray(found.last) == 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"days": 0}, "days must be an integer"),
        ({"key": 0}, "key must be one key"),
        ({"demand": 0.0}, "demand must be a positive number"),
        ({"quantity": -1}, "quantity must be a positive number"),
        ({"start": np.nan}, "start must be a positive number"),
        ({"reorder": -1}, "reorder must be a number that is not negative"),
        ({"lead": -1}, "lead must be a number that is not negative"),
        ({"season": 1.1}, "season must be a share"),
        ({"peak": np.inf}, "peak must be a day"),
    ],
)
def test_bad_shops_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        datasets.shop(**{"key": KEY, **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, "n must be an integer"),
        ({"key": None}, "key must be one key"),
        ({"days": 0.0}, "days must be a positive number"),
        ({"rates": [1.0, -1.0, 0.0]}, "rates must be an array of 1 axes"),
        ({"rates": "often"}, "rates must hold real numbers"),
        ({"changes": [1.0]}, "changes must be an array of 2 axes"),
        ({"rates": [1.0, 2.0]}, r"changes must have shape \(2, 2\)"),
    ],
)
def test_bad_visits_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        datasets.visits(**{"key": KEY, **wrong})
