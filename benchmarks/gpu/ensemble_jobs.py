"""The jobs of an ensemble: by a kernel, by XLA, and by the peers that are installed."""

from collections.abc import Callable
from functools import partial
from importlib import util
from typing import Any

from benchmarks.gpu import flops
from benchmarks.gpu.ensemble import Ends, Ensemble, by_jaxode, error, forward, gradient
from benchmarks.gpu.jobs import Job, Outcome

KERNEL, XLA, DIFFRAX, TORCH = "kernel", "XLA", "diffrax", "torchdiffeq"


def installed(name: str) -> bool:
    """Whether there is such a peer; torchdiffeq does not exist without torch."""
    return all(util.find_spec(n) for n in ((name, "torch") if name == TORCH else (name,)))


def jobs(
    work: str,
    ensemble: Ensemble,
    what: Callable = forward,
    by: tuple[str, ...] = (KERNEL, XLA, DIFFRAX),
    **more: Any,
) -> list[Job]:
    """One for each way; `what` is `forward` or `gradient`."""
    passes = flops.GRADIENT if what is gradient else 1
    operations = passes * flops.of_step(ensemble.field, *ensemble.one, ensemble.solver)
    found: list[Job] = []
    for name in by:
        if name == DIFFRAX and not installed(DIFFRAX):
            continue
        make = partial(_made, ensemble, what, name)
        judge = partial(error, ensemble, what)
        found.append(Job(work, ensemble.count, name, make, judge, flops=operations, **more))
    return found


def torch_job(work: str, ensemble: Ensemble, what: Callable, make: Callable) -> list[Job]:
    """By torchdiffeq, where it is installed."""
    if not installed(TORCH):
        return []
    judge = partial(error, ensemble, what)
    return [Job(work, ensemble.count, TORCH, make, judge, eager=True)]


def _made(
    ensemble: Ensemble, what: Callable[[Ends], Callable[..., Outcome]], by: str
) -> tuple[Callable[..., Outcome], tuple]:
    if by == DIFFRAX:
        from benchmarks.gpu.diffrax_peer import by_diffrax

        ends = by_diffrax(ensemble)
    else:
        ends = by_jaxode(ensemble, by == KERNEL)
    return what(ends), ensemble.inputs
