"""Settings are chosen by validation, models have equal weights, and pages show every figure."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks.harness.selection import (
    best_settings,
    cosine_adam,
    grid,
    num_weights,
    settings_text,
    width_for,
)
from benchmarks.harness.trained import Asked, Result, TrainedModel, result_page


def layers(width):
    return eqx.nn.MLP(2, 2, width, 1, key=jax.random.key(0))


def test_the_settings_with_the_least_validation_error_are_chosen():
    errors = {(1, 3): math.nan, (1, 4): 2.0, (2, 3): 1.0, (2, 4): math.inf}
    candidates = grid(rate=(1, 2), width=(3, 4))
    assert [tuple(c.values()) for c in candidates] == list(errors)
    chosen = best_settings("model", candidates, lambda s: errors[s["rate"], s["width"]])
    assert chosen == {"rate": 2, "width": 3}
    assert settings_text(chosen) == "rate 2, width 3"


@pytest.mark.parametrize("weights", [100, 777, 5000])
def test_a_width_gives_the_number_of_weights_within_ten_per_cent(weights):
    assert abs(num_weights(layers(width_for(layers, weights))) - weights) <= 0.1 * weights


def test_a_number_of_weights_that_no_width_gives_is_refused():
    with pytest.raises(ValueError, match="no width gives 3 weights"):
        width_for(layers, 3)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_optimizer_of_the_results_is_that_of_optax(decay):
    steps, start = 5, jnp.array([1.0, -2.0])
    schedule = optax.cosine_decay_schedule(1e-2, steps)
    optimizers = cosine_adam(1e-2, steps, decay), optax.adamw(schedule, weight_decay=decay)
    ends = []
    for optimizer in optimizers:
        found, state = start, optimizer.init(start)
        for _ in range(steps):
            updates, state = optimizer.update(2 * found, state, found)
            found = jnp.asarray(optax.apply_updates(found, updates))
        ends.append(found)
    assert jnp.allclose(*ends, rtol=1e-6, atol=0)
    assert not jnp.allclose(ends[0], start, rtol=1e-3)


def test_a_page_shows_all_figures_and_whether_what_was_asked_is_met():
    rows = [
        TrainedModel("ours", 1234, {"error": [1.0, 2.0, 6.0]}, "rate 0.1"),
        TrainedModel("theirs", None, {"error": [math.inf]}),
    ]
    asked = [Asked("an error of 4", 3.0, True), Asked("an error of 2", 3.0, False)]
    result = Result("Title", {"error": ".2f"}, rows, {"solver": "tsit5"}, asked, ["A note."])
    origin = {"date": "today", "commit": "abc", "machine": "m", "versions": "v"}
    page = result_page("name", {**origin, **result.as_data()})
    for line in (
        "| ours | 1,234 | 3.00 (1.00 to 6.00) | 3 | rate 0.1 |",
        "| theirs |  | inf | 1 |  |",
        "| solver | tsit5 |",
        "| an error of 4 | 3 | met |",
        "| an error of 2 | 3 | missed |",
        "A note.",
        "`python -m benchmarks.accuracy name`, today, commit abc, on m; v.",
    ):
        assert line in page.split("\n")
