"""The status of a solution as a sentence."""

import jax
import jax.numpy as jnp

import jaxode as jo


def decay(t, y, rate):
    return -rate * y


def test_one_solve():
    assert jo.solve(decay, 1.0, (0.0, 1.0), 1.0).message == "the solve reached its last time"
    stopped = jo.solve(decay, 1.0, (0.0, 1.0), 1.0, max_steps=1, throw=False)
    assert stopped.message.startswith("max_steps was reached")
    assert 'solver="auto"' in stopped.message


def test_a_batch_says_how_many_failed_and_why_the_first_did():
    rates = jnp.array([1.0, 400.0, 1.0])
    options = {"in_axes": (None, None, 0), "throw": False, "max_steps": 32}
    sols = jo.solve_batch(decay, jnp.ones(2), (0.0, 1.0), rates, **options)
    assert sols.message.startswith("1 of 3 failed, the first number 1: max_steps was reached")
    sols = jo.solve_batch(decay, jnp.ones(2), (0.0, 1.0), rates * 0, **options)
    assert sols.message == "all 3 trajectories: the solve reached its last time"


def test_it_is_not_known_while_a_program_is_traced():
    messages = []

    def run(y0):
        messages.append(jo.solve(decay, y0, (0.0, 1.0), 1.0).message)
        return y0

    jax.eval_shape(run, 1.0)
    assert "once the compiled program has run" in messages[0]
