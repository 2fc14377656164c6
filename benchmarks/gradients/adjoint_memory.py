"""Temporary memory of the gradient for 100 and 10,000 steps, a state of 20,000 numbers."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.timing import Row

TITLE = "Temporary memory of the gradient, 10,000 steps against 100 (MiB)"
FLAT: dict[str, Any] = {
    "Discrete(memory=32)": jo.Discrete(memory=32),
    "Continuous()": jo.Continuous(),
    'Continuous("backsolve")': jo.Continuous("backsolve"),
    "Reversible()": jo.Reversible(),
}
Y0 = jnp.linspace(0.0, 1.0, 20_000)


def field(t: Array, y: Array, rate: Array) -> Array:
    return -rate * jnp.sin(y)


def temporary(sensitivity: Any, steps: int) -> float:
    """MiB that XLA sets aside for the compiled value and gradient."""

    def loss(rate: Array) -> Array:
        solution = jo.solve(
            field,
            Y0,
            (0.0, 1.0),
            rate,
            controller=jo.Fixed(1.0 / steps),
            max_steps=steps,
            sensitivity=sensitivity,
        )
        return jnp.sum(solution.y1)

    compiled = jax.jit(jax.value_and_grad(loss)).lower(jnp.ones(())).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes / 2**20


def rows() -> list[Row]:
    found = []
    for name, how in FLAT.items():
        few, many = temporary(how, 100), temporary(how, 10_000)
        note = f"{100 * (many / few - 1):+.1f}% (columns: 10,000 steps, 100 steps)"
        found.append(Row(name, many, few, "1 within 5%", note=note))
    return found
