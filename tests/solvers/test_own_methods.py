"""Solvers and controllers from outside of the package: those of docs/own_methods.md."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

PAGE = Path(__file__).parents[2] / "docs" / "own_methods.md"
RATE = 1e4


@pytest.fixture(scope="module")
def page() -> dict:
    """The names that the code blocks of the page define, run in order."""
    blocks = PAGE.read_text().split("```python\n")[1:]
    names: dict = {}
    for block in blocks:
        exec(block.split("```")[0], names)
    return names


def driven(t, y, rate):
    return -rate * y + jnp.cos(t)


def driven_end(t, y0, rate):
    """The solution of `driven`."""
    steady = lambda t: (rate * jnp.cos(t) + jnp.sin(t)) / (1 + rate**2)  # noqa: E731
    return steady(t) + (y0 - steady(0.0)) * jnp.exp(-rate * t)


def solver_of(page):
    return page["ExponentialEuler"](rate=jnp.array(RATE))


@pytest.mark.parametrize(
    "sensitivity", ["discrete", jo.Continuous("interpolate", "rodas5p"), "forward"]
)
def test_a_solver_of_the_users_own_solves_and_differentiates(page, sensitivity):
    options = {"solver": solver_of(page), "rtol": 1e-2, "atol": 1e-9, "sensitivity": sensitivity}

    def end(rate):
        return jo.solve(driven, jnp.array(1.0), (0.0, 1.0), rate, **options).y1

    expected = float(driven_end(1.0, 1.0, RATE))
    assert end(RATE) == pytest.approx(expected, rel=3e-2)
    derivative = (jax.jacfwd if sensitivity == "forward" else jax.grad)(end)(RATE)
    expected = jax.grad(lambda k: driven_end(1.0, 1.0, k))(RATE)
    assert derivative == pytest.approx(float(expected), rel=5e-2)
    assert jo.solve(driven, 1.0, (0.0, 1.0), RATE, **options).stats.num_steps < 400


def test_its_order_is_one(page):
    def error(n):
        options = {"solver": solver_of(page), "controller": jo.Fixed(1 / n), "max_steps": 4096}
        return abs(
            jo.solve(driven, 1.0, (0.0, 1.0), RATE, **options).y1 - driven_end(1.0, 1.0, RATE)
        )

    assert np.log2(error(64) / error(128)) == pytest.approx(1.0, abs=0.1)


def test_a_batch_of_its_solves_and_events(page):
    starts, event = jnp.array([[1.0], [2.0]]), jo.Event(lambda t, y: y[0] - 5e-5, terminal=True)
    options = {"solver": solver_of(page), "rtol": 1e-2, "atol": 1e-10, "events": event}
    sols = jo.solve_batch(driven, starts, (0.0, 2.0), RATE, **options)
    one = jo.solve(driven, starts[1], (0.0, 2.0), RATE, **options)
    # The condition is met where cos t / rate is 5e-5, at 60 degrees.
    np.testing.assert_allclose(sols.stats.t_reached, np.pi / 3, rtol=1e-2)
    np.testing.assert_allclose(sols.y1[1], one.y1, rtol=1e-9)


def test_a_controller_of_the_users_own(page):
    sol = page["sol"]
    controller = page["Halving"]()
    sol = jo.solve(lambda t, y: -y, 1.0, (0.0, 1.0), controller=controller, save="steps")
    sizes = np.diff(np.asarray(sol.ts)[: int(sol.stats.num_accepted) + 1])[:-1]
    assert np.all(np.log2(sizes) % 1 == 0)
    assert sol.y1 == pytest.approx(np.exp(-1), rel=1e-4)
    rows = jo.solve_batch(lambda t, y: -y, jnp.ones((3, 1)), (0.0, 1.0), controller=controller)
    np.testing.assert_allclose(rows.y1, np.exp(-1), rtol=1e-4)


def test_the_documented_norm_leaves_the_velocity_out(page):
    sol = page["sol"]
    assert sol.y1["q"][0] == pytest.approx(np.cos(6.0), abs=1e-3)


@pytest.mark.parametrize("wrong", [jo.Controller, "pid", 3])
def test_what_is_no_controller_is_refused(wrong):
    with pytest.raises(jo.OptionError, match=r"derived from jo\.Controller"):
        jo.solve(lambda t, y: -y, 1.0, (0.0, 1.0), controller=wrong)


def test_the_parts_of_a_step_have_the_documented_fields():
    assert {"h", "error_squared", "error_exponent"} <= set(jo.AttemptedStep._fields)
    assert jo.Decision._fields == ("accept", "h", "controller_state")
    assert jo.EvaluationCounts(0, 2, 0).step == 2
    assert jo.StepResult._fields[:4] == ("y1", "error", "dense", "solver_state")
    assert issubclass(jo.Tsit5, jo.Solver)
