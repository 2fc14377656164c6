"""A shop that reorders: customers one by one, orders with a lead time, sales lost when it is empty.

Plain NumPy, event by event, without the solvers of this package: data to recover parameters from.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from ..problem.errors import OptionError
from ..problem.validation import (
    check_count,
    check_key,
    check_level,
    check_positive,
    real_number,
    shown_value,
)

YEAR = 365.0
MOST_CUSTOMERS = 1e8  # each is an event: more take minutes and gigabytes


class ShopLog(NamedTuple):
    """What `shop` returns: the log of the stock room, and the days of the shop. Times in days.

    - `orders`: when an order was placed, shape `(orders,)`; `order_stock`: the pieces in stock at
      that time.
    - `deliveries`: when the goods came, shape `(deliveries,)`; `delivery_stock`: the pieces in
      stock just before. An order that is still on its way at the end has no delivery.
    - `stock`: the pieces at the beginning of each day and at the end of the last, `(days + 1,)`.
    - `empty`: the share of each day with nothing on the shelf, `(days,)`.
    - `lost`: the customers of each day who found it empty, `(days,)`.
    """

    orders: Float[Array, " orders"]
    order_stock: Float[Array, " orders"]
    deliveries: Float[Array, " deliveries"]
    delivery_stock: Float[Array, " deliveries"]
    stock: Float[Array, " days_and_end"]
    empty: Float[Array, " days"]
    lost: Float[Array, " days"]


def shop(
    days: int = 365,
    *,
    key: Array,
    demand: float = 240.0,
    season: float = 0.5,
    peak: float = 180.0,
    reorder: float = 1700.0,
    quantity: float = 3000.0,
    lead: float = 6.0,
    lead_spread: float = 0.2,
    start: float = 4000.0,
) -> ShopLog:
    """Simulate the stock of one article in a shop with a reorder point and a lead time.

    Customers come at random, one by one, at the rate `demand * (1 + season * cos(2 pi (t - peak) /
    365))` per day, and each buys one piece; who finds the shelf empty leaves, and the sale is lost.
    When the stock is at or below `reorder` and nothing is on its way, `quantity` pieces are
    ordered, which come after the lead time. This is the `(s, Q)` policy of the textbooks.

    **Arguments:**

    - `days`: how many. `key`: of `jax.random`. Same key, same data.
    - `demand`: the mean rate of customers per day over a year. `season`: its swing, 0 to 1. `peak`:
      the day on which most customers come.
    - `reorder`: the reorder point, `quantity`: of an order, `start`: the stock at first, in pieces.
    - `lead`: the mean lead time in days; each is normal about it with the deviation `lead_spread`,
      and at least zero.

    **Returns:** a `ShopLog`.

    **Raises:** `OptionError` for counts, rates and times that are not positive, and a `season` that
    is no share.

    Source: G. Hadley and T. M. Whitin, Analysis of Inventory Systems (1963), chapter 4.
    """
    check_count("days", days)
    check_key(key)
    for name, value in {"demand": demand, "quantity": quantity, "start": start}.items():
        check_positive(name, value, none=False)
    for name, value in {"reorder": reorder, "lead": lead, "lead_spread": lead_spread}.items():
        check_level(name, value)
    if not 0 <= real_number(season) <= 1:
        raise OptionError(f"season must be a share from 0 to 1, got {shown_value(season)}")
    if not math.isfinite(real_number(peak)):
        raise OptionError(f"peak must be a day, got {shown_value(peak)}")
    rng = numpy_generator(key)
    if days * demand * (1 + season) > MOST_CUSTOMERS:
        raise OptionError(f"days times demand may be {MOST_CUSTOMERS:.0e}, got {days} and {demand}")
    customers = _customers(rng, days, demand, season, peak)
    leads = np.maximum(rng.normal(lead, lead_spread, 2 + customers.size), 0.0)
    room = _StockRoom(start, reorder, quantity, map(float, leads))
    for t in customers.tolist():
        room.deliver_until(t)
        room.serve(t)
    room.deliver_until(days)
    return _as_log(room, days)


def numpy_generator(key: Array) -> np.random.Generator:
    """A generator of NumPy that a key of `jax.random` seeds."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key) if typed else key))


def _customers(
    rng: np.random.Generator, days: int, demand: float, season: float, peak: float
) -> np.ndarray:
    """The times of a Poisson process with the seasonal rate, by thinning one with the highest."""
    most = demand * (1 + season)
    times = np.sort(rng.uniform(0.0, days, rng.poisson(most * days)))
    rate = demand * (1 + season * np.cos(2 * np.pi * (times - peak) / YEAR))
    return times[rng.uniform(0.0, most, times.size) < rate]


class _StockRoom:
    """The stock and what is on its way, with a log of what happened."""

    def __init__(self, start: float, reorder: float, quantity: float, leads: Iterator[float]):
        self.level, self.reorder, self.quantity, self.leads = start, reorder, quantity, leads
        self.due = math.inf  # when the order on its way comes
        self.orders, self.deliveries = [], []  # pairs of the time and the stock
        self.changes, self.lost = [(0.0, start)], []
        self.order_if_low(0.0)

    def order_if_low(self, t: float) -> None:
        if self.level <= self.reorder and self.due == math.inf:
            self.orders.append((t, self.level))
            self.due = t + next(self.leads)

    def deliver_until(self, end: float) -> None:
        while self.due <= end:
            t, self.due = self.due, math.inf
            self.deliveries.append((t, self.level))
            self._change(t, self.quantity)

    def serve(self, t: float) -> None:
        if self.level < 1:
            self.lost.append(t)
        else:
            self._change(t, -1.0)

    def _change(self, t: float, pieces: float) -> None:
        self.level += pieces
        self.changes.append((t, self.level))
        self.order_if_low(t)


def _as_log(room: _StockRoom, days: int) -> ShopLog:
    ends = np.arange(days + 1.0)
    times, levels = np.array(room.changes).T
    stock = levels[np.searchsorted(times, ends, side="right") - 1]
    # For how long the shelf was empty up to each change, which grows linearly between changes.
    times = np.append(times, days)
    empty = np.append(0.0, np.cumsum((levels < 1) * np.diff(times)))
    orders, deliveries = (np.reshape(pairs, (-1, 2)).T for pairs in (room.orders, room.deliveries))
    lost = np.histogram(room.lost, ends)[0]
    columns = (*orders, *deliveries, stock, np.diff(np.interp(ends, times, empty)), lost)
    return ShopLog(*(jnp.asarray(column, float) for column in columns))
