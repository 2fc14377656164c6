"""torchdiffeq, where it and torch are installed: a batch is one system, with one step size."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.ensemble import Ensemble
from benchmarks.gpu.jobs import Outcome

Made = tuple[Callable[[], Outcome], tuple]


class _Counted:
    """A field that counts its evaluations."""

    def __init__(self, field: Callable) -> None:
        self.field, self.count = field, 0

    def __call__(self, t: Any, y: Any) -> Any:
        self.count += 1
        return self.field(t, y)

    def steps(self, method: str) -> float:
        """Of rk4, four evaluations each; of dopri5 six, and two to begin with."""
        return self.count / 4 if method == "rk4" else (self.count - 2) / 6


def lorenz(e: Ensemble) -> Made:
    """End states by dopri5, or by rk4 with a constant step."""
    import torch  # pyright: ignore[reportMissingImports]
    from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

    from benchmarks.gpu.sections.lorenz import BETA, SIGMA

    put = _putter(torch)
    rho, y0, ts = put(e.args), put(e.y0)[:, None].repeat(1, e.count), put([0.0, e.t1])
    method = "rk4" if e.fixed else "dopri5"
    options = {"step_size": e.dt} if e.fixed else {"first_step": e.dt, "dtype": torch.float32}
    how = {"rtol": e.rtol, "atol": e.atol, "method": method, "options": options}

    def field(t: Any, y: Any) -> Any:
        a, b, c = y
        return torch.stack([SIGMA * (b - a), a * (rho - c) - b, a * b - BETA * c])

    def run() -> Outcome:
        counted = _Counted(field)
        with torch.no_grad():
            found = odeint(counted, y0, ts, **how)
        _wait(torch)
        return Outcome(found[-1].T, counted.steps(method))

    return run, ()


def neural(e: Ensemble, gradient: bool) -> Made:
    """The network by dopri5: end states, or the loss and its gradient."""
    import torch  # pyright: ignore[reportMissingImports]
    from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

    put = _putter(torch)
    layers = [[put(x).requires_grad_(gradient) for x in pair] for pair in e.args]
    y0, ts = put(e.y0), put([0.0, e.t1])

    def field(t: Any, y: Any) -> Any:
        for i, (weight, bias) in enumerate(layers):
            y = torch.nn.functional.linear(torch.tanh(y) if i else y, weight, bias)
        return y

    def run() -> Outcome:
        counted = _Counted(field)
        with torch.set_grad_enabled(gradient):
            found = odeint(counted, y0, ts, rtol=e.rtol, atol=e.atol, method="dopri5")[-1]
            if gradient:
                loss = (found**2).mean()
                weights = [x for layer in layers for x in layer]
                found = loss.detach(), list(torch.autograd.grad(loss, weights))
        _wait(torch)
        return Outcome(found, counted.steps("dopri5"))

    return run, ()


def _putter(torch: Any) -> Callable[[Any], Any]:
    """What makes tensors in float32 on the GPU, if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return lambda x: torch.tensor(np.asarray(x, np.float32), device=device)


def _wait(torch: Any) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
