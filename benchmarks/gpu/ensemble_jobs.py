"""The jobs of an ensemble: by one kernel, by XLA, and by the installed peers."""

from collections.abc import Callable
from functools import partial
from importlib import util
from typing import Any

from benchmarks.gpu import flops
from benchmarks.gpu.ensemble import EndStates, GpuEnsemble, error, forward, gradient, jaxode_ends
from benchmarks.gpu.jobs import Job, Outcome

KERNEL, XLA, DIFFRAX, TORCH = "kernel", "XLA", "diffrax", "torchdiffeq"


def installed(name: str) -> bool:
    """True if the peer can be imported; torchdiffeq needs torch too."""
    return all(util.find_spec(n) for n in ((name, "torch") if name == TORCH else (name,)))


def ensemble_jobs(
    work: str,
    ensemble: GpuEnsemble,
    quantity: Callable = forward,
    methods: tuple[str, ...] = (KERNEL, XLA, DIFFRAX),
    **options: Any,
) -> list[Job]:
    """A job for each method; `quantity` is `forward` or `gradient`."""
    solves = flops.SOLVES_PER_GRADIENT if quantity is gradient else 1
    shapes = ensemble.trajectory_shapes
    operations = solves * flops.step_flops(ensemble.field, *shapes, ensemble.solver)
    return [
        Job(
            work, ensemble.count, method, partial(_make, ensemble, quantity, method),
            partial(error, ensemble, quantity), flops=operations, **options,
        )
        for method in methods
        if method != DIFFRAX or installed(DIFFRAX)
    ]  # fmt: skip


def torchdiffeq_jobs(
    work: str, ensemble: GpuEnsemble, quantity: Callable, make: Callable
) -> list[Job]:
    """A job by torchdiffeq, or none if that is not installed."""
    if not installed(TORCH):
        return []
    error_of_value = partial(error, ensemble, quantity)
    return [Job(work, ensemble.count, TORCH, make, error_of_value, eager=True)]


def _make(
    ensemble: GpuEnsemble, quantity: Callable[[EndStates], Callable[..., Outcome]], method: str
) -> tuple[Callable[..., Outcome], tuple]:
    """The function of a job and its inputs."""
    if method == DIFFRAX:
        from benchmarks.gpu.diffrax_peer import diffrax_ends

        ends = diffrax_ends(ensemble)
    else:
        ends = jaxode_ends(ensemble, kernel=method == KERNEL)
    return quantity(ends), ensemble.inputs
