"""Ensembles by torchdiffeq, which solves a batch as one system with one step size."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.ensemble import GpuEnsemble
from benchmarks.gpu.jobs import Outcome
from benchmarks.problems.lorenz import BETA, SIGMA

FunctionAndInputs = tuple[Callable[[], Outcome], tuple]


class _CountingField:
    """A vector field that counts its evaluations."""

    def __init__(self, field: Callable) -> None:
        self.field, self.count = field, 0

    def __call__(self, t: Any, y: Any) -> Any:
        self.count += 1
        return self.field(t, y)

    def steps(self, method: str) -> float:
        """The number of steps: rk4 has four evaluations in each, dopri5 six and two more."""
        return self.count / 4 if method == "rk4" else (self.count - 2) / 6


def torchdiffeq_lorenz(e: GpuEnsemble) -> FunctionAndInputs:
    """End states by dopri5, or by rk4 with a constant step."""
    import torch  # pyright: ignore[reportMissingImports]
    from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

    to_tensor = _tensor_maker(torch)
    rho, y0, ts = (
        to_tensor(e.args),
        to_tensor(e.y0)[:, None].repeat(1, e.count),
        to_tensor([0.0, e.t1]),
    )
    method = "rk4" if e.fixed else "dopri5"
    options = {"step_size": e.dt} if e.fixed else {"first_step": e.dt, "dtype": torch.float32}
    settings = {"rtol": e.rtol, "atol": e.atol, "method": method, "options": options}

    def field(t: Any, y: Any) -> Any:
        a, b, c = y
        return torch.stack([SIGMA * (b - a), a * (rho - c) - b, a * b - BETA * c])

    def solve() -> Outcome:
        counting_field = _CountingField(field)
        with torch.no_grad():
            ys = odeint(counting_field, y0, ts, **settings)
        _synchronise(torch)
        return Outcome(ys[-1].T, counting_field.steps(method))

    return solve, ()


def torchdiffeq_network(e: GpuEnsemble, gradient: bool) -> FunctionAndInputs:
    """The network by dopri5: end states, or the loss and its gradient."""
    import torch  # pyright: ignore[reportMissingImports]
    from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

    to_tensor = _tensor_maker(torch)
    layers = [[to_tensor(x).requires_grad_(gradient) for x in pair] for pair in e.args]
    y0, ts = to_tensor(e.y0), to_tensor([0.0, e.t1])

    def field(t: Any, y: Any) -> Any:
        for i, (weight, bias) in enumerate(layers):
            y = torch.nn.functional.linear(torch.tanh(y) if i else y, weight, bias)
        return y

    def solve() -> Outcome:
        counting_field = _CountingField(field)
        with torch.set_grad_enabled(gradient):
            value = odeint(counting_field, y0, ts, rtol=e.rtol, atol=e.atol, method="dopri5")[-1]
            if gradient:
                loss = (value**2).mean()
                weights = [x for layer in layers for x in layer]
                value = loss.detach(), list(torch.autograd.grad(loss, weights))
        _synchronise(torch)
        return Outcome(value, counting_field.steps("dopri5"))

    return solve, ()


def _tensor_maker(torch: Any) -> Callable[[Any], Any]:
    """A function that makes float32 tensors, on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return lambda x: torch.tensor(np.asarray(x, np.float32), device=device)


def _synchronise(torch: Any) -> None:
    """Wait until the GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
