"""Temporary memory of the gradient for 100 and for 10,000 steps, with 20,000 unknowns."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.side_by_side import IN_ROW, NOT_USED, beside_diffrax

TITLE = "Temporary memory of the gradient, 10,000 steps against 100 (MiB)"
SETTINGS = beside_diffrax(
    rtol=NOT_USED,
    atol=NOT_USED,
    solver=("Tsit5; Reversible(): ReversibleRK(Tsit5())", NOT_USED),
    first_step="1/10,000 or 1/100",
    controller="fixed steps",
    adjoint=IN_ROW,
    max_steps="10,000 or 100",
    columns=("10,000 steps", "100 steps, jaxode too"),
)
CONSTANT_MEMORY: dict[str, Any] = {
    "Discrete(memory=32)": jo.Discrete(memory=32),
    "Continuous()": jo.Continuous(),
    'Continuous("backsolve")': jo.Continuous("backsolve"),
    "Reversible()": jo.Reversible(),
}
Y0 = jnp.linspace(0.0, 1.0, 20_000)


def field(t: Array, y: Array, rate: Array) -> Array:
    """A vector field whose components do not interact."""
    return -rate * jnp.sin(y)


def temporary_memory(sensitivity: Any, steps: int) -> float:
    """The temporary memory in MiB that XLA allocates for the compiled value and gradient."""

    def loss(rate: Array) -> Array:
        reversible = isinstance(sensitivity, jo.Reversible)
        solution = jo.solve(
            field,
            Y0,
            (0.0, 1.0),
            rate,
            solver=jo.ReversibleRK(jo.Tsit5(), None) if reversible else "tsit5",
            controller=jo.Fixed(1.0 / steps),
            max_steps=steps,
            sensitivity=sensitivity,
        )
        return jnp.sum(solution.y1)

    compiled = jax.jit(jax.value_and_grad(loss)).lower(jnp.ones(())).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes / 2**20


def rows() -> list[Comparison]:
    found = []
    for name, sensitivity in CONSTANT_MEMORY.items():
        few, many = (temporary_memory(sensitivity, steps) for steps in (100, 10_000))
        note = f"{100 * (many / few - 1):+.1f}% (columns: 10,000 steps, 100 steps)"
        found.append(Comparison(name, many, few, "1 within 5%", note=note))
    return found
