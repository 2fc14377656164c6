"""Systems that switch, against solutions put together from their pieces."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import expm

import jaxode as jo
from tests.support.sweeps import few


def root(function, low, high):
    """Where a falling function is zero, by bisection."""
    while (middle := 0.5 * (low + high)) not in (low, high):
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low


@pytest.mark.slow
@pytest.mark.parametrize("sensitivity", few(["discrete", "forward"], "discrete"))
def test_the_saltation_matrix(sensitivity):
    """Two linear fields that take turns on a plane: the derivative of the flow has a closed form.

    Source: M. di Bernardo et al., Piecewise-smooth Dynamical Systems (2008), 2.4.
    """
    before, after = jnp.array([[-0.1, 2.0], [-1.0, -0.2]]), jnp.array([[-0.5, 1.0], [-3.0, 0.1]])
    normal, end, start = jnp.array([1.0, 0.3]), 1.5, jnp.array([1.0, 0.5])
    kick = jnp.array([[0.9, 0.1], [0.0, 1.1]])

    def field(t, y, args):
        matrix = jnp.where(y[2] > 0, after, before)
        return jnp.append(matrix @ y[:2], 0.0)

    event = jo.Event(
        lambda t, y, args: normal @ y[:2] - 0.4,
        direction="down",
        apply=lambda t, y, args: jnp.append(kick @ y[:2], 1.0),
    )

    def flow(y):
        sol: Any = jo.solve(
            field, jnp.append(y, 0.0), (0.0, end), events=event, rtol=1e-11, atol=1e-12,
            solver="dopri8", sensitivity=sensitivity, max_steps=256,
        )  # fmt: skip
        return sol.y1[:2], sol.events

    jacobian = jax.jacfwd if sensitivity == "forward" else jax.jacrev
    got, met = jax.jit(jacobian(flow, has_aux=True))(start)
    assert met.count == 1
    crossing = lambda t: float(normal @ expm(before * t) @ start - 0.4)  # noqa: E731
    grid = np.linspace(0.0, end, 31)
    last = next(i for i, t in enumerate(grid) if crossing(t) < 0)
    time = root(crossing, grid[last - 1], grid[last])
    np.testing.assert_allclose(met.ts[0], time, rtol=1e-9)
    at = expm(before * time) @ start
    slope = before @ at
    jump = jnp.outer(after @ kick @ at - kick @ slope, normal) / (normal @ slope)
    expected = expm(after * (end - time)) @ (kick + jump) @ expm(before * time)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)


YEAR = 365.0
SHOP = {
    "reorder": jnp.array(60.0),
    "order": jnp.array(180.0),
    "lead": jnp.array(9.0),
    "demand": jnp.array(4.0),
}
NEVER = 1e6


def sold(t, p):
    """What is sold by day `t`, with a season."""
    wave = 2 * jnp.pi / YEAR
    return p["demand"] * (t + 0.5 * (1 - jnp.cos(wave * t)) / wave)


def selling(t, y, p):
    """Stock, and the day of the next delivery."""
    rate = p["demand"] * (1 + 0.5 * jnp.sin(2 * jnp.pi * t / YEAR))
    return jnp.stack([-rate, 0.0 * rate])


ORDER = jo.Event(
    lambda t, y, p: y[0] - p["reorder"],
    direction="down",
    apply=lambda t, y, p: jnp.stack([y[0], t + p["lead"]]),
)
DELIVERY = jo.Event(
    lambda t, y, p: t - y[1],
    direction="up",
    apply=lambda t, y, p: jnp.stack([y[0] + p["order"], NEVER + 0 * t]),
)


def shop(p, **options: Any) -> Any:
    return jo.solve(
        selling, jnp.array([150.0, NEVER]), (0.0, YEAR), p, events=[ORDER, DELIVERY],
        solver="vern7", rtol=1e-11, atol=1e-11, **options,
    )  # fmt: skip


def shop_by_pieces(p):
    """Days of orders, and the stock at the end of the year."""
    p = {name: float(value) for name, value in p.items()}
    days, delivered, day = [], 0.0, 0.0
    while True:
        goal = 150.0 + delivered - p["reorder"]
        left = lambda t: goal - float(sold(t, p))  # noqa: B023, E731
        if left(YEAR) > 0:
            break
        day = root(left, day, YEAR)
        days.append(day)
        if day + p["lead"] < YEAR:
            delivered += p["order"]
        else:
            break
    return days, 150.0 + delivered - float(sold(YEAR, p))


def test_a_year_of_a_shop_with_reorder_point_and_lead_time():
    sol = shop(SHOP)
    days, stock = shop_by_pieces(SHOP)
    orders = np.asarray(sol.events.ts)[np.asarray(sol.events.index) == 0]
    deliveries = np.asarray(sol.events.ts)[np.asarray(sol.events.index) == 1]
    assert len(days) == 8
    np.testing.assert_allclose(orders, days, rtol=0, atol=1e-8)
    np.testing.assert_allclose(deliveries, np.asarray(days) + 9.0, rtol=0, atol=1e-8)
    np.testing.assert_allclose(sol.y1[0], stock, rtol=0, atol=1e-8)


def test_an_order_soon_after_a_delivery_is_not_missed():
    """The stock rises above the reorder point, and falls below it within a quarter of a step."""
    rules = SHOP | {"reorder": jnp.array(50.0), "order": jnp.array(60.0)}
    sol: Any = jo.solve(
        selling, jnp.array([150.0, NEVER]), (0.0, 200.0), rules, events=[ORDER, DELIVERY],
        solver="rk4", controller=jo.Fixed(30.0),
    )  # fmt: skip
    orders, _, mask = sol.events.of(0)
    # Cycle by cycle: the stock at a delivery is the reorder point less the sales of the lead time.
    assert int(mask.sum()) == sum(1 for _ in orders_by_pieces(rules, 200.0))
    np.testing.assert_allclose(orders[mask], list(orders_by_pieces(rules, 200.0)), atol=0.05)


def orders_by_pieces(p, end):
    """The days of the orders of a shop, each with a solve by bisection."""
    delivered, day = 0.0, 0.0
    while True:
        goal = 150.0 + delivered - float(p["reorder"])
        left = lambda t: goal - float(sold(t, p))  # noqa: B023, E731
        if left(end) > 0:
            return
        day = root(left, day, end)
        yield day
        day, delivered = day + float(p["lead"]), delivered + float(p["order"])


@pytest.mark.slow
def test_the_shop_is_differentiated_by_its_rules():
    """Days of orders and least stocks, by the rules and the demand."""

    def seen(p):
        sol = shop(p, max_steps=512)
        which = sol.events.index
        days = jnp.where(which == 0, sol.events.ts, 0)
        stocks = jnp.where(which == 1, sol.events.ys[:, 0], 0)
        return days[:16], stocks[:16]

    def expected(p):
        sol = shop(jax.lax.stop_gradient(p))
        wave = 2 * jnp.pi / YEAR
        rate = lambda t: p["demand"] * (1 + 0.5 * jnp.sin(wave * t))  # noqa: E731
        days, stocks = [], []
        for j in range(16):
            before, t = j // 2, sol.events.ts[2 * (j // 2)]
            # One iteration of Newton's from the day itself has its derivative.
            t = t - (sold(t, p) - (150.0 + before * p["order"] - p["reorder"])) / rate(t)
            then = t + p["lead"]
            days.append(t if j % 2 == 0 else 0.0)
            stocks.append(150.0 + before * p["order"] - sold(then, p) if j % 2 else 0.0)
        return jnp.stack(days), jnp.stack(stocks)

    got, wanted = jax.jit(jax.jacrev(seen))(SHOP), jax.jit(jax.jacfwd(expected))(SHOP)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), got, wanted)


DOSES = 12.0 * np.arange(20)
PATIENT = {"absorb": jnp.array(0.8), "clear": jnp.array(0.15), "back": jnp.array(0.05)}
INFUSION = 1.5


def body(t, y, p):
    """Gut, blood and tissue; each dose is dissolved at a constant rate."""
    on = jnp.any((t >= DOSES) & (t < DOSES + INFUSION))
    flux, exchange = p["absorb"] * y[0], 0.3 * y[1] - p["back"] * y[2]
    gut = jnp.where(on, 100.0 / INFUSION, 0.0) - flux
    return jnp.stack([gut, flux - p["clear"] * y[1] - exchange, exchange])


def body_by_pieces(p):
    matrix = jnp.array(
        [
            [-p["absorb"], 0, 0, 1.0],
            [p["absorb"], -p["clear"] - 0.3, p["back"], 0],
            [0, 0.3, -p["back"], 0],
            [0, 0, 0, 0],
        ]
    )
    y = jnp.zeros(4)
    for _ in DOSES:
        y = expm(matrix * INFUSION) @ y.at[3].set(100.0 / INFUSION)
        y = expm(matrix * (12.0 - INFUSION)) @ y.at[3].set(0.0)
    return y[:3]


def test_twenty_doses_are_followed_with_a_third_of_the_steps():
    edges = np.concatenate([DOSES, DOSES + INFUSION])
    expected = body_by_pieces(PATIENT)
    options: dict[str, Any] = {"solver": "vern7", "rtol": 1e-10, "atol": 1e-9}
    options["max_steps"] = 20_000
    sol = jo.solve(body, jnp.zeros(3), (0.0, 240.0), PATIENT, jumps=edges, **options)
    # Without a short first step the first dose would be stepped over.
    plain = jo.solve(body, jnp.zeros(3), (0.0, 240.0), PATIENT, dt=0.1, **options)
    np.testing.assert_allclose(sol.y1, expected, rtol=1e-8)
    assert 3 * sol.stats.num_steps <= plain.stats.num_steps


# The period of y'' = (1 - y^2) y' - y. Source: P. Amore, High order analysis of the limit cycle of
# the van der Pol oscillator, J. Math. Phys. 59 (2018).
PERIOD = 6.6632868593231301896996820305


@pytest.mark.parametrize("solver", few(["vern7", "dopri8"], "vern7"))
def test_the_period_of_the_van_der_pol_oscillator(solver):
    section = jo.Event(lambda t, y, args: y[0], direction="up")
    field = lambda t, y, args: jnp.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])  # noqa: E731
    sol: Any = jo.solve(
        field, jnp.array([2.0, 0.0]), (0.0, 80.0), events=section, solver=solver,
        rtol=1e-12, atol=1e-12, max_steps=20_000,
    )  # fmt: skip
    count = int(sol.events.count)
    assert count == 12
    times = np.asarray(sol.events.ts[:count], dtype=np.float64)
    periods = times[1:] - times[:-1]
    np.testing.assert_allclose(periods[-4:], PERIOD, rtol=0, atol=1e-8)
