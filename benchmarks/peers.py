"""diffrax as its own FAQ advises: one outer jit, no runtime checks, its defaults elsewhere."""

from collections.abc import Callable
from typing import Any, cast

import diffrax
from jax import Array


def solve(
    f: Callable, y0: Array, ts: Array, args: Any, rtol: float, atol: float, *, ends: bool = False
) -> Array:
    """Tsit5 with the PID controller at its defaults, values at `ts` or the end alone."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(f),
        diffrax.Tsit5(),
        ts[0],
        ts[-1],
        None,
        y0,
        args,
        saveat=diffrax.SaveAt(t1=True) if ends else diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=4096,
    )
    return cast(Array, solution.ys)
