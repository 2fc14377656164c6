"""A damped pendulum: fields with an energy beside a plain network, extrapolated in time."""

from benchmarks.accuracy.pendulums import pendulum_result
from benchmarks.harness.trained import Result

FLOAT64 = True


def measure(seeds: int, effort: float) -> Result:
    """Every field with each seed."""
    return pendulum_result("damped", seeds, effort)
